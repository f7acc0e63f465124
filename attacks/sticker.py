"""Adversarial camera stickers: a few translucent dots on the lens, the same on every frame of every clip of a class.

A dot is a blot of one printable colour, opaque in its middle and fading outwards. Places and colours are found dot by
dot among candidates (greedy block-coordinate search), then refined by gradients on all of them, in the expectation over
how the sheet of stickers may sit (jitter), and how the camera sees it (blur, brightness).

Sources: Li, Schmidt & Kolter 2019, "Adversarial camera stickers"; methods.md 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from attacks.errors import ThreatModelError

REFERENCE_PIXELS = 224
"""Jitter and blur are told in pixels of a picture of this size, and scale with that of the victim's."""

INKS: dict[str, tuple[float, float, float]] = {
    "cyan": (0.00, 0.68, 0.94),
    "magenta": (0.93, 0.00, 0.55),
    "yellow": (1.00, 0.95, 0.00),
    "red": (0.93, 0.11, 0.14),
    "green": (0.00, 0.65, 0.31),
    "blue": (0.18, 0.19, 0.57),
    "black": (0.14, 0.12, 0.13),
}
"""sRGB of the process inks on white paper and of their overprints two by two: what a four-colour printer reaches."""


def printable() -> dict[str, tuple[float, float, float]]:
    """The palette: each of `INKS` in full and as a half tint on white paper, and the paper."""
    halves = {
        f"{name} 50 %": ((1 + red) / 2, (1 + green) / 2, (1 + blue) / 2) for name, (red, green, blue) in INKS.items()
    }
    return {**INKS, **halves, "white": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Stickers:
    """A sheet of dots, composed in their order.

    Attributes:
        centres: (D, 2) or, of one sheet for each clip, (B, D, 2) float: row and column as shares of height and width.
        colours: (D, 3) or (B, D, 3) float in [0, 1], RGB.
        radius: Of every dot, as a share of the shorter side.
        alpha_max: Opacity in the middle of a dot, in (0, 1].
        beta: How steeply a dot ends: opacity is alpha_max exp(-(distance / radius)^(2 beta)).
    """

    centres: Tensor
    colours: Tensor
    radius: float = 0.1
    alpha_max: float = 0.6
    beta: float = 2.0

    def __post_init__(self) -> None:
        if self.centres.shape[:-1] != self.colours.shape[:-1] or (self.centres.shape[-1], self.colours.shape[-1]) != (
            2,
            3,
        ):
            raise ThreatModelError(
                "Stickers need centres (D, 2) and colours (D, 3) of as many dots; given "
                f"{tuple(self.centres.shape)} and {tuple(self.colours.shape)}."
            )
        if not 0 < self.alpha_max <= 1 or not self.radius > 0 or not self.beta > 0:
            raise ThreatModelError(
                "Stickers need alpha_max in (0, 1] and radius and beta above 0; given "
                f"alpha_max={self.alpha_max}, radius={self.radius}, beta={self.beta}."
            )

    def __len__(self) -> int:
        return self.centres.shape[-2]

    def moved(self, centres: Tensor, colours: Tensor) -> Stickers:
        """The same kind of dots elsewhere and in other colours."""
        return replace(self, centres=centres, colours=colours)

    def on(self, device: torch.device) -> Stickers:
        """The same sheet on `device`."""
        return self.moved(self.centres.to(device), self.colours.to(device))


@dataclass(frozen=True)
class Views:
    """How much the sheet and the camera vary from clip to clip; all zero is a still camera.

    Attributes:
        jitter_pixels: The sheet is moved by up to so many pixels of a picture of 224, in rows and in columns.
        blur_pixels: Gaussian blur of the picture, sheet and all: standard deviation from 0 up to this, as above.
        brightness: The picture is up to this share brighter or darker.
    """

    jitter_pixels: float = 2.0
    blur_pixels: float = 4.0
    brightness: float = 0.2

    def __post_init__(self) -> None:
        if min(self.jitter_pixels, self.blur_pixels, self.brightness) < 0 or self.brightness >= 1:
            raise ThreatModelError(
                "Views need jitter_pixels and blur_pixels from 0 and brightness from 0 to below 1; given "
                f"{self.jitter_pixels}, {self.blur_pixels} and {self.brightness}."
            )

    def draw(self, generators: Sequence[torch.Generator], device: torch.device | None = None) -> View:
        """One view for each generator (on the CPU)."""
        drawn = torch.stack([torch.rand(4, generator=generator, dtype=torch.float64) for generator in generators])
        drawn = drawn.to(device)
        return View(
            shift=(2 * drawn[:, :2] - 1) * self.jitter_pixels / REFERENCE_PIXELS,
            blur=drawn[:, 2] * self.blur_pixels / REFERENCE_PIXELS,
            gain=1 + (2 * drawn[:, 3] - 1) * self.brightness,
        )


STILL = Views(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class View:
    """What was drawn for each clip.

    Attributes:
        shift: (B, 2) float64 of the sheet, as shares of height and width.
        blur: (B,) float64 standard deviation as a share of the shorter side.
        gain: (B,) float64 of the picture.
    """

    shift: Tensor
    blur: Tensor
    gain: Tensor

    def select(self, index: Tensor | slice) -> View:
        """The views of the clips at `index` alone."""
        return View(self.shift[index], self.blur[index], self.gain[index])


def opacity(stickers: Stickers, shift: Tensor, height: int, width: int) -> Tensor:
    """(B, D, H, W) opacity of each dot, for sheets moved by `shift` (B, 2); differentiable."""
    centres = stickers.centres + shift.to(stickers.centres)[:, None]  # (B, D, 2)
    shorter = min(height, width)
    rows, columns = (
        (torch.arange(size, dtype=centres.dtype, device=centres.device) + 0.5) / shorter for size in (height, width)
    )
    down = rows - centres[..., :1] * (height / shorter)  # (B, D, H)
    across = columns - centres[..., 1:] * (width / shorter)
    distance = (down.square()[..., :, None] + across.square()[..., None, :]) / stickers.radius**2
    # A power below 1 has no finite slope at 0.
    return stickers.alpha_max * (-(distance.clamp_min(1e-10) ** stickers.beta)).exp()


def stuck(
    video: Tensor, stickers: Stickers, view: View | None = None, *, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Clips as a camera with stickers on its lens records them; differentiable in the stickers and the clips.

    Args:
        video: (B, F, 3, H, W) in [low, high].
        stickers: One sheet for all clips, or one each.
        view: How each clip sees it; sharp, unmoved and as bright as it was when None.
        low: Least value of the data: colour 0.
        high: Largest: colour 1.
    """
    height, width = _picture(video)
    shift = video.new_zeros(len(video), 2) if view is None else view.shift
    alpha = opacity(stickers, shift, height, width).to(video.dtype)
    colours = (low + (high - low) * stickers.colours).to(video.dtype)
    colours = colours.expand(len(video), *stickers.colours.shape[-2:])
    through, laid = _composed(alpha, colours)
    changed = video * through[:, None, None] + laid[:, None]
    return changed if view is None else seen(changed, view, low=low, high=high)


def seen(video: Tensor, view: View, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Clips (B, F, 3, H, W) blurred and brightened as of `view`, with or without stickers."""
    height, width = _picture(video)
    blurred = _blurred(video, view.blur.to(video.dtype) * min(height, width))
    gain = view.gain.to(video.dtype)[:, None, None, None, None]
    return ((blurred - low) * gain + low).clamp(low, high)


def random_stickers(like: Stickers, palette: Tensor, generators: Sequence[torch.Generator]) -> Stickers:
    """Dots as those of `like` at random places in random colours of `palette` (P, 3): a sheet for each generator."""
    dots = len(like)
    centres = torch.stack([torch.rand(dots, 2, generator=generator) for generator in generators])
    chosen = torch.stack([torch.randint(len(palette), (dots,), generator=generator) for generator in generators])
    return like.moved(centres.to(like.centres), palette.to(like.colours)[chosen.to(palette.device)])


def _composed(alpha: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """What all dots together let through (B, H, W) and lay over it (B, 3, H, W): x -> through x + laid.

    Each dot maps x -> (1 - a) x + a colour; composed once here, and not for every frame.
    """
    batch, dots, height, width = alpha.shape
    through, laid = alpha.new_ones(batch, height, width), alpha.new_zeros(batch, 3, height, width)
    for dot in range(dots):
        one = alpha[:, dot]
        through = through * (1 - one)
        laid = laid * (1 - one)[:, None] + one[:, None] * colours[:, dot, :, None, None]
    return through, laid


def _blurred(video: Tensor, sigma: Tensor) -> Tensor:
    """Clips under a Gaussian blur of `sigma` (B,) pixels each; borders repeat."""
    reach = int((3 * sigma.max()).ceil()) if len(sigma) else 0
    if reach == 0:
        return video
    offset = torch.arange(-reach, reach + 1, dtype=video.dtype, device=video.device)
    # Blurs of a few hundredths of a pixel are none, and their kernel the unit impulse.
    kernel = (-0.5 * (offset / sigma.clamp_min(1e-2)[:, None]).square()).exp()
    # Taps beyond a clip's own reach are nothing, however far the blur of its neighbours reaches.
    kernel = kernel * (offset.abs() <= (3 * sigma).ceil()[:, None])
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    batch, frames, colours, height, width = video.shape
    rows = functional.pad(video.flatten(1, 2), (0, 0, reach, reach), mode="replicate")
    down = sum(kernel[:, tap, None, None, None] * rows[:, :, tap : tap + height] for tap in range(len(offset)))
    assert isinstance(down, Tensor)
    columns = functional.pad(down, (reach, reach, 0, 0), mode="replicate")
    across = sum(kernel[:, tap, None, None, None] * columns[..., tap : tap + width] for tap in range(len(offset)))
    assert isinstance(across, Tensor)
    return across.view(batch, frames, colours, height, width)


def _picture(video: Tensor) -> tuple[int, int]:
    """Height and width of the frames."""
    if video.ndim != 5 or video.shape[2] != 3:
        raise ThreatModelError(
            f"Stickers need colour video (B, F, 3, H, W); given {tuple(video.shape)}. Feature vectors and pictures of "
            "other channels cannot wear them."
        )
    return video.shape[3], video.shape[4]
