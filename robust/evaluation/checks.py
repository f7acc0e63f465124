"""Is this number believable? The automatic checks of methods.md 9.2 that need no second model.

Each check gives a verdict: `pass`, `warn` (the number may be right, read the detail), `fail` (do not believe it) or
`skipped` (it does not apply). They run on a few clips, except those that read the records of all.

Sources: Carlini et al. 2019; Athalye et al. 2018; Croce & Hein 2020 (flags).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from attacks.gradients import Oracle, frozen
from attacks.losses import Goal, find_loss
from attacks.radii import widest_norm
from attacks.threat import Region
from robust.evaluation.conditions import Attack, with_radius
from robust.evaluation.progress import track
from robust.metrics.classification import mean_average_precision
from robust.seeds import generators_for
from robust.types import Batch
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["pass", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """One verdict; `name` starts with the number in methods.md 9.2."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Subject:
    """What is checked: a victim under an attack, on a few clips.

    Attributes:
        victim: The victim.
        attack: The attack as it was run.
        batch: The clips, on the victim's device.
        clean: (B, K) their clean logits.
        standing: (B,) bool: still right after the attack, as recorded.
        seed: The run's seed.
    """

    victim: Victim
    attack: Attack
    batch: Batch
    clean: Tensor
    standing: Tensor
    seed: int

    def survivors(self, attack: Attack) -> Tensor:
        """(B,) bool: clips that are right and stay right under `attack`."""
        rows = attack.eligible(self.batch.labels, self.clean).nonzero()[:, 0]
        alive = ~Goal(self.batch.labels).broken(self.clean)
        if len(rows):
            alive[rows] = ~attack.run(self.victim, self.batch, rows, self.seed).broken
        return alive

    def goal(self) -> Goal:
        """What the attack wants of these clips."""
        return self.attack.goal(self.batch.labels, self.clean)

    def regions(self) -> dict[str, Region]:
        """Where the attack may go."""
        return {
            name: ball.around(self.batch.inputs[name], self.batch.valid.get(name))
            for name, ball in self.attack.threat.items()
        }


def run_checks(subject: Subject, records: pd.DataFrame) -> list[Check]:
    """All checks, in the order of their numbers."""
    on_clips: list[Callable[[Subject], Check]] = [
        zero_radius,
        monotone,
        unbounded,
        one_step,
        random_noise,
        gradients,
        deterministic,
        logits,
        evaluation_mode,
    ]
    with frozen(subject.victim):
        found = [check(subject) for check in track(on_clips, "Checks")]
    found += [audited(records), converged(subject, records), labels(subject, records)]
    return sorted(found, key=lambda check: int(check.name.split()[0][1:]))


def zero_radius(subject: Subject) -> Check:
    """S1: at radius 0 the attack changes nothing, to the bit."""
    attack = with_radius(replace(subject.attack, config=replace(subject.attack.config, steps=1, restarts=1)), 0.0)
    outcome = attack.apply(subject.victim, subject.batch, subject.clean, subject.seed)
    changed = [name for name, value in outcome.inputs.items() if not torch.equal(value, subject.batch.inputs[name])]
    verdict: Verdict = "fail" if changed else "pass"
    return Check(
        "S1 zero radius", verdict, f"changed: {', '.join(changed)}" if changed else "clean inputs, bit for bit"
    )


