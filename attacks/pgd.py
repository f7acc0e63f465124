"""Projected gradient ascent under a budget for each modality: the fixed-radius attack.

Unlike the loops it is compared with (torchattacks, foolbox, ART) it keeps the best point of every example instead of
the last, stops working on an example once it is broken, takes gradients by inputs alone, and leaves the victim's modes
and statistics as they were.

Sources: Madry et al. 2018; Croce & Hein 2020 (APGD); methods.md 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.eot import Expectation, ExpectedOracle
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, find_loss
from attacks.schedules import Adaptive, Fixed, Schedule
from attacks.threat import Ball, Region
from attacks.walk import Walk

SCHEDULES = ("auto", "apgd", "cosine", "constant")
COSINE_STEP = {"linf": 0.5, "l2": 1.0, "l1": 1.0}
"""First step over the radius; how it was chosen, and on what: docs/benchmarks.md."""


@dataclass(frozen=True)
class PGD:
    """Settings of the attack; the defaults are the strongest found at equal steps (experiments/benchmarks/strength.py).

    Attributes:
        steps: Gradient steps of each restart.
        loss: A name from `attacks.losses.LOSSES`; `margin` for one label a clip and `bce` for many when None.
        schedule: `apgd`, `cosine`, `constant`, or `auto`: cosine, but APGD where a budget is L1 (its steps must adapt
            to how sparse the perturbation is).
        rel_step: First step over the radius. When None: 2 for APGD, 0.5 (linf) or 1 for cosine, 0.1 for constant.
        momentum: APGD: weight of the gradient step against the last move is `momentum`, 0.75 when None. Otherwise:
            decay of the accumulated gradient; when None 0.5 for cosine and 0 for constant.
        restarts: Independent random starts; each works on what the ones before left unbroken. With the margin or DLR
            loss, untargeted, restart r heads for the class with the r-th highest wrong logit at the clean input.
        random_start: Start the first run at a random point too, uniform in the ball. From the clean point itself a log
            front end has no gradient where the clip is digitally silent.
        sparsity: Share of coordinates moved by a constant or cosine L1 step.
        stop_when_broken: Whether broken examples leave the batch; when None, yes for one label a clip and no for many,
            where the score (mAP) goes on falling after the clip is broken.
        keep: `best` point of each example, or `last` as in torchattacks (of several restarts, the best last one).
        search_dtype: `torch.bfloat16` searches in low precision; every success is confirmed in full precision.
    """

    steps: int = 40
    loss: str | None = None
    schedule: Literal["auto", "apgd", "cosine", "constant"] = "auto"
    rel_step: float | None = None
    momentum: float | None = None
    restarts: int = 1
    random_start: bool = True
    sparsity: float = 0.05
    stop_when_broken: bool | None = None
    keep: Literal["best", "last"] = "best"
    search_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ThreatModelError(unknown("step schedule", self.schedule, SCHEDULES))
        if self.loss is not None:
            find_loss(self.loss)
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {getattr(self, name)}.")
        for name in ("rel_step", "sparsity"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ThreatModelError(f"{name} must be above 0; given {value}.")

    def adaptive(self, regions: Mapping[str, Region]) -> bool:
        """Whether runs in these regions adapt their steps (APGD)."""
        sparse = any(region.norm == "l1" for region in regions.values())
        return self.schedule == "apgd" or (self.schedule == "auto" and sparse)

    def schedule_for(self, walk: Walk) -> Schedule:
        """The step schedule of one run."""
        if self.adaptive(walk.regions):
            momentum = 0.75 if self.momentum is None else self.momentum
            return Adaptive(walk, self.steps, 2.0 if self.rel_step is None else self.rel_step, momentum)
        cosine = self.schedule != "constant"
        usual = {name: COSINE_STEP[region.norm] if cosine else 0.1 for name, region in walk.regions.items()}
        rel_step = usual if self.rel_step is None else dict.fromkeys(usual, self.rel_step)
        momentum = (0.5 if cosine else 0.0) if self.momentum is None else self.momentum
        return Fixed(walk, self.steps, rel_step, momentum, self.sparsity, cosine=cosine)


@dataclass
class AttackResult:
    """What an attack found for each example of a batch.

    Attributes:
        inputs: Modality -> (B, ...) adversarial inputs; unattacked modalities as they were.
        broken: (B,) bool: success in full precision.
        loss: (B,) loss at the point returned.
        forwards: (B,) int64 forward passes spent.
        backwards: (B,) int64 backward passes spent.
        trace: (B, steps + 1) best loss after each step of the last run; broken examples keep their last value.
        gradient_noise: (B,) standard error of the gradient estimate over its length, mean over steps: of an attack in
            expectation with two draws or more, or of NES with two pairs or more; NaN or empty otherwise.
    """

    inputs: dict[str, Tensor]
    broken: Tensor
    loss: Tensor
    forwards: Tensor
    backwards: Tensor
    trace: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient_noise: Tensor = field(default_factory=lambda: torch.empty(0))


def pgd(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    *,
    config: PGD | None = None,
    valid: Mapping[str, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    start: Mapping[str, Tensor] | None = None,
    expectation: Expectation | None = None,
) -> AttackResult:
    """Attacks every example of a batch within its budget.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        inputs: Modality -> (B, ...) clean inputs.
        goal: Labels, and targets if the attack is targeted.
        threat: Modality -> budget; modalities not named are not attacked.
        config: Settings.
        valid: Modality -> bool mask of what is not padding; padding is never touched.
        generators: One generator for each example (on the CPU), so that results do not depend on how examples are
            batched; seeded 0 to B - 1 when absent.
        start: Modality -> (B, ...) start of the first run, projected into the budget; overrides `random_start`.
        expectation: Attack what is heard through a random channel, in expectation (EOT), instead of the inputs as they
            are. With fixed steps the last point of a run is kept then: of many noisy losses the best is the luckiest.
            No example is finished, and `broken` goes by the mean logits of the last draws, unless `sure` is set: then
            `broken` is what stood that test.

    Raises:
        ThreatModelError: If a budget names a modality that is not in `inputs`, or cannot hold for them.
    """
    config = config or PGD()
    regions = around(inputs, threat, valid or {})
    count, device = len(goal.labels), goal.labels.device
    generators = generators or [torch.Generator().manual_seed(seed) for seed in range(count)]
    oracle: Oracle = Oracle(victim, count, device, config.search_dtype)
    if expectation is not None:
        keep: Literal["best", "last"] = "best" if config.adaptive(regions) else "last"
        config = replace(config, stop_when_broken=expectation.sure is not None, keep=keep)
        oracle = ExpectedOracle(victim, count, device, config.search_dtype, expectation, generators, valid or {})
    with frozen(victim), frozen(None if expectation is None else expectation.channel):
        return search(oracle, inputs, goal, regions, generators, config, start)


def search(
    oracle: Oracle,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    regions: Mapping[str, Region],
    generators: Sequence[torch.Generator],
    config: PGD,
    start: Mapping[str, Tensor] | None = None,
) -> AttackResult:
    """The attack of `pgd` on whatever `oracle` says the gradients are."""
    count, device = len(goal.labels), goal.labels.device
    result = AttackResult(
        inputs={name: value.detach().clone() for name, value in inputs.items()},
        broken=torch.zeros(count, dtype=torch.bool, device=device),
        loss=torch.full((count,), -torch.inf, device=device),
        forwards=oracle.forwards,
        backwards=oracle.backwards,
        trace=torch.full((count, config.steps + 1), -torch.inf, device=device),
    )
    stopping = config.stop_when_broken if config.stop_when_broken is not None else not goal.multilabel
    for restart in range(config.restarts):
        rows = (~result.broken if stopping else torch.ones_like(result.broken)).nonzero()[:, 0]
        if len(rows) == 0:
            break
        first = _first_points(regions, rows, generators, config, start if restart == 0 else None, restart)
        aimed = _aimed(oracle, inputs, goal, config, restart, rows)
        walk = Walk.begin(inputs, aimed, dict(regions), first, rows, remember=config.adaptive(regions))
        _run(oracle, walk, config, result, stopping=stopping)
    if isinstance(oracle, ExpectedOracle):
        result.gradient_noise = oracle.gradient_noise
    return result


def around(inputs: Mapping[str, Tensor], threat: Mapping[str, Ball], valid: Mapping[str, Tensor]) -> dict[str, Region]:
    """The regions of a threat model around clean inputs."""
    for name in threat:
        if name not in inputs:
            raise ThreatModelError(unknown("modality in the threat model", name, inputs))
    return {name: ball.around(inputs[name], valid.get(name)) for name, ball in threat.items()}


def _aimed(oracle: Oracle, inputs: Mapping[str, Tensor], goal: Goal, config: PGD, restart: int, rows: Tensor) -> Goal:
    """The goal of a restart on `rows`: from the second on, each heads for another wrong class."""
    if restart == 0 or goal.multilabel or goal.targets is not None or config.loss not in (None, "margin", "dlr"):
        return goal
    logits = oracle.logits({name: value[rows] for name, value in inputs.items()}, rows)
    order = logits.scatter(1, goal.labels[rows, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    aim = torch.zeros_like(goal.labels)
    aim[rows] = order[:, (restart - 1) % max(logits.shape[1] - 1, 1)]
    return replace(goal, aim=aim)


def _first_points(
    regions: Mapping[str, Region],
    rows: Tensor,
    generators: Sequence[torch.Generator],
    config: PGD,
    start: Mapping[str, Tensor] | None,
    restart: int,
) -> dict[str, Tensor]:
    """Where a run starts: as given, at random points of the balls, or at the clean inputs."""
    chosen = {name: region.select(rows) for name, region in regions.items()}
    if start is not None:
        return {name: region.project(start[name][rows].detach()) for name, region in chosen.items()}
    if restart > 0 or config.random_start:
        own = [generators[row] for row in rows.tolist()]
        return {name: region.sample(own) for name, region in chosen.items()}
    return {name: region.clean.clone() for name, region in chosen.items()}


def _run(oracle: Oracle, walk: Walk, config: PGD, result: AttackResult, *, stopping: bool) -> None:
    """One run from one start; writes what it finds into `result`."""
    loss = find_loss(config.loss or ("bce" if walk.goal.multilabel else "margin"))
    schedule = config.schedule_for(walk)
    for step in range(config.steps + 1):
        last = step == config.steps
        if last:
            logits = oracle.logits(walk.inputs(), walk.rows)
            losses, gradient = loss(logits, walk.goal), walk.gradient
        else:
            logits, losses, gradient = oracle.gradients(walk.inputs(), walk.goal, loss, walk.rows, walk.regions)
        walk.arrive(losses, gradient)
        broken = _confirmed(oracle, walk, logits, full_precision=last or oracle.search_dtype is None)
        if config.keep == "best" or last or stopping:
            _note(walk, losses, broken, result, keep_last=config.keep == "last", last=last)
        result.trace[walk.rows, step:] = walk.best_loss[:, None]
        if last:
            break
        if step > 0:
            schedule.adapt(walk, step - 1)
        if stopping and bool(broken.any()):
            left = (~broken).nonzero()[:, 0]
            if len(left) == 0:
                break
            walk = walk.select(left)
            schedule.keep(left)
        schedule.move(walk, step)


def _confirmed(oracle: Oracle, walk: Walk, logits: Tensor, *, full_precision: bool) -> Tensor:
    """(A,) bool: broken, and in full precision too where the search is not."""
    if isinstance(oracle, ExpectedOracle) and oracle.expectation.sure is not None:
        return oracle.finished(walk.inputs(), walk.goal, walk.rows)
    broken = walk.goal.broken(logits)
    if full_precision or not bool(broken.any()):
        return broken
    claimed = broken.nonzero()[:, 0]
    doubtful = walk.select(claimed)
    sure = doubtful.goal.broken(oracle.logits(doubtful.inputs(), doubtful.rows))
    return broken.index_put((claimed,), sure)


def _note(walk: Walk, losses: Tensor, broken: Tensor, result: AttackResult, *, keep_last: bool, last: bool) -> None:
    """Keeps the present point where it beats the one kept: a broken one over an unbroken, then the higher loss.

    With `keep_last` only the last point of a run counts, or that at which it stops, and the first run's in any case.
    """
    before, best = result.broken[walk.rows], result.loss[walk.rows]
    better = (broken & ~before) | ((broken == before) & (losses > best))
    if keep_last:
        better = better | ~(best > -torch.inf) if last else better & broken
    if len(walk) == len(result.loss) and bool(better.all()):
        for name, point in walk.point.items():
            result.inputs[name].copy_(point)
        result.loss, result.broken = losses.clone(), broken.clone()
        return
    rows = walk.rows[better]
    for name, point in walk.point.items():
        result.inputs[name][rows] = point[better]
    result.loss[rows] = losses[better]
    result.broken[rows] = broken[better]


__all__ = ["PGD", "AttackResult", "around", "pgd", "search"]
