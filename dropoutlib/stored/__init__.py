"""Results of slow experiments, stored with the digest of the code that made them; the scripts are in `studies/`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def load(name: str) -> dict[str, Any]:
    """Return the stored results of a study.

    Parameters
    ----------
    name : str
        The study's name, such as "learning_rate".

    Raises
    ------
    ValueError
        If there is no such study.
    """
    folder = files(__name__)
    known = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in known:
        raise ValueError(f"no stored study {name!r}; known are {', '.join(known)}")
    results: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return results
