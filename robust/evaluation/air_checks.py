"""Is a number over the air believable? Checks of methods.md 9.2 that apply to attacks in expectation.

The names are those of `robust.evaluation.checks`; what is asked is asked through a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attacks.channel import Channel, Parameters
from attacks.gradients import frozen
from robust.channels.condition import heard_through
from robust.evaluation import checks
from robust.evaluation.air import OverTheAir
from robust.evaluation.air_summary import success_by_clip
from robust.evaluation.checks import Check, Subject
from robust.evaluation.engine import AlignedData
from robust.evaluation.progress import track
from robust.types import Batch, Inputs, VictimSpec
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

CHECKED_CLIPS = 16
NOISY = 2.0
"""Standard error of a gradient over its length from which more draws are advised."""


def air_checks(
    victim: Victim,
    data: AlignedData,
    condition: OverTheAir,
    records: pd.DataFrame,
    scores: dict[str, Any],
    seed: int,
) -> list[Check]:
    """All checks, in the order of their numbers; `scores` are those of `air_scores`."""
    subject = _subject(victim, data, condition, records, seed)
    on_clips: Sequence[Callable[[], Check]] = (
        lambda: _gradients(subject, condition),
        lambda: checks.deterministic(subject),
        lambda: checks.logits(subject),
        lambda: checks.evaluation_mode(subject),
    )
    with frozen(victim):
        found = [check() for check in track(on_clips, "Checks")]
    found += [
        _stronger(scores, records),
        _random_noise(scores),
        checks.audited(records),
        _converged(records, condition),
        _labels(scores),
        _unseen(records),
        _noise(records, condition),
    ]
    return sorted(found, key=lambda check: int(check.name.split()[0][1:]))


def _gradients(subject: Subject, condition: OverTheAir) -> Check:
    """S8 through one draw of the training channel."""
    if condition.train.gradient != "exact":
        return Check("S8 gradients", "skipped", "the channel's gradient is straight-through, which no difference shows")
    clips = subject.batch.inputs[condition.modality]
    drawn = condition.situation("train_rooms", 0, clips, subject.seed)
    valid = subject.batch.valid[condition.modality].expand_as(clips)
    heard = _Heard(subject.victim, condition.modality, condition.train, drawn, valid)
    return checks.gradients(
        Subject(heard, subject.attack, subject.batch, subject.clean, subject.standing, subject.seed)
    )


def _stronger(scores: dict[str, Any], records: pd.DataFrame) -> Check:
    """S2: EOT is no weaker where it was made for than an attack made for no channel, but for chance."""
    eot, plain = (scores[version]["train_rooms"]["success"]["score"] for version in ("eot", "plain"))
    if eot is None or plain is None:
        return Check("S2 monotone", "skipped", "no clip stands in any room, attacked or not")
    error = _gap(records, ("plain", "train_rooms"), ("eot", "train_rooms"))[1]
    verdict: checks.Verdict = "pass" if eot >= plain else "warn" if plain - eot <= 2 * error else "fail"
    told = f"in training rooms EOT succeeds on {100 * eot:.1f} %, the plain attack on {100 * plain:.1f} %"
    return Check("S2 monotone", verdict, f"{told} (standard error of clips {100 * error:.1f})")


def _gap(records: pd.DataFrame, first: tuple[str, str], second: tuple[str, str]) -> tuple[float, float]:
    """Success of the first (version, place) over the second, and its standard error over clips; infinite for one."""
    gaps = success_by_clip(records, *first) - success_by_clip(records, *second)
    return float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else float("inf")


def _random_noise(scores: dict[str, Any]) -> Check:
    """S7: noise of the same size is weaker than either attack, in the same situations."""
    noise = scores["controls"]["random"]["held_out_rooms"]["success"]["score"]
    worst = min(
        (scores[version]["held_out_rooms"]["success"]["score"] or 0.0 for version in ("eot", "plain")), default=0.0
    )
    if noise is None:
        return Check("S7 random noise", "skipped", "no clip stands in any room, attacked or not")
    told = f"noise of the attack's size succeeds on {100 * noise:.1f} %, the weaker attack on {100 * worst:.1f} %"
    return Check("S7 random noise", "pass" if noise <= worst else "fail", told)


def _converged(records: pd.DataFrame, condition: OverTheAir) -> Check:
    """S13 by steps alone: an expected loss is too noisy to read the end of a rise from it."""
    steps = condition.attack.config.steps
    verdict: checks.Verdict = "pass" if steps >= 40 else "warn"
    return Check("S13 converged", verdict, f"{steps} steps with {condition.draws} draws each; try more if it is few")


def _labels(scores: dict[str, Any]) -> Check:
    """S16: success is counted where the unperturbed clip stands, and there are such pairs."""
    pairs = scores["eot"]["held_out_rooms"]["pairs"]
    standing = scores["controls"]["unperturbed"]["held_out_rooms"]["standing"]["score"]
    told = f"unperturbed, {100 * standing:.1f} % stand in held-out rooms; success is counted on those {pairs} pairs"
    return Check("S16 labels", "pass" if standing >= 0.5 else "warn", told)


def _unseen(records: pd.DataFrame) -> Check:
    """S17, ours: success in held-out rooms is that in training rooms, beyond two standard errors of the clips."""
    gap, error = _gap(records, ("eot", "train_rooms"), ("eot", "held_out_rooms"))
    told = f"training rooms {100 * gap:+.1f} points above held-out ones (standard error of clips {100 * error:.1f})"
    return Check("S17 unseen rooms", "warn" if gap > max(2 * error, 0.05) else "pass", told)


def _noise(records: pd.DataFrame, condition: OverTheAir) -> Check:
    """S18, ours: the estimate of the gradient is not all noise."""
    if condition.draws < 2:
        return Check("S18 gradient noise", "skipped", "one draw a step tells nothing of its spread")
    noise = float(records["gradient_noise"].median())
    told = f"median standard error of a gradient over its length {noise:.2f} with {condition.draws} draws"
    return Check("S18 gradient noise", "pass" if noise < NOISY else "warn", told)


def _subject(victim: Victim, data: AlignedData, condition: OverTheAir, records: pd.DataFrame, seed: int) -> Subject:
    few = records.head(CHECKED_CLIPS)
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    batch = data.batch(few["index"].tolist()).to(device)
    labels = torch.as_tensor(np.stack(few["label"].tolist()), device=device).to(batch.labels.dtype)
    batch = Batch(batch.ids, batch.inputs, labels, batch.valid)
    clean = torch.as_tensor(np.stack(few["clean_logits"].tolist()), device=device).float()
    standing = torch.tensor(few["eot_no_channel"].tolist(), device=device)
    return Subject(victim, condition.attack, batch, clean, standing, seed)


class _Heard(Victim):
    """A victim behind one draw of a channel."""

    def __init__(self, victim: Victim, modality: str, channel: Channel, drawn: Parameters, valid: Tensor) -> None:
        spec: VictimSpec = victim.spec
        super().__init__(spec)
        self.victim, self.modality, self.channel, self.drawn, self.valid = victim, modality, channel, drawn, valid

    def forward(self, inputs: Inputs) -> Tensor:
        clips = inputs[self.modality]
        rows = torch.arange(len(clips), device=clips.device).clamp_max(len(self.valid) - 1)  # lanes repeat the last
        drawn = {name: value[rows] for name, value in self.drawn.items()}
        valid = self.valid[rows]
        logits: Tensor = self.victim({**inputs, self.modality: heard_through(self.channel, clips, drawn, valid)})
        return logits