def monotone(subject: Subject) -> Check:
    """S2: more radius or more steps never leave more clips standing (beyond 2 binomial standard errors)."""
    config = subject.attack.config
    fewer = replace(config, steps=max(config.steps // 4, 1), restarts=1)
    counts = {
        "half radius": int(subject.survivors(with_radius(subject.attack, 0.5)).sum()),
        "quarter steps": int(subject.survivors(replace(subject.attack, config=fewer)).sum()),
    }
    full, clips = int(subject.standing.sum()), len(subject.batch)
    share = full / clips
    slack = 2 * math.sqrt(max(share * (1 - share), 1 / clips) * clips)
    worse = [name for name, count in counts.items() if full > count + slack]
    told = f"{full} of {clips} stand; " + ", ".join(f"{count} at {name}" for name, count in counts.items())
    return Check("S2 monotone", "fail" if worse else "pass", told)


def unbounded(subject: Subject) -> Check:
    """S3: with the whole data range as radius nothing stands; otherwise the attack is broken or gradients masked.

    Supports and cuts are lifted: half a clip may well be right whatever happens to the other half.
    """
    widest = {
        name: replace(
            ball,
            radius=widest_norm(ball, subject.batch.inputs[name], subject.batch.valid[name]),
            unit="amplitude",
            support=None,
        )
        for name, ball in subject.attack.threat.items()
    }
    boundless = replace(subject.attack, threat=widest, cut=None)
    if subject.victim.spec.task == "multilabel":
        return _unbounded_multilabel(subject, boundless)
    standing = int(subject.survivors(boundless).sum())
    told = f"{standing} of {len(subject.batch)} clips stand with the whole range allowed"
    if standing <= 0.05 * len(subject.batch):
        return Check("S3 unbounded", "pass", told)
    untouched = sorted(subject.batch.inputs.keys() - subject.attack.threat.keys())
    if untouched:
        return Check("S3 unbounded", "warn", f"{told}; {' and '.join(untouched)}, not attacked, may decide them alone")
    return Check("S3 unbounded", "fail", told)


def _unbounded_multilabel(subject: Subject, boundless: Attack) -> Check:
    """S3 by mAP: an attack without limits ranks labels no better than their prevalence does."""
    found = boundless.apply(subject.victim, subject.batch, subject.clean, subject.seed).inputs
    rows = torch.arange(len(subject.batch), device=subject.clean.device)
    after = Oracle(subject.victim, len(rows), rows.device).logits(found, rows).cpu().numpy()
    truth = subject.batch.labels.cpu().numpy()
    score, floor = mean_average_precision(after, truth, resamples=1).score, float(truth[:, truth.any(0)].mean())
    verdict: Verdict = "pass" if score <= floor + 0.05 else "fail"
    return Check("S3 unbounded", verdict, f"mAP {score:.3f} with the whole range allowed; prevalence {floor:.3f}")


def one_step(subject: Subject) -> Check:
    """S4: one full step (FGSM) breaks no clip that the iterated attack leaves standing."""
    config = replace(subject.attack.config, steps=1, restarts=1, schedule="constant", rel_step=1.0, random_start=False)
    single = subject.survivors(replace(subject.attack, config=config))
    full = subject.standing
    missed = int((full & ~single).sum())
    verdict: Verdict = "pass" if missed == 0 else "warn" if int(full.sum()) <= int(single.sum()) else "fail"
    detail = f"one step leaves {int(single.sum())}, the attack {int(full.sum())}; {missed} broken by one step alone"
    return Check("S4 one step", verdict, detail)


def random_noise(subject: Subject, draws: int = 100, clips: int = 8) -> Check:
    """S7: uniform noise from the same ball is weaker than the attack (100 draws on a few clips)."""
    rows = torch.arange(min(clips, len(subject.batch)), device=subject.clean.device)
    goal, oracle = Goal(subject.batch.labels).select(rows), Oracle(subject.victim, len(rows), rows.device)
    regions = {name: region.select(rows) for name, region in subject.regions().items()}
    inputs = {name: value[rows] for name, value in subject.batch.inputs.items()}
    right = ~goal.broken(subject.clean[rows])
    alive = right.clone()
    generators = generators_for(subject.seed, [subject.batch.ids[row] for row in rows.tolist()], "noise")
    for _ in range(draws):
        noisy = {name: region.sample(generators) for name, region in regions.items()}
        alive &= ~goal.broken(oracle.logits({**inputs, **noisy}, rows))
    attacked = subject.standing[rows]
    found = int((attacked & ~alive).sum())
    detail = (
        f"of {int(right.sum())} clips the worst of {draws} draws leaves {int(alive.sum())}, the attack "
        f"{int(attacked.sum())}; {found} broken by noise alone"
    )
    return Check("S7 random noise", "fail" if found else "pass", detail)


def gradients(subject: Subject, directions: int = 16) -> Check:
    """S8: gradients reach the input, are finite and nonzero, and agree with finite differences (cosine above 0.9)."""
    rows = torch.arange(len(subject.batch), device=subject.clean.device)
    goal, oracle = subject.goal(), Oracle(subject.victim, len(rows), rows.device)
    loss = find_loss("bce" if goal.multilabel else "margin")
    raw = _raw_gradients(subject, goal)
    dead = torch.stack([(~g.flatten(1).isfinite().all(1)) | (g.flatten(1).abs().amax(1) < 1e-10) for g in raw.values()])
    share = float(dead.all(dim=0).double().mean())
    slopes, differences = [], []
    generator = torch.Generator().manual_seed(subject.seed)
    for _ in range(directions):
        # Directions that lean on the gradient: along a purely random one the slope drowns in float32 rounding.
        ways = {}
        for name, gradient in raw.items():
            noise = torch.randn(gradient.shape, generator=generator).to(gradient)
            flat = gradient.nan_to_num().flatten(1)
            unit = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1e-30)
            sign = float(torch.randn((), generator=generator))
            ways[name] = (sign * unit).view_as(gradient) + noise / math.sqrt(noise[0].numel())
        slope = sum((raw[name].nan_to_num() * way).flatten(1).sum(1).double() for name, way in ways.items())
        slopes.append(slope)
        differences.append(_difference(subject, oracle, goal, loss, ways, rows))
    slope, difference = torch.stack(slopes), torch.stack(differences)
    alive = ~dead.all(dim=0)
    cosine = torch.nn.functional.cosine_similarity(slope, difference, dim=0)[alive]
    typical = float(cosine.median()) if len(cosine) else 0.0
    verdict: Verdict = "pass" if share == 0 and typical > 0.9 else "fail" if share > 0.1 or typical < 0.5 else "warn"
    detail = f"{100 * share:.0f} % of clips without gradient; median cosine with finite differences {typical:.3f}"
    return Check("S8 gradients", verdict, detail)


def deterministic(subject: Subject, passes: int = 5) -> Check:
    """S9: repeated passes agree; a randomised victim must be attacked in expectation (EOT)."""
    rows = torch.arange(len(subject.batch), device=subject.clean.device)
    oracle = Oracle(subject.victim, len(rows), rows.device)
    again = torch.stack([oracle.logits(subject.batch.inputs, rows) for _ in range(passes)])
    spread = float((again - subject.clean).abs().max() / subject.clean.abs().max().clamp_min(1e-12))
    if spread <= 1e-4:
        return Check("S9 deterministic", "pass", f"largest relative change over {passes} passes {spread:.1e}")
    return Check("S9 deterministic", "fail", f"logits change by {spread:.1e} between passes: use an EOT attack")


def logits(subject: Subject) -> Check:
    """S10: outputs are logits, not probabilities, and not saturated."""
    values = subject.clean
    inside = bool(((values >= 0) & (values <= 1)).all())
    sums_to_one = bool(((values.sum(dim=1) - 1).abs() < 1e-3).all())
    if inside and (sums_to_one or subject.victim.spec.task == "multilabel"):
        return Check("S10 logits", "warn", "outputs look like probabilities: return logits, or gradients vanish")
    saturated = float((values.abs() > 30).double().mean())
    if subject.victim.spec.task == "multilabel" and saturated > 0.5:
        return Check("S10 logits", "warn", f"{100 * saturated:.0f} % of the logits are beyond 30: sigmoids saturate")
    return Check("S10 logits", "pass", f"outputs from {float(values.min()):.1f} to {float(values.max()):.1f}")


def audited(records: pd.DataFrame) -> Check:
    """S12: every realised perturbation is within budget, range and padding, measured in float64."""
    bad = records[records["violated"]]
    worst = max(float(records[column].max()) for column in records if column.startswith("ratio_"))
    detail = f"{len(bad)} violations in {len(records)} clips; largest realised over allowed {worst:.7f}"
    if len(bad):
        detail += f" ({bad['violation'].iloc[0]})"
    return Check("S12 audit", "fail" if len(bad) else "pass", detail)


def converged(subject: Subject, records: pd.DataFrame) -> Check:
    """S13: on clips that stand, the last ten steps gained under 1 % of all the loss gained."""
    if subject.attack.config.steps < 20:
        return Check("S13 converged", "skipped", "fewer than 20 steps")
    standing = records[records["attacked"] & records["correct"]]
    if len(standing) == 0:
        return Check("S13 converged", "pass", "no attacked clip stands")
    gain = float(standing["late_gain"].mean())
    detail = f"the last 10 steps brought {100 * gain:.2f} % of the gain on {len(standing)} standing clips"
    return Check(
        "S13 converged", "pass" if gain < 0.01 else "warn", detail + ("" if gain < 0.01 else ": try more steps")
    )


def evaluation_mode(subject: Subject) -> Check:
    """S15: after all these passes dropout is still off and BatchNorm still on its running statistics."""
    active = [name or "victim" for name, module in subject.victim.named_modules() if _is_training_sensitive(module)]
    detail = f"training mode: {', '.join(active[:3])}" if active else "all modules in evaluation mode"
    return Check("S15 evaluation mode", "fail" if active else "pass", detail)


def labels(subject: Subject, records: pd.DataFrame) -> Check:
    """S16: success is defined, and (one label a clip) only clips that were right are attacked."""
    if subject.victim.spec.task == "multilabel":
        rule = subject.attack.success or ("mAP" if subject.attack.target is None else "appears")
        count = int(records["attacked"].sum())
        return Check("S16 labels", "pass", f"{count} clips attacked; success: {rule}; score: mAP")
    wrong = int((records["attacked"] & ~records["clean_correct"]).sum())
    count = int(records["attacked"].sum())
    return Check("S16 labels", "fail" if wrong else "pass", f"{count} clips attacked, {wrong} of them wrong at first")


def _is_training_sensitive(module: nn.Module) -> bool:
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    return module.training and isinstance(module, kinds)


def _raw_gradients(subject: Subject, goal: Goal) -> dict[str, Tensor]:
    """Gradients as the victim gives them, without the cleaning that the attack does."""
    leaves = {name: value.clone().requires_grad_() for name, value in subject.batch.inputs.items()}
    loss = find_loss("bce" if goal.multilabel else "margin")
    with torch.enable_grad():
        total = loss(subject.victim(leaves), goal).sum()
        names = list(subject.attack.threat)
        found = torch.autograd.grad(total, [leaves[name] for name in names], materialize_grads=True)
    return {
        name: gradient * subject.batch.valid[name].expand_as(gradient)
        for name, gradient in zip(names, found, strict=True)
    }


def _difference(
    subject: Subject,
    oracle: Oracle,
    goal: Goal,
    loss: Callable[[Tensor, Goal], Tensor],
    ways: Mapping[str, Tensor],
    rows: Tensor,
    step: float = 1e-3,
) -> Tensor:
    """(B,) central difference of the loss along `ways`, over a distance of about `step` in L2."""
    ends = []
    for sign in (1.0, -1.0):
        moved = {
            name: subject.batch.inputs[name] + sign * step * way * subject.batch.valid[name].expand_as(way)
            for name, way in ways.items()
        }
        ends.append(loss(oracle.logits({**subject.batch.inputs, **moved}, rows), goal).double())
    return (ends[0] - ends[1]) / (2 * step)
