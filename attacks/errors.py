"""Errors that a user can mend: what was given, what is allowed, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobustError(Exception):
    """A mistake of the user's; the command line prints it without a traceback and exits with 2."""


class ThreatModelError(RobustError, ValueError):
    """A budget, norm, unit or bound that cannot hold."""


def unknown(kind: str, given: object, allowed: Iterable[str]) -> str:
    """Returns a message for a name that is not among those allowed, with the nearest one offered."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {given!r}.{hint} Allowed: {', '.join(names)}."
