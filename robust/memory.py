"""Freed memory stays with the process: a step of an attack asks for the same buffers again and again.

By default glibc gives large buffers back to the system at once, and every step faults them in anew: twice the faults
of the bare victim, and a quarter of the time on the machine where it was measured (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""mallopt's names (malloc.h)."""


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, for the whole process; says whether it could be told.

    The command line calls it at its start. It changes no result, only what the process holds between steps.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    most = 2**31 - 1
    return bool(mallopt(TRIM_THRESHOLD, most)) and bool(mallopt(MMAP_THRESHOLD, most))
