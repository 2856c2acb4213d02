"""The adapters' tests with the versions of the packages that Google Colab has, without PyTorch, on its Python."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.environments import COLAB_PACKAGES, COLAB_PYTHON, ROOT, interpreter, kept, over, run

VERSIONS = {"numpy": "2.1.3", "tensorflow": "2.20.0", "keras": "3.13.2", "jax": "0.7.2", "flax": "0.11.2"}


@pytest.mark.long
def test_the_adapters_with_the_versions_of_colab(tmp_path: Path) -> None:
    python = over(tmp_path, kept("colab", interpreter(COLAB_PYTHON), "-r", COLAB_PACKAGES))
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"pytest=={pytest.__version__}")
    show = f"import {', '.join(VERSIONS)}; print({', '.join(f'{name}.__version__' for name in VERSIONS)})"
    assert run(python, "-c", show, TF_CPP_MIN_LOG_LEVEL="3").split() == list(VERSIONS.values())
    settings, results = tmp_path / "pytest.ini", tmp_path / "results.xml"
    settings.write_text("[pytest]\n")
    run(
        *(python, "-P", "-m", "pytest", "-q", "-c", settings, "--noconftest", "-p", "no:cacheprovider"),
        *(f"--junitxml={results}", ROOT / "tests" / "frameworks" / "test_adapters.py"),
        cwd=ROOT,
        PYTHONPATH=str(ROOT),
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    skipped = {case.get("name", "") for case in cases if case.find("skipped") is not None}
    for framework in ("keras", "flax", "linen"):
        own = {case.get("name", "") for case in cases if re.search(rf"[\[-]{framework}\b", case.get("name", ""))}
        assert len(own - skipped) > 40, framework
    reasons = {skip.get("message") for case in cases for skip in case.iter("skipped")}
    assert reasons == {"torch is not installed", "a Keras layer has no mode"}
    assert not [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
