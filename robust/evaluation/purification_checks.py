"""Is a number against a purifier believable? Checks of methods.md 9.2 that apply, asked through the purifier.

Those that need further attacks run them on a few clips; what may hide behind a purifier's gradient and behind its noise
is asked by `robust.evaluation.purification_masking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from attacks.gradients import frozen
from attacks.radii import widest_norm
from robust.evaluation import checks
from robust.evaluation.checks import Check, Subject, Verdict
from robust.evaluation.conditions import with_radius
from robust.evaluation.engine import AlignedData
from robust.evaluation.one_draw import OneDraw
from robust.evaluation.progress import track
from robust.evaluation.purification import Purification
from robust.evaluation.purification_masking import Few, gap, masking, more_draws, spread
from robust.evaluation.purification_summary import shares
from robust.evaluation.purifier_attacks import take_no_gradient
from robust.evaluation.purifier_label import LATE_GAIN, STEPS, TOO_FEW_STEPS, missing_of
from robust.evaluation.purifier_versions import SCORING, SELECTION, UNPERTURBED
from robust.seeds import generators_for
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd


def purification_checks(
    victim: Victim, data: AlignedData, condition: Purification, records: pd.DataFrame, seed: int
) -> list[Check]:
    """All checks, in the order of their numbers."""
    found = [_labels(records), _converged(records, condition), checks.audited(records), spread(records)]
    few = Few.of(victim, data, condition, records, seed)
    if few is None:
        return sorted(found, key=_number)
    subject, behind = _subjects(few)
    on_clips: Sequence[Callable[[], Check]] = (
        lambda: _monotone(few),
        lambda: _unbounded(few),
        lambda: _random_noise(few),
        lambda: _gradients(behind, condition),
        lambda: checks.deterministic(behind),
        lambda: checks.logits(subject),
        lambda: masking(few, records),
        lambda: more_draws(few, records),
        lambda: checks.evaluation_mode(behind),
    )
    with frozen(behind.victim):
        found += [check() for check in track(on_clips, "Checks")]
    return sorted(found, key=_number)


def _number(check: Check) -> int:
    return int(check.name.split()[0][1:])


def _subjects(few: Few) -> tuple[Subject, Subject]:
    """The clips for checks that know of no purifier: before the bare victim, and before it behind one draw."""
    condition, batch = few.condition, few.batch
    drawn = condition.draw(SELECTION, 0, batch, few.seed)
    valid = batch.valid[condition.modality].expand_as(batch.inputs[condition.modality])
    behind = OneDraw(few.victim, condition.modality, condition.purifier, drawn, valid)
    clean = condition.logits(few.victim, batch, drawn)
    bare = Subject(few.victim, condition.attack, batch, few.clean, clean.argmax(dim=1) == batch.labels, few.seed)
    return bare, replace(bare, victim=behind, clean=clean)


def _monotone(few: Few) -> Check:
    """S2: the strongest attack with half the radius does not do worse to clips than the suite with all of it."""
    half = replace(few.condition, attack=with_radius(few.condition.attack, 0.5))
    weak, full = few.run(few.strongest, half), shares(few.records, "worst")
    surplus, error = gap(full, weak)
    verdict: Verdict = "pass" if surplus <= 0 else "warn" if surplus <= 2 * error else "fail"
    told = f"{_percent(full)} stand, {_percent(weak)} under {few.strongest} at half the radius"
    return Check("S2 monotone", verdict, f"{told} (standard error of the difference {100 * error:.1f})")


def _unbounded(few: Few) -> Check:
    """S3: with the whole range of the data as radius next to nothing stands."""
    batch, own = few.batch, few.condition.attack
    widest = {
        name: replace(
            ball, radius=widest_norm(ball, batch.inputs[name], batch.valid[name]), unit="amplitude", support=None
        )
        for name, ball in own.threat.items()
    }
    left = few.run(few.strongest, replace(few.condition, attack=replace(own, threat=widest)))
    told = f"{_percent(left)} of {len(batch)} clips stand {few.strongest} with the whole range allowed"
    return Check("S3 unbounded", "pass" if left.mean() <= 0.05 else "fail", told)


def _random_noise(few: Few) -> Check:
    """S7: noise of the attack's size, anew for each scoring draw, is weaker than the attacks."""
    condition, batch = few.condition, few.batch
    name = condition.modality
    region = condition.attack.threat[name].around(batch.inputs[name], batch.valid.get(name))
    generators = generators_for(few.seed, batch.ids, "purify-noise")
    stands = []
    for number in range(len(few.records[f"worst_{SCORING}"].iloc[0])):
        noisy = replace(batch, inputs={**batch.inputs, name: region.sample(generators)})
        drawn = condition.draw(SCORING, number, batch, few.seed)
        stands.append(~few.goal.broken(condition.logits(few.victim, noisy, drawn)))
    noise = np.mean([one.cpu().numpy() for one in stands], axis=0)
    worst = shares(few.records, "worst")
    surplus, error = gap(worst, noise)
    verdict: Verdict = "pass" if surplus <= 0 else "warn" if surplus <= 2 * error else "fail"
    return Check(
        "S7 random noise", verdict, f"{_percent(noise)} stand under noise, {_percent(worst)} under the attacks"
    )


def _gradients(behind: Subject, condition: Purification) -> Check:
    """S8 through one draw of the purifier."""
    if take_no_gradient(condition.attacks):
        return Check("S8 gradients", "skipped", "scores alone were asked for: the victim need give no gradients")
    if condition.purifier.gradient != "exact":
        return Check("S8 gradients", "skipped", "the purifier is straight-through, which no difference shows")
    return checks.gradients(behind)


def _converged(records: pd.DataFrame, condition: Purification) -> Check:
    """S13: 70 steps, or every clip that stands gained under 1 % in the last ten."""
    if take_no_gradient(condition.attacks):
        return Check("S13 converged", "skipped", f"black boxes take queries ({condition.queries}), no gradient steps")
    steps = condition.attack.config.steps
    if TOO_FEW_STEPS not in missing_of(records["adaptivity"]):
        how = f"{steps} steps" if steps >= STEPS else f"in {steps} steps no standing clip gained 1 % in the last ten"
        return Check("S13 converged", "pass", how)
    open_ = int(records["adaptivity"].str.contains(TOO_FEW_STEPS, regex=False).sum())
    told = f"after {steps} steps {open_} clips had gained {100 * LATE_GAIN:.0f} % or more in the last ten"
    return Check("S13 converged", "warn", f"{told}, or the end cannot be told: take {STEPS} steps")


def _labels(records: pd.DataFrame) -> Check:
    """S16: only clips that stand unperturbed in some draw are attacked, and the purifier leaves such."""
    attacked = records["attacked"].to_numpy(dtype=bool)
    pairs = zip(records[f"{UNPERTURBED}_{SELECTION}"], records[f"{UNPERTURBED}_{SCORING}"], strict=True)
    somewhere = np.array([any(one) or any(other) for one, other in pairs])
    wrong, clean = int((attacked & ~somewhere).sum()), shares(records, UNPERTURBED).mean()
    bare = float(records["clean_correct"].mean())
    verdict: Verdict = "fail" if wrong else "warn" if clean < bare / 2 else "pass"
    told = f"{int(attacked.sum())} clips attacked, {wrong} of them wrong at first"
    cost = f"unattacked, {100 * clean:.1f} % stand purified and {100 * bare:.1f} % bare"
    return Check("S16 labels", verdict, f"{told}; {cost}")


def _percent(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f} %"
