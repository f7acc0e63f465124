"""Finding stickers (`attacks.sticker`) that work on all clips: greedy search, then Adam, then back to the palette.

Dots are added one by one. Each is tried at every place of a grid in every colour of the palette, on a few clips first;
the better candidates go on to more clips. Then places and colours of all dots follow the gradient together, in the
expectation over views, each colour is replaced by the printable one that costs least, and places are refined once more.

Sources: Li, Schmidt & Kolter 2019, section 3; methods.md 4.1. Kingma & Ba 2015 (Adam).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.sticker import Stickers, View, Views, printable, stuck

FIRST_CLIPS, MORE_CLIPS = 4, 4
"""All candidates are tried on so many clips; every round has so many times more clips, and candidates fewer by the
square of it."""
NEAREST = 4
"""Printable colours tried in place of a colour that is none."""


@dataclass(frozen=True)
class StickerSearch:
    """Settings.

    Attributes:
        dots: How many.
        radius, alpha_max, beta: As of `Stickers`.
        grid: Candidates stand in so many rows and columns.
        sweeps: Times that the greedy search goes over all dots; from the second on each is moved, the others staying.
        search_clips: Clips that the best candidates are compared on.
        steps: Of Adam on places and colours, and half as many on places alone when colours are printable again.
        step_size: Of Adam, as a share of the picture and of the range of colours; falls to 0 by a cosine.
        clips_per_step: Clips whose gradients are averaged for one step, each with a view of its own.
        confidence: A clip pulls until the margin of its goal is so many logits.
        views: Over which the expectation is taken.
    """

    dots: int = 6
    radius: float = 0.1
    alpha_max: float = 0.6
    beta: float = 2.0
    grid: int = 7
    sweeps: int = 1
    search_clips: int = 64
    steps: int = 100
    step_size: float = 0.02
    clips_per_step: int = 32
    confidence: float = 1.0
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        for name in ("dots", "grid", "sweeps", "search_clips", "clips_per_step"):
            if getattr(self, name) < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {getattr(self, name)}.")
        if self.steps < 0:
            raise ThreatModelError(f"steps must not be negative; given {self.steps}.")
        if not self.step_size > 0:
            raise ThreatModelError(f"step_size must be above 0; given {self.step_size}.")
        self.blank(torch.device("cpu"))  # what a dot cannot be is said now

    def blank(self, device: torch.device) -> Stickers:
        """A sheet without dots."""
        centres, colours = torch.zeros(0, 2, device=device), torch.zeros(0, 3, device=device)
        return Stickers(centres, colours, self.radius, self.alpha_max, self.beta)


@dataclass(frozen=True)
class StickerResult:
    """What was found.

    Attributes:
        stickers: One sheet for all clips.
        colour_names: Of each dot, from the palette.
        trace: Mean loss over the search clips after each dot, then over the fitting clips of every step of Adam.
        greedy_loss, loss: Mean loss (a margin in logits, up to the confidence) over all fitting clips of what the
            greedy search found, and of `stickers`, the best of that and what was made of it.
        forwards, backwards: Passes spent, summed over clips.
    """

    stickers: Stickers
    colour_names: tuple[str, ...]
    trace: list[float]
    greedy_loss: float
    loss: float
    forwards: int
    backwards: int


def fit_stickers(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    *,
    config: StickerSearch | None = None,
    palette: Mapping[str, tuple[float, float, float]] | None = None,
    modality: str = "video",
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> StickerResult:
    """Fits one sheet of stickers to all clips of a batch.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        inputs: Modality -> (B, ...) clips, usually of one class.
        goal: Labels, and targets if a class is wanted. One label a clip.
        config: Settings.
        palette: Name -> RGB in [0, 1] that may be printed; `attacks.sticker.printable` when None.
        modality: Of `inputs`: (B, F, 3, H, W) in [low, high].
        low: Least value of it.
        high: Largest value of it.
        batch_size: Clips that the victim sees at once; changes no result but by rounding.
        generator: Of views and of the order of clips, on the CPU; seeded 0 when absent.

    Raises:
        ThreatModelError: If there are no clips or no colours, or the modality is no colour video.
    """
    config, palette = config or StickerSearch(), dict(printable() if palette is None else palette)
    if len(goal.labels) == 0:
        raise ThreatModelError("Stickers need clips to be fitted to; there are none.")
    if not palette:
        raise ThreatModelError("The palette is empty; give at least one colour.")
    if goal.multilabel:
        raise ThreatModelError("Stickers head for one class; this victim has many labels a clip.")
    generator = generator or torch.Generator().manual_seed(0)
    with frozen(victim):
        fit = _Fit(victim, inputs, goal, config, palette, modality, (low, high), batch_size, generator)
        return fit.run()


class _Fit:
    """Clips in the order in which they are used, and the passes spent on them."""

    def __init__(
        self,
        victim: Victim,
        inputs: Mapping[str, Tensor],
        goal: Goal,
        config: StickerSearch,
        palette: Mapping[str, tuple[float, float, float]],
        modality: str,
        bounds: tuple[float, float],
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        self.victim, self.config, self.modality = victim, config, modality
        self.bounds, self.batch_size = bounds, batch_size
        count, self.device = len(goal.labels), goal.labels.device
        order = torch.randperm(count, generator=generator).to(self.device)
        self.inputs, self.goal = {name: value[order] for name, value in inputs.items()}, goal.select(order)
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.views = config.views.draw(self.generators, self.device)  # the same for all candidates
        self.names = tuple(palette)
        self.palette = torch.tensor([palette[name] for name in self.names], device=self.device)
        self.forwards = self.backwards = 0
        self.trace: list[float] = []

    def run(self) -> StickerResult:
        """Greedy search, refinement, and the better of the two."""
        greedy = self.config.blank(self.device)
        for _ in range(self.config.sweeps):
            for dot in range(self.config.dots):
                greedy = self.placed(greedy, dot)
        sheets = [greedy]
        if self.config.steps:
            sheets.append(self.snapped(self.refined(greedy, self.config.steps)))
            sheets.append(self.refined(sheets[-1], -(-self.config.steps // 2), places_only=True))
        every = torch.arange(len(self.goal.labels), device=self.device)
        scores = [float(self.losses(sheet, every).mean()) for sheet in sheets]
        best = sheets[scores.index(max(scores))]
        nearest = torch.cdist(best.colours, self.palette).argmin(dim=1).tolist()
        names = tuple(self.names[place] for place in nearest)
        return StickerResult(best, names, self.trace, scores[0], max(scores), self.forwards, self.backwards)

    def placed(self, sheet: Stickers, dot: int) -> Stickers:
        """The sheet with dot number `dot` where, and in the colour, it does most; the others stay."""
        grid = (torch.arange(self.config.grid, device=self.device) + 0.5) / self.config.grid
        places = torch.cartesian_prod(grid, grid)
        count, colours = len(places) * len(self.palette), len(self.palette)
        which = torch.arange(count, device=self.device)
        centres = _with(sheet.centres, dot, places[which // colours])
        inks = _with(sheet.colours, dot, self.palette[which % colours])
        alive, clips = which, min(FIRST_CLIPS, self.config.search_clips)
        while True:
            rows = torch.arange(min(clips, len(self.goal.labels)), device=self.device)
            scores = self.losses(sheet.moved(centres[alive], inks[alive]), rows).mean(dim=1)
            if clips >= min(self.config.search_clips, len(self.goal.labels)) or len(alive) == 1:
                best = int(scores.argmax())
                self.trace.append(float(scores[best]))
                return sheet.moved(centres[alive[best]], inks[alive[best]])
            kept = -(-len(alive) // MORE_CLIPS**2)
            alive = alive[scores.argsort(descending=True, stable=True)[:kept]]
            clips = min(clips * MORE_CLIPS, self.config.search_clips)

    def losses(self, sheets: Stickers, rows: Tensor) -> Tensor:
        """(C, n) float64 loss of each sheet on each of the clips `rows`; (n,) of a single sheet."""
        single = sheets.centres.ndim == 2
        centres = sheets.centres[None] if single else sheets.centres
        colours = sheets.colours[None] if single else sheets.colours
        pairs = torch.cartesian_prod(torch.arange(len(centres), device=self.device), rows)
        found = []
        for first in range(0, len(pairs), self.batch_size):
            sheet, clip = pairs[first : first + self.batch_size].unbind(dim=1)
            worn = sheets.moved(centres[sheet], colours[sheet])
            oracle = Oracle(self.victim, len(clip), self.device)
            logits = oracle.logits(self._wearing(worn, clip, self.views.select(clip)), _places(clip))
            found.append(margin(logits, self.goal.select(clip)).clamp_max(self.config.confidence).double())
        self.forwards += len(pairs)
        joined = torch.cat(found)
        return joined if single else joined.view(len(centres), len(rows))

    def refined(self, sheet: Stickers, steps: int, *, places_only: bool = False) -> Stickers:
        """Adam on the places of all dots, and on their colours."""
        config = self.config
        centres, colours = sheet.centres.double().requires_grad_(), sheet.colours.double().requires_grad_()
        moving = [centres] if places_only else [centres, colours]
        optimizer = torch.optim.Adam(moving, lr=config.step_size, maximize=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        count = len(self.goal.labels)
        for step in range(steps):
            first = step * config.clips_per_step
            rows = torch.arange(first, first + min(config.clips_per_step, count), device=self.device) % count
            now = sheet.moved(centres.detach().float(), colours.detach().float())
            loss, centres.grad, colours.grad = self._gradients(now, rows)
            self.trace.append(loss)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                centres.clamp_(0, 1)
                colours.clamp_(0, 1)
        return sheet.moved(centres.detach().float(), colours.detach().float())

    def snapped(self, sheet: Stickers) -> Stickers:
        """The sheet in printable colours: for one dot after another, of the nearest ones that which does most."""
        every = torch.arange(len(self.goal.labels), device=self.device)
        nearest = torch.cdist(sheet.colours, self.palette).argsort(dim=1, stable=True)[:, :NEAREST]
        colours = self.palette[nearest[:, 0]]
        for dot in range(len(sheet)):
            tried = _with(colours, dot, self.palette[nearest[dot]])
            scores = self.losses(sheet.moved(sheet.centres.expand(len(tried), -1, -1), tried), every).mean(dim=1)
            colours = tried[int(scores.argmax())]
        return sheet.moved(sheet.centres, colours)

    def _gradients(self, sheet: Stickers, rows: Tensor) -> tuple[float, Tensor, Tensor]:
        """Mean loss over the clips `rows`, each in a new view, and its gradients (D, 2) and (D, 3) in float64."""
        view = self.config.views.draw([self.generators[row] for row in rows.tolist()], self.device)
        total, places, inks = 0.0, [], []
        for first in range(0, len(rows), self.batch_size):
            part = slice(first, first + self.batch_size)
            clip = rows[part]
            # A copy of the sheet for each clip: its gradient does not depend on who shares the batch.
            own = [value.expand(len(clip), -1, -1).clone().requires_grad_() for value in (sheet.centres, sheet.colours)]
            with torch.enable_grad():
                worn = self._wearing(sheet.moved(*own), clip, view.select(part))
            oracle = Oracle(self.victim, len(clip), self.device)
            _, losses, pull = oracle.gradients(
                worn, self.goal.select(clip), self._enough, _places(clip), (self.modality,)
            )
            down, ink = torch.autograd.grad(worn[self.modality], own, pull[self.modality])
            total += float(losses.double().sum())
            places.append(down.double())
            inks.append(ink.double())
        self.forwards += len(rows)
        self.backwards += len(rows)
        return total / len(rows), torch.cat(places).sum(dim=0) / len(rows), torch.cat(inks).sum(dim=0) / len(rows)

    def _enough(self, logits: Tensor, goal: Goal) -> Tensor:
        return margin(logits, goal).clamp_max(self.config.confidence)

    def _wearing(self, sheets: Stickers, clip: Tensor, view: View) -> dict[str, Tensor]:
        low, high = self.bounds
        inputs = {name: value[clip] for name, value in self.inputs.items()}
        return {**inputs, self.modality: stuck(inputs[self.modality], sheets, view, low=low, high=high)}


def _with(rows: Tensor, dot: int, candidates: Tensor) -> Tensor:
    """(C, D', n) copies of `rows` (D, n) with row `dot`, or one more at the end, of each of `candidates` (C, n)."""
    copies = rows.expand(len(candidates), *rows.shape)
    if dot >= len(rows):
        return torch.cat([copies, candidates[:, None]], dim=1)
    return torch.cat([copies[:, :dot], candidates[:, None], copies[:, dot + 1 :]], dim=1)


def _places(clip: Tensor) -> Tensor:
    return torch.arange(len(clip), device=clip.device)
