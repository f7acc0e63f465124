"""The suite's own mistakes-of-the-user; all print as one message and exit with 2."""

from __future__ import annotations

from attacks.errors import RobustError, unknown


class DataError(RobustError):
    """Recordings or data sets that cannot be read as asked."""


class VictimError(RobustError):
    """A model that cannot be loaded, or that cannot be attacked honestly."""


class CheckpointError(VictimError):
    """Weights that cannot be read, are unsafe to read, or belong to another architecture."""


class StoreError(RobustError):
    """A run folder that cannot be written, read or resumed."""


__all__ = ["CheckpointError", "DataError", "RobustError", "StoreError", "VictimError", "unknown"]
