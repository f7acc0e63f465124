"""What a worker remembers from cell to cell: attacks on a bare victim, met again by the next purifier before it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

from attacks.weights import weights_hash
from robust.evaluation.transfer_memory import TransferMemory
from robust.study.conditions import PurifyKind
from robust.types import Dataset
from robust.victims import Victim

KEPT = 4
DEFENSE = frozenset({"purifier", "eps", "attacks", "draws", "queries", "sure", "cascade", "checks"})
"""Settings that the attack on the bare victim does not depend on; it is kept by radius."""


def transfers(victim: Victim, data: Dataset, asked: PurifyKind, seed: int) -> Mapping[float, TransferMemory]:
    """Radius -> what the transfer attack of such a cell has found so far in this process."""
    own = asked.model_dump(mode="json", exclude=set(DEFENSE))
    return _kept(json.dumps([weights_hash(victim), data.fingerprint(), own, seed], sort_keys=True))


@lru_cache(maxsize=KEPT)
def _kept(key: str) -> defaultdict[float, TransferMemory]:
    return defaultdict(dict)


__all__ = ["transfers"]
