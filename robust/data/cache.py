"""Where generated data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The folder of the suite's caches, not created here: $ROBUST_CACHE, or the platform's cache folder of the user."""
    given = os.environ.get("ROBUST_CACHE")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("robust"))
