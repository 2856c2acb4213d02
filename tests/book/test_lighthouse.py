"""Lighthouse on the landing page and the heaviest chapter, as a telephone on a slow network loads them.

The network and the slow processor are simulated from what this machine took, so the score of performance is the
machine's as well as the page's: it is printed, as the median of five runs, and like all that is timed decides no test.
"""

import functools
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from book.notebooks import ROOT
from tests.book.building import CHROMIUM_OPTIONS, chromium, chromium_program, program, served
from tests.book.conftest import DOCUMENTS
from tests.book.test_browser import CompressingHandler, Site, Visit

SOURCE = Path(__file__).with_name("lighthouse")
INSTALLED = ROOT / "_build" / "lighthouse"
FULL = ("accessibility", "best-practices", "seo")
RUNS = 5
Report = dict[str, Any]


class HostHandler(CompressingHandler):
    """Answers as hosts of static pages do: connections stay open, and what was sent may be kept."""

    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()


@pytest.fixture(scope="module")
def origin(built: Path) -> Iterator[str]:
    with served(built, handler=HostHandler) as address:
        yield address


@pytest.fixture(scope="module")
def lighthouse() -> list[str]:
    """Install Lighthouse once for each list of its packages, and return the command that runs it."""
    node, npm = (program(name, mend="on Debian: apt-get install nodejs npm") for name in ("node", "npm"))
    lock = (SOURCE / "package-lock.json").read_bytes()
    mark = INSTALLED / "installed.json"
    if not mark.is_file() or mark.read_bytes() != lock:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        shutil.copytree(SOURCE, INSTALLED)
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        mark.write_bytes(lock)
    return [node, str(INSTALLED / "node_modules" / "lighthouse" / "cli" / "index.js")]


@pytest.fixture(scope="module")
def heaviest(origin: str) -> str:
    """The chapter that sends most on a first visit."""
    weights = {}
    with sync_playwright() as playwright:
        site = Site(chromium(playwright), origin)
        for name in DOCUMENTS:
            if name.startswith("chapters/"):
                visit = Visit()
                with site.open(name, visit=visit) as page:
                    visit.settle(page)
                    weights[name] = visit.bytes
        site.browser.close()
    return max(weights, key=lambda name: weights[name])


def audit(command: list[str], address: str, *categories: str) -> Report:
    """Run Lighthouse once, with its own settings for a telephone."""
    chrome = " ".join(("--headless=new", *CHROMIUM_OPTIONS))
    options = [f"--only-categories={','.join(categories)}", f"--chrome-flags={chrome}", "--no-enable-error-reporting"]
    options += ["--output=json", "--quiet", "--disable-full-page-screenshot"]
    done = subprocess.run(
        [*command, address, *options],
        env=os.environ | {"CHROME_PATH": chromium_program()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout)
    assert "runtimeError" not in report, report["runtimeError"]
    return report


def score(report: Report, category: str) -> float:
    return round(100 * report["categories"][category]["score"])


def failed(report: Report, category: str) -> list[tuple[str, object]]:
    """Return the audits that cost a category points, with what they name."""
    found = [report["audits"][item["id"]] for item in report["categories"][category]["auditRefs"] if item["weight"]]
    return [
        (item["id"], item.get("details", {}).get("items", item.get("displayValue")))
        for item in found
        if item["score"] is not None and item["score"] < 1
    ]


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize("which", ["index", "heaviest chapter"])
def test_lighthouse_finds_nothing_to_mend(
    lighthouse: list[str],
    origin: str,
    heaviest: str,
    which: str,
    record_property: Callable[[str, object], None],
) -> None:
    name = heaviest if which == "heaviest chapter" else which
    run = functools.partial(audit, lighthouse, f"{origin}/{name}.html")
    whole = run("performance", *FULL)
    reports = [whole] + [run("performance") for _ in range(RUNS - 1)]
    median = statistics.median(score(report, "performance") for report in reports)
    paint = statistics.median(report["audits"]["largest-contentful-paint"]["numericValue"] for report in reports)
    scores = " ".join(f"{score(report, 'performance'):.0f}" for report in reports)
    record_property(
        "page lighthouse",
        f"{name:32} performance {median:.0f} ({scores}), largest contentful paint {paint / 1000:.1f} s, "
        + ", ".join(f"{category} {score(whole, category):.0f}" for category in FULL),
    )
    assert {category: failed(whole, category) for category in FULL} == {category: [] for category in FULL}
    assert [score(whole, category) for category in FULL] == [100] * len(FULL)


def test_what_lighthouse_needs_is_pinned_and_names_no_registry() -> None:
    wanted = json.loads((SOURCE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    packages = json.loads((SOURCE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert packages["node_modules/lighthouse"]["engines"]["node"] == ">=18.16"
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []
