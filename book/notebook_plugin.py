"""Pytest plugin that lets nbval and pytest-cov run together.

Under pytest-cov, nbval measures coverage inside each notebook's kernel too, and fails where a kernel gives no data.
Here coverage is that of the tests: a line that only a notebook reaches is not tested.
"""

from __future__ import annotations

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    # By now pytest-cov has read the option and started; nbval reads it when a kernel starts.
    session.config.option.cov_source = None
