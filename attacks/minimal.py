"""The smallest radius that breaks each example, and from it a whole robustness curve in one go.

`minimal_scale` searches with a different radius for each example of one batch: every run works on all undecided
examples at once, each at its own radius, starting from the best perturbation found so far. On a grid it begins at a
linear guess and comes from above until the first failure: a curve over 20 radii costs 55 to 68 gradients an example at
40 steps, about one attack that fails and a few that succeed at once. Without a grid radii are bisected; in L2 a run of
FMN (Pintor et al. 2021) comes first (experiments/benchmarks/strength.py compares).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.fmn import fmn
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.pgd import PGD, AttackResult, pgd
from attacks.projections import lengths, per_example
from attacks.radii import DUAL, MinimalResult, widest_norm
from attacks.threat import ORDERS, Ball

GALLOP = (1.0, 1.0, 1.1, 1.5, 2.0, 4.0)
"""Factor by which the scale falls after so many successes without a failure (the tolerance where that is more)."""

GRID_START = 1.0
"""First level tried on a grid, over the linear guess; 1, 1.5, 2 and 3 cost 53, 63, 72 and 75 gradients a clip."""
GRID_GALLOP = (0, 0, 1, 3, 7)
"""Levels of a grid left out after so many successes without a failure, and the other way round."""

FMN_STEP = {"l2": 0.3}
"""First step of FMN over the smallest radius known, for the norms where it beats bisection at equal gradients."""

WARM_STEP = 0.5
"""First step over the radius in runs that start from a known perturbation."""


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
    forecast: int = 100,
    explore: int = 0,
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
        forecast: Steps of FMN made first, without a grid and for one L2 budget, where at equal gradients it finds the
            smaller radii (docs/benchmarks.md); bisection goes on from there. Linf is bisected from the start.
        explore: Draws of a random search made for each example beforehand, by forward passes alone. In a few dimensions
            it finds pockets that no gradient leads to; in thousands it finds nothing.
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
        if grid is None:
            search.forecast(forecast)
        search.explore(explore, generators)
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
        # From a start that is known to be good, APGD's first step of twice the radius would leave it at once.
        gentle = config.schedule in ("auto", "apgd") and config.rel_step is None
        self.warm_config = replace(config, rel_step=WARM_STEP) if gentle else config
        self.clean = {name: value.detach() for name, value in inputs.items()}
        self.inputs = {name: value.clone() for name, value in self.clean.items()}
        self.warm = {name: value.clone() for name, value in self.clean.items()}
        self.warmed = False
        self.unit = {name: ball.radius_amplitude(inputs[name], valid.get(name)) for name, ball in threat.items()}
        if any(bool((radius <= 0).any()) for radius in self.unit.values()):
            raise ThreatModelError("A smallest radius is sought as a multiple of the budget's; it must be above 0.")
        widest = {name: widest_norm(ball, self.clean[name], valid.get(name)) for name, ball in threat.items()}
        self.widest = widest
        self.most = torch.stack([widest[name] / self.unit[name] for name in threat]).amax(dim=0)
        count, device = len(goal.labels), goal.labels.device
        self.failed_at = torch.zeros(count, dtype=torch.float64, device=device)
        self.broken_at = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.successes = torch.zeros(count, dtype=torch.int64, device=device)
        self.failures = torch.zeros(count, dtype=torch.int64, device=device)
        self.guess = self.most
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device)

    def first_guess(self) -> Tensor:
        """(B,) scale at which a linear victim with the clean gradient would break; exact where it is linear."""
        oracle = Oracle(self.victim, len(self.goal.labels), self.goal.labels.device)
        rows = torch.arange(len(self.goal.labels), device=self.goal.labels.device)
        logits, losses, gradients = oracle.gradients(self.clean, self.goal, margin, rows, self.threat)
        self._spent(rows, oracle.forwards, oracle.backwards)
        self.broken_at[self.goal.broken(logits)] = 0.0
        slope = torch.zeros_like(self.most)
        for name, ball in self.threat.items():
            region = ball.region(self.clean[name], self.valid.get(name), self.unit[name])
            gradient = region.restrict(gradients[name]).flatten(1)
            slope = slope + lengths(gradient.double(), DUAL[ball.norm]) * self.unit[name]
        guess = 1.005 * (-losses.double()).clamp_min(0) / slope.clamp_min(1e-30)
        self.guess = torch.minimum(guess.clamp_min(1e-9), self.most)
        return self.guess

    def forecast(self, steps: int) -> None:
        """Begins with what FMN finds in so many steps, where it applies."""
        name, ball = next(iter(self.threat.items()))
        if steps == 0 or len(self.threat) > 1 or ball.norm not in FMN_STEP:
            return
        unit = replace(ball, radius=self.unit[name], unit="amplitude")
        found = fmn(
            self.victim,
            self.clean,
            self.goal,
            name,
            unit,
            steps=steps,
            step_size=FMN_STEP[ball.norm],
            valid=self.valid.get(name),
        )
        rows = torch.arange(len(self.goal.labels), device=self.goal.labels.device)
        self._spent(rows, found.forwards, found.backwards)
        self._keep(found.inputs, rows, found.scale.isfinite())
        self.warm[name] = self.inputs[name].clone()
        self.warmed = True

    def explore(self, draws: int, generators: Sequence[torch.Generator]) -> None:
        """Random search: draws from the whole data range, then from the ball in which the nearest success lies."""
        rows = torch.arange(len(self.goal.labels), device=self.goal.labels.device)
        for _ in range(draws):
            near = self.broken_at.clamp_max(1e300)
            points = {
                name: self._ball(name, near, rows).around(self.clean[name], self.valid.get(name)).sample(generators)
                for name in self.threat
            }
            self._consider(points, rows)
            self.warmed = True
        if draws:
            self.warm = {name: value.clone() for name, value in self.inputs.items()}

    def _ball(self, name: str, scale: Tensor, rows: Tensor) -> Ball:
        """The budget of one modality at a scale, as far as the data range admits it."""
        radius = (self.unit[name][rows] * scale).clamp_max(self.widest[name][rows])
        return replace(self.threat[name], radius=radius, unit="amplitude")

    def _consider(self, points: dict[str, Tensor], rows: Tensor) -> None:
        """Asks the victim about `points` and keeps those that break at a smaller scale than known."""
        oracle = Oracle(self.victim, len(rows), rows.device)
        broken = self.goal.broken(oracle.logits({**self.clean, **points}, rows))
        self._spent(rows, oracle.forwards, oracle.backwards)
        better = broken & (self._scales(points, rows) < self.broken_at)
        self._keep(points, rows, better)

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
        """One of the grid's scales that are above the last failure and below the least success.

        A success costs a few steps, less from a perturbation known to be good; a failure costs all of them. So the
        search begins at the linear guess and comes from above, a level at a time, until the first failure, instead of
        halving, which fails half of the time.
        """
        above = torch.searchsorted(grid, self.failed_at * (1 + 1e-9), right=True)
        below = torch.searchsorted(grid, self.broken_at * (1 - 1e-9))
        unbroken, never_failed = self.broken_at.isinf(), self.failed_at == 0
        down = torch.tensor(GRID_GALLOP, device=grid.device)
        place = (above + below) // 2
        place = torch.where(never_failed, below - 1 - _entry(down, self.successes - 1), place)
        place = torch.where(unbroken, above + _entry(down, self.failures - 1), place)
        first = torch.searchsorted(grid, GRID_START * self.guess)
        place = torch.where(unbroken & never_failed, first, place)
        place = torch.minimum(torch.maximum(place, above), below - 1).clamp(0, len(grid) - 1)
        return torch.minimum(grid[place], self.most), (above < below).nonzero()[:, 0]

    def run(self, scale: Tensor, rows: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Attacks `rows` at their scales, starting from what is known of them, and notes what happens."""
        balls = {name: self._ball(name, scale, rows) for name in self.threat}
        clean = {name: value[rows] for name, value in self.clean.items()}
        known = {name: self.warm[name][rows] for name in balls}
        start = self._scaled(known, rows, balls) if self.warmed else None
        self.warmed = True  # from now on for the whole batch, so that no example depends on what its neighbours found
        result = pgd(
            self.victim,
            clean,
            self.goal.select(rows),
            balls,
            config=self.config if start is None else self.warm_config,
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
        self.failures[lost] += 1
        self.failed_at[lost] = torch.maximum(self.failed_at[lost], scale[~result.broken])
        self._keep(result.inputs, rows, result.broken)
        for name in self.threat:
            self.warm[name][rows] = result.inputs[name]

    def _keep(self, points: Mapping[str, Tensor], rows: Tensor, which: Tensor) -> None:
        """Notes the scale of the successful `points` (one for each of `rows`) marked in `which`."""
        kept = rows[which]
        scales = self._scales(points, rows)[which]
        for name in self.threat:
            closer = scales < self.broken_at[kept]
            self.inputs[name][kept[closer]] = points[name][which][closer]
        self.broken_at[kept] = torch.minimum(self.broken_at[kept], scales)

    def _scales(self, points: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Realised size over the unit radius, the largest over modalities; float64 as an audit would measure."""
        sizes = [
            lengths((points[name].double() - self.clean[name][rows].double()).flatten(1), ORDERS[ball.norm])
            / self.unit[name][rows]
            for name, ball in self.threat.items()
        ]
        return torch.stack(sizes).amax(dim=0)

    def _spent(self, rows: Tensor, forwards: Tensor, backwards: Tensor) -> None:
        self.forwards[rows] += forwards
        self.backwards[rows] += backwards


def _entry(table: Tensor, place: Tensor) -> Tensor:
    """The entry of `table` at each place, its last one beyond the end."""
    return table[place.clamp(0, len(table) - 1)]


def _check_grid(grid: Tensor | None) -> None:
    if grid is None:
        return
    if grid.ndim != 1 or len(grid) == 0 or bool((grid <= 0).any()) or bool((grid[1:] <= grid[:-1]).any()):
        raise ThreatModelError("The radii of a curve must be positive and ascending, each given once.")
