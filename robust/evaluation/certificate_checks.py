"""Is a certificate believable? Checks of methods.md 9.2 that apply to smoothing, and three of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attacks.gradients import Oracle, frozen
from attacks.pgd import PGD
from attacks.threat import Ball
from robust.evaluation import checks
from robust.evaluation.certificate_summary import certified_at, stands_at
from robust.evaluation.certificates import Certified
from robust.evaluation.checks import Check, Subject, Verdict
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.evaluation.one_draw import OneDraw
from robust.evaluation.progress import track
from robust.seeds import generators_for
from robust.types import Batch

if TYPE_CHECKING:
    import pandas as pd

CHECKED_CLIPS = 8


def certificate_checks(
    data: AlignedData, condition: Certified, records: pd.DataFrame, scores: dict[str, Any], seed: int
) -> list[Check]:
    """All checks, in the order of their numbers."""
    with frozen(condition.base):
        subject = _subject(data, condition, records, seed)
        on_clips: Sequence[Callable[[], Check]] = (
            lambda: _gradients(subject, condition),
            lambda: checks.deterministic(subject),
            lambda: checks.logits(subject),
            lambda: checks.evaluation_mode(subject),
        )
        found = [check() for check in track(on_clips, "Checks")]
    found += [_monotone(records, condition), _holds(records, condition), _precision(records)]
    found += [_ceiling(records, scores), _abstained(scores)]
    return sorted(found, key=lambda check: int(check.name.split()[0][1:]))


def _holds(records: pd.DataFrame, condition: Certified) -> Check:
    """S22, ours: no attack within a certified radius makes the smoothed classifier give another answer."""
    name = "S22 certificate"
    if condition.attack is None:
        return Check(name, "skipped", "no attack was made")
    broken = records[records["violations"] > 0]
    if len(broken):
        told = ", ".join(broken["id"].head(3))
        return Check(
            name,
            "fail",
            f"{int(broken['violations'].sum())} answers changed within their certified radius, on {len(broken)} of "
            f"{len(records)} clips ({told}): do not believe the certificates",
        )
    gaps = [
        int((certified_at(records, radius) & ~stands_at(records, level)).sum())
        for level, radius in enumerate(condition.radii)
        if condition.radius is None or radius <= condition.radius
    ]
    tried = int(records["attacked_radii"].sum())
    verdict: Verdict = "fail" if any(gaps) else "pass"
    return Check(name, verdict, f"no answer changed within its certified radius in {tried} attacks")


def _precision(records: pd.DataFrame) -> Check:
    """S23, ours: votes in low precision are those of full precision, on the sample that was cast in both."""
    if int(records["checked"].sum()) == 0 and int(records["exceeded"].sum()) == 0:
        return Check("S23 precision", "pass", "all votes were cast in float32")
    differing, checked = int(records["differing"].sum()), int(records["checked"].sum())
    clips = int((records["exceeded"] > 0).sum())
    told = f"{differing} of {checked} trusted votes differ in float32; {clips} clips were cast anew in it"
    # The clip where one differed was cast anew; those before it may hold others that nobody saw.
    return Check("S23 precision", "warn" if differing else "pass", told)


def _ceiling(records: pd.DataFrame, scores: dict[str, Any]) -> Check:
    """S24, ours: radii are limited by the classifier and not by the number of votes."""
    if scores["radius"] is not None:
        return Check("S24 ceiling", "skipped", "one radius was asked for")
    reached = records[records["right"]]
    if len(reached) == 0:
        return Check("S24 ceiling", "pass", "no clip is certified")
    share = float((reached["radius"] >= scores["ceiling"] * (1 - 1e-9)).mean())
    told = (
        f"{100 * share:.0f} % of the certified clips reach {scores['ceiling']:.3g}, the most {scores['n']} votes show"
    )
    return Check("S24 ceiling", "warn" if share > 0.5 else "pass", told + (": give more votes" if share > 0.5 else ""))


def _abstained(scores: dict[str, Any]) -> Check:
    """S25, ours: the base classifier can hear through the noise at all."""
    share = scores["abstained"]["score"]
    told = f"{100 * share:.0f} % of the clips get no answer, or not all of them"
    more = ": train with noise (--augment gaussian:SIGMA), denoise, or take a smaller sigma" if share > 0.5 else ""
    return Check("S25 abstained", "warn" if share > 0.5 else "pass", told + more)


def _monotone(records: pd.DataFrame, condition: Certified) -> Check:
    """S2: no more clips are certified than stand the attack, at any radius that was attacked."""
    if condition.attack is None:
        return Check("S2 monotone", "skipped", "no attack was made")
    certified = np.array([certified_at(records, radius).mean() for radius in condition.radii])
    if condition.radius is not None:
        certified = np.where(np.array(condition.radii) <= condition.radius, certified, 0.0)
    stands = np.array([stands_at(records, level).mean() for level in range(len(condition.radii))])
    told = ", ".join(
        f"{radius:g}: {100 * low:.0f} to {100 * high:.0f} %"
        for radius, low, high in zip(condition.radii, certified, stands, strict=True)
    )
    verdict: Verdict = "pass" if bool((certified <= stands + 1e-12).all()) else "fail"
    return Check("S2 monotone", verdict, f"accuracy lies between certificate and attack ({told})")


def _gradients(subject: Subject, condition: Certified) -> Check:
    """S8 through one draw of the noise."""
    if condition.attack is None:
        return Check("S8 gradients", "skipped", "no attack was made")
    channel = condition.channel
    clips = subject.batch.inputs["audio"]
    drawn = channel.draw(clips, generators_for(subject.seed, subject.batch.ids, "checks"))
    valid = subject.batch.valid["audio"].expand_as(clips)
    heard = OneDraw(subject.victim, "audio", channel, drawn, valid)
    return checks.gradients(
        Subject(heard, subject.attack, subject.batch, subject.clean, subject.standing, subject.seed)
    )


def _subject(data: AlignedData, condition: Certified, records: pd.DataFrame, seed: int) -> Subject:
    few = records.head(CHECKED_CLIPS)
    device = next((parameter.device for parameter in condition.base.parameters()), torch.device("cpu"))
    batch = data.batch(few["index"].tolist()).to(device)
    labels = torch.as_tensor(np.stack(few["label"].tolist()), device=device).to(batch.labels.dtype)
    batch = Batch(batch.ids, batch.inputs, labels, batch.valid)
    rows = torch.arange(len(batch), device=device)
    clean = Oracle(condition.base, len(batch), device).logits(batch.inputs, rows)
    standing = torch.tensor(few["right"].tolist(), device=device)
    radius = max([one for one in condition.radii if one > 0], default=condition.voter.sigma)
    attack = Attack({"audio": Ball("l2", radius)}, condition.attack or PGD())
    return Subject(condition.base, attack, batch, clean, standing, seed)
