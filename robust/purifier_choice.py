"""How much to purify: n* by a validation curve, `robust.choose_steps(victim, validation, source="mel", eps=0.002)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attacks.errors import ThreatModelError
from robust.evaluation.progress import track
from robust.evaluation.transfer_memory import TransferMemory
from robust.purified_attack import attack_purified
from robust.types import Dataset
from robust.victims.base import Victim

CANDIDATES = (1, 2, 3, 5, 7, 10)
"""AudioPure's."""
CLIPS = 32
_AUTO = re.compile(r"(?P<source>.+):auto(?P<method>:[a-z-]+)?")


@dataclass(frozen=True)
class Choice:
    """What validation clips say of each n*.

    Attributes:
        purifier: The chosen one, as `--purify` takes it.
        steps: Its n*.
        table: One entry for each candidate: `steps`, `clean` and `robust` (scores), `label`.
    """

    purifier: str
    steps: int
    table: list[dict[str, Any]]


def automatic(purifier: str) -> tuple[str, str] | None:
    """Source and method of a purifier written with `auto` for n*, as `waveform:auto`; None of any other."""
    found = _AUTO.fullmatch(purifier)
    return None if found is None else (found["source"], found["method"] or "")


def choose_steps(
    victim: Victim,
    validation: Dataset,
    *,
    source: str = "waveform",
    method: str = "",
    candidates: Sequence[int] = CANDIDATES,
    attacks: Sequence[str] = ("transfer", "bpda"),
    **settings: Any,
) -> Choice:
    """The n* under which most validation clips stand an attack; the smaller one where two are alike.

    The best n* grows with the radius (methods.md 5.4), so it is chosen for the radius asked about, and on clips that
    no score is told of.

    Args:
        victim: The bare victim.
        validation: Clips that are not those of the evaluation.
        source: `waveform`, `mel` or a checkpoint.
        method: Way back, with its colon: `:ddim`, `:one-shot`, or nothing for DDPM.
        candidates: Values of n*.
        attacks: What they are judged by; the more the dearer.
        **settings: Further arguments of `robust.attack_purified`, e.g. `eps=0.002`.

    Raises:
        RobustError: For anything the caller can mend.
    """
    if not candidates:
        raise ThreatModelError("Give one candidate for n* or more.")
    memory: TransferMemory = {}
    table = []
    for steps in track(list(candidates), "Choosing n* on validation clips"):
        run = attack_purified(
            victim,
            validation,
            purifier=f"{source}:{steps}{method}",
            attacks=attacks,
            checks=False,
            transfers=memory,
            **settings,
        )
        table.append(
            {"steps": steps, "clean": run.clean.score, "robust": run.robust.score, "label": run.summary["label"]}
        )
    best = max(table, key=lambda row: (row["robust"], -row["steps"]))
    return Choice(f"{source}:{best['steps']}{method}", best["steps"], table)


__all__ = ["CANDIDATES", "CLIPS", "Choice", "automatic", "choose_steps"]
