"""Dividing recordings into train, validation and test so that takes of one source never part."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from robust.data.recordings import Recording

GroupOf = Callable[[Recording], str]
"""Names the source of a recording; recordings of one source stay together."""


def hash_int(seed: int, *names: str) -> int:
    """A 64-bit number drawn from a seed and names; the same on every machine, whatever else the set holds."""
    content = os.fsencode("\0".join((str(seed), *names)))
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def hash_fold(group: str, *, folds: int, seed: int) -> int:
    """The fold, 1 to `folds`, of a source."""
    return 1 + hash_int(seed, "fold", group) % folds


def hold_out(
    recordings: Sequence[Recording], group_of: GroupOf, *, share: float, seed: int
) -> tuple[list[Recording], list[Recording]]:
    """Holds out about `share` of every class, whole sources at a time.

    Sources are taken in hashed order while a class of theirs has less than its share (one at least), and left where
    that would take the last of a class. A class of one source therefore holds nothing out.

    Args:
        recordings: What there is.
        group_of: Names the source of a recording.
        share: In (0, 1).
        seed: Chooses the order.

    Returns:
        The rest and the held out, each in the order given.
    """
    present = Counter(recording.label for recording in recordings)
    sources: dict[str, Counter[int]] = defaultdict(Counter)
    for recording in recordings:
        sources[group_of(recording)][recording.label] += 1
    held: Counter[int] = Counter()
    chosen: set[str] = set()
    for group in sorted(sources, key=lambda name: hash_int(seed, "hold out", name)):
        takes = sources[group]
        wanted = any(held[label] < max(1, round(share * present[label])) for label in takes)
        if wanted and all(held[label] + count < present[label] for label, count in takes.items()):
            held += takes
            chosen.add(group)
    rest = [recording for recording in recordings if group_of(recording) not in chosen]
    return rest, [recording for recording in recordings if group_of(recording) in chosen]
