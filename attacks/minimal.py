"""The smallest radius that breaks each example, and from it a whole robustness curve in one go.

`minimal_scale` bisects with a different radius for each example of one batch: every run works on all undecided
examples at once, each at its own radius, starting from the best perturbation found so far. A curve over G radii then
costs about log2(G) attacks, not G. `fmn` is the one-run alternative (Pintor et al. 2021) kept for comparison; at equal
gradients bisection finds the smaller radii (experiments/benchmarks/strength.py prints both).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.pgd import PGD, AttackResult, pgd
from attacks.projections import lengths, per_example
from attacks.threat import ORDERS, Ball, Region

GALLOP = (1.0, 1.0, 1.1, 1.5, 2.0, 4.0)
"""Factor by which the scale falls after so many successes without a failure (the tolerance where that is more)."""

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


@dataclass
class MinimalResult:
    """The smallest budget found to break each example.

    Attributes:
        scale: (B,) float64: realised size of the smallest successful perturbation over the radius of the threat model
            (over several modalities: the largest of the ratios); 0 if broken from the start, infinite if never broken.
        failed: (B,) float64 largest scale at which an attack failed; the truth lies between the two if the attack is
            perfect.
        inputs: Modality -> (B, ...) the successful inputs; clean where there are none.
        forwards: (B,) int64 forward passes spent.
        backwards: (B,) int64 backward passes spent.
    """

    scale: Tensor
    failed: Tensor
    inputs: dict[str, Tensor]
    forwards: Tensor
    backwards: Tensor


def minimal_scale(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    *,
    config: PGD | None = None,
    grid: Tensor | None = None,
    tolerance: float = 1.01,
    max_runs: int = 24,
    valid: Mapping[str, Tensor] | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> MinimalResult:
    """Finds, for every example, how much of the threat model's radius breaks it.

    Args:
        victim: Maps modalities to logits, differentiably.
        inputs: Modality -> (B, ...) clean inputs.
        goal: What counts as broken.
        threat: Modality -> budget of scale 1; all radii grow and shrink together.
        config: Settings of each run; `restarts` above 1 heads for other classes where a run fails.
        grid: Ascending scales; when given, only the interval of the grid is found, with fewer runs.
        tolerance: Without a grid, stop when success and failure are this factor apart.
        max_runs: Upper limit on runs.
        valid: Modality -> bool mask of what is not padding.
        generators: One per example.

    Raises:
        ThreatModelError: If a radius is zero, or the grid is empty, not ascending or not positive.
    """
    config = replace(config or PGD(), stop_when_broken=True)
    _check_grid(grid)
    search = _Bisection(victim, inputs, goal, threat, dict(valid or {}), config)
    count = len(goal.labels)
    if generators is None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    with frozen(victim):
        scale = search.first_guess()
        for _ in range(max_runs):
            scale, open_rows = search.next_scale(scale, grid, tolerance)
            if len(open_rows) == 0:
                break
            search.run(scale[open_rows], open_rows, [generators[row] for row in open_rows.tolist()])
    return MinimalResult(search.broken_at, search.failed_at, search.inputs, search.forwards, search.backwards)


def robust_at(scale: Tensor, grid: Tensor) -> Tensor:
    """(G,) share of examples that no perturbation found breaks at each scale of `grid`: a robustness curve."""
    return (scale[None, :] > grid[:, None].to(scale) * (1 + 1e-9)).double().mean(dim=1)


class _Bisection:
    """What is known of each example: the least scale that broke it and the largest that did not."""

    def __init__(
        self,
        victim: Victim,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        threat: Mapping[str, Ball],
        valid: dict[str, Tensor],
        config: PGD,
    ) -> None:
        self.victim, self.goal, self.config, self.valid, self.threat = victim, goal, config, valid, threat
        self.clean = {name: value.detach() for name, value in inputs.items()}
        self.inputs = {name: value.clone() for name, value in self.clean.items()}
        self.warm = {name: value.clone() for name, value in self.clean.items()}
        self.unit = {name: ball.radius_amplitude(inputs[name], valid.get(name)) for name, ball in threat.items()}
        if any(bool((radius <= 0).any()) for radius in self.unit.values()):
            raise ThreatModelError("A smallest radius is sought as a multiple of the budget's; it must be above 0.")
        widest = {name: _widest(ball, self.clean[name], valid.get(name)) for name, ball in threat.items()}
        self.widest = widest
        self.most = torch.stack([widest[name] / self.unit[name] for name in threat]).amax(dim=0)
        count, device = len(goal.labels), goal.labels.device
        self.failed_at = torch.zeros(count, dtype=torch.float64, device=device)
        self.broken_at = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.successes = torch.zeros(count, dtype=torch.int64, device=device)
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device)

    def first_guess(self) -> Tensor:
        """(B,) scale at which a linear victim with the clean gradient would break; exact where it is linear."""
        oracle = Oracle(self.victim, len(self.goal.labels), self.goal.labels.device)
        rows = torch.arange(len(self.goal.labels), device=self.goal.labels.device)
        logits, losses, gradients = oracle.gradients(self.clean, self.goal, margin, rows)
        self._spent(rows, oracle.forwards, oracle.backwards)
        self.broken_at[self.goal.broken(logits)] = 0.0
        slope = torch.zeros_like(self.most)
        for name, ball in self.threat.items():
            gradient = gradients[name].flatten(1)
            if name in self.valid:
                gradient = gradient * self.valid[name].flatten(1)
            slope = slope + lengths(gradient.double(), DUAL[ball.norm]) * self.unit[name]
        guess = 1.005 * (-losses.double()).clamp_min(0) / slope.clamp_min(1e-30)
        return torch.minimum(guess.clamp_min(1e-9), self.most)

    def next_scale(self, last: Tensor, grid: Tensor | None, tolerance: float) -> tuple[Tensor, Tensor]:
        """(B,) scale to try next, and the rows that are still open."""
        if grid is not None:
            return self._next_on_grid(grid.to(self.broken_at))
        unbroken, never_failed = self.broken_at.isinf(), self.failed_at == 0
        between = (self.failed_at * self.broken_at).sqrt()
        scale = torch.where(unbroken, torch.minimum(self.failed_at * 2, self.most), between)
        # Gallop down from a success: the first guess is often tight, and then one failure just below it settles all.
        gallop = torch.tensor(GALLOP).to(self.broken_at)[self.successes.clamp_max(len(GALLOP) - 1)]
        scale = torch.where(never_failed & ~unbroken, self.broken_at / gallop.clamp_min(tolerance), scale)
        scale = torch.where(never_failed & unbroken, last, scale)
        near = self.broken_at <= self.failed_at * tolerance
        hopeless = unbroken & (self.failed_at >= self.most * (1 - 1e-9))
        still = ~(near | hopeless | (self.broken_at == 0))
        return scale, still.nonzero()[:, 0]

    def _next_on_grid(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """The middle of the grid's scales that are above the last failure and below the least success."""
        above = torch.searchsorted(grid, self.failed_at * (1 + 1e-9), right=True)
        below = torch.searchsorted(grid, self.broken_at * (1 - 1e-9))
        middle = ((above + below - 1) // 2).clamp(0, len(grid) - 1)
        return torch.minimum(grid[middle], self.most), (above < below).nonzero()[:, 0]

    def run(self, scale: Tensor, rows: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Attacks `rows` at their scales, starting from what is known of them, and notes what happens."""
        balls = {
            name: replace(
                ball, radius=torch.minimum(self.unit[name][rows] * scale, self.widest[name][rows]), unit="amplitude"
            )
            for name, ball in self.threat.items()
        }
        clean = {name: value[rows] for name, value in self.clean.items()}
        known = {name: self.warm[name][rows] for name in balls}
        fresh = torch.stack([(known[name] == clean[name]).flatten(1).all(1) for name in balls]).all(0)
        start = None if bool(fresh.all()) else self._scaled(known, rows, balls)
        result = pgd(
            self.victim,
            clean,
            self.goal.select(rows),
            balls,
            config=self.config,
            valid={name: mask[rows] for name, mask in self.valid.items()},
            generators=generators,
            start=start,
        )
        self._spent(rows, result.forwards, result.backwards)
        self._note(result, scale, rows)

    def _scaled(self, known: dict[str, Tensor], rows: Tensor, balls: Mapping[str, Ball]) -> dict[str, Tensor]:
        """The known perturbation stretched or shrunk to the radius at hand."""
        start = {}
        for name, ball in balls.items():
            clean = self.clean[name][rows]
            delta = known[name] - clean
            size = lengths(delta.flatten(1).double(), ORDERS[ball.norm]).clamp_min(1e-30)
            start[name] = clean + delta * per_example(torch.as_tensor(ball.radius) / size, clean)
        return start

    def _note(self, result: AttackResult, scale: Tensor, rows: Tensor) -> None:
        lost, won = rows[~result.broken], rows[result.broken]
        self.successes[won] += 1
        self.failed_at[lost] = torch.maximum(self.failed_at[lost], scale[~result.broken])
        sizes = [
            # In single precision the difference may exceed the radius by its last bit, and a curve misses the example.
            lengths((result.inputs[name].double() - self.clean[name][rows].double()).flatten(1), ORDERS[ball.norm])
            / self.unit[name][rows]
            for name, ball in self.threat.items()
        ]
        self.broken_at[won] = torch.minimum(self.broken_at[won], torch.stack(sizes).amax(dim=0)[result.broken])
        for name in self.threat:
            self.warm[name][rows] = result.inputs[name]
            self.inputs[name][won] = result.inputs[name][result.broken]

    def _spent(self, rows: Tensor, forwards: Tensor, backwards: Tensor) -> None:
        self.forwards[rows] += forwards
        self.backwards[rows] += backwards


def fmn(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    modality: str,
    ball: Ball,
    *,
    steps: int = 100,
    step_size: float = 1.0,
    adapt: float = 0.05,
) -> MinimalResult:
    """Fast minimum-norm attack on one modality (Pintor et al. 2021): one run whose radius follows the boundary.

    The radius shrinks by `adapt` while the example is broken and grows while it is not; both it and the step length
    decay by a cosine. `ball` gives the norm and the bounds, and the radius that counts as scale 1.
    """
    clean, count = inputs[modality].detach(), len(goal.labels)
    unit = ball.radius_amplitude(clean)
    oracle = Oracle(victim, count, clean.device)
    rows = torch.arange(count, device=clean.device)
    region = Region(clean, None, ball.norm, _widest(ball, clean, None), ball.low, ball.high)
    point, radius = clean, torch.full((count,), torch.inf, dtype=torch.float64, device=clean.device)
    best, found = torch.full_like(radius, torch.inf), {name: value.clone() for name, value in inputs.items()}
    share = torch.full((count,), 0.05 if ball.norm == "l1" else 1.0, device=clean.device)
    with frozen(victim):
        for step in range(steps):
            decay = 0.5 * (1 + math.cos(math.pi * step / steps))
            logits, losses, gradients = oracle.gradients({**inputs, modality: point}, goal, margin, rows)
            broken, size = goal.broken(logits), region.size(point)
            better = broken & (size < best)
            best = torch.where(better, size, best)
            found[modality][better] = point[better]
            slope = lengths(gradients[modality].flatten(1).double(), DUAL[ball.norm]).clamp_min(1e-30)
            grown = 1 + adapt * decay
            # The linear forecast alone only creeps up to the boundary where a sparse step gains less than it says.
            forecast = torch.maximum(size + 1.005 * (-losses).clamp_min(0) / slope, size * grown)
            reach = torch.where(best.isinf(), forecast, radius * grown)
            radius = torch.where(broken, torch.minimum(radius, best) * (1 - adapt * decay), reach)
            radius = torch.minimum(radius, region.radius)
            length = step_size * decay * torch.where(best.isinf(), radius, best)
            moved = region.ascend(point, gradients[modality], length, share)
            point = Region(clean, None, ball.norm, radius, ball.low, ball.high).project(moved)
    failed = torch.zeros_like(best)
    return MinimalResult(best / unit, failed, found, oracle.forwards, oracle.backwards)


def _widest(ball: Ball, clean: Tensor, valid: Tensor | None) -> Tensor:
    """(B,) norm of the largest perturbation that the bounds admit anywhere."""
    mask = torch.ones_like(clean) if valid is None else valid.expand_as(clean).to(clean.dtype)
    span = (mask * (ball.high - ball.low)).flatten(1).double()
    return lengths(span, ORDERS[ball.norm])


def _check_grid(grid: Tensor | None) -> None:
    if grid is None:
        return
    if grid.ndim != 1 or len(grid) == 0 or bool((grid <= 0).any()) or bool((grid[1:] <= grid[:-1]).any()):
        raise ThreatModelError("The radii of a curve must be positive and ascending, each given once.")
