"""Where the real recordings are, for every test marked `data`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Real recordings may go beyond [-1, 1]; that their reader says so is no failure of the code.
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.filterwarnings("default::robust.data.RangeWarning"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds `fsdd/` and `esc10/`; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ROBUST_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set ROBUST_TEST_DATA to the folder that holds fsdd/ and esc10/")
    return folder
