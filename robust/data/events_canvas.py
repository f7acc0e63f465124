"""Anti-aliased painting of eight 32x32 frames at once by signed distances, and the camera that looks at them.

All lengths are in half frames: x to the right and y down run over [-1, 1]. A parameter is a number, or (FRAMES,)
numbers for what moves. Everything is float64, so that rounding to eight bits is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from robust.data.events_plan import Floats, uniform
from robust.data.events_settings import CAMERA, FRAMES, SIDE, Camera

Moving: TypeAlias = float | Floats

FRAME_TIMES_S: Floats = (np.arange(FRAMES) + 0.5) / FRAMES


def _per_frame(value: Moving) -> Moving:
    return value.reshape(FRAMES, 1, 1) if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Canvas:
    """Frames and a coordinate system to draw in; `moved` gives another system on the same frames.

    Attributes:
        frames: (FRAMES, 3, SIDE, SIDE) float64, painted in place.
        x: (FRAMES, SIDE, SIDE) coordinate of each pixel.
        y: (FRAMES, SIDE, SIDE) coordinate of each pixel.
        pixel: Size of a pixel in these coordinates.
    """

    frames: Floats
    x: Floats
    y: Floats
    pixel: Moving

    def moved(self, dx: Moving = 0.0, dy: Moving = 0.0, angle: Moving = 0.0, size: Moving = 1.0) -> Canvas:
        """Coordinates with origin at (dx, dy), turned clockwise by `angle` and `size` times as large."""
        x, y = self.x - _per_frame(dx), self.y - _per_frame(dy)
        cos, sin, scale = _per_frame(np.cos(angle)), _per_frame(np.sin(angle)), _per_frame(size)
        return replace(self, x=(cos * x + sin * y) / scale, y=(cos * y - sin * x) / scale, pixel=self.pixel / scale)

    def flipped(self, sign: float) -> Canvas:
        """Mirrored left to right where `sign` is -1."""
        return replace(self, x=self.x * sign)

    def paint(self, distance: Floats, colour: Floats, opacity: Moving = 1.0) -> None:
        """Blends `colour`, (3,) or (FRAMES, 3), where the signed distance is negative, over one pixel of edge."""
        cover = np.clip(0.5 - distance / self.pixel, 0.0, 1.0) * _per_frame(opacity)
        paint = colour.reshape(-1, 3, 1, 1)
        self.frames[...] += cover[:, None] * (paint - self.frames)

    def ellipse(self, cx: Moving, cy: Moving, a: Moving, b: Moving, colour: Floats, opacity: Moving = 1.0) -> None:
        """An ellipse of half axes `a` and `b`."""
        a, b = _per_frame(a), _per_frame(b)
        radius = np.hypot((self.x - _per_frame(cx)) / a, (self.y - _per_frame(cy)) / b)
        self.paint((radius - 1) * np.minimum(a, b), colour, opacity)

    def disc(self, cx: Moving, cy: Moving, r: Moving, colour: Floats, opacity: Moving = 1.0) -> None:
        """A disc of radius `r`."""
        self.ellipse(cx, cy, r, r, colour, opacity)

    def box(self, cx: Moving, cy: Moving, a: Moving, b: Moving, colour: Floats, opacity: Moving = 1.0) -> None:
        """A rectangle of half sides `a` and `b`."""
        across = np.abs(self.x - _per_frame(cx)) - _per_frame(a)
        self.paint(np.maximum(across, np.abs(self.y - _per_frame(cy)) - _per_frame(b)), colour, opacity)

    def trapezoid(self, cx: float, cy: float, top: float, bottom: float, b: float, colour: Floats) -> None:
        """An upright trapezoid of half widths `top` and `bottom` and half height `b`."""
        y = self.y - cy
        half = top + (bottom - top) * (y + b) / (2 * b)
        self.paint(np.maximum(np.abs(self.x - cx) - half, np.abs(y) - b), colour)

    def line(
        self, start: tuple[Moving, Moving], end: tuple[Moving, Moving], r: Moving, colour: Floats, opacity: Moving = 1.0
    ) -> None:
        """A line with round ends, `r` to either side."""
        x0, y0, x1, y1 = (_per_frame(value) for value in (*start, *end))
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy + 1e-12)
        along = np.clip(along, 0.0, 1.0)
        distance = np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy)
        self.paint(distance - _per_frame(r), colour, opacity)


@dataclass(frozen=True)
class Palette:
    """Colours of one clip, (3,) in [0, 1]."""

    ground: Floats
    main: Floats
    second: Floats
    accent: Floats


def draw_palette(rng: np.random.Generator) -> Palette:
    """Random colours; the object's two are those of six that differ most from the ground."""
    ground = rng.uniform(0, 1, 3)
    others = rng.uniform(0, 1, (6, 3))
    order = np.argsort(-np.sum((others - ground) ** 2, axis=1))
    return Palette(ground, others[order[0]], others[order[1]], others[order[2]])


def blank(palette: Palette, rng: np.random.Generator, camera: Camera = CAMERA) -> Canvas:
    """A background of smooth patches and clutter, seen by a camera that pans and shakes."""
    axis = (np.arange(SIDE) + 0.5) / (SIDE / 2) - 1
    shake = uniform(rng, camera.shake) * rng.standard_normal((2, FRAMES))
    pan = camera.pan * rng.uniform(-1, 1, (2, 1)) * (FRAME_TIMES_S - 0.5)
    dx, dy = shake + pan
    x = np.broadcast_to(axis[None, None, :], (FRAMES, SIDE, SIDE)) - _per_frame(dx)
    y = np.broadcast_to(axis[None, :, None], (FRAMES, SIDE, SIDE)) - _per_frame(dy)
    patches = zoom(rng.standard_normal((3, 5, 5)), (1, SIDE / 5, SIDE / 5), order=1, mode="nearest", grid_mode=True)
    still = palette.ground[:, None, None] + rng.uniform(0.0, 0.12) * patches
    canvas = Canvas(np.repeat(still[None], FRAMES, axis=0), x, y, 2.0 / SIDE)
    if rng.uniform() < 0.5:  # a floor or a horizon
        edge = rng.uniform(-0.2, 0.9)
        canvas.paint(edge - y, np.clip(palette.ground + rng.uniform(-0.3, 0.3, 3), 0, 1), rng.uniform(0.3, 1.0))
    for _ in range(int(rng.integers(camera.clutter[0], camera.clutter[1] + 1))):
        place = canvas.moved(rng.uniform(-1, 1), rng.uniform(-1, 1), angle=rng.uniform(0, 3))
        a, b = rng.uniform(0.08, 0.35, 2)
        shape = place.box if rng.uniform() < 0.5 else place.ellipse
        shape(0.0, 0.0, a, b, rng.uniform(0, 1, 3), rng.uniform(0.3, 0.9))
    return canvas


def expose(canvas: Canvas, rng: np.random.Generator, camera: Camera = CAMERA) -> NDArray[np.uint8]:
    """Covers, fades and grains the frames: (FRAMES, 3, SIDE, SIDE) uint8."""
    if rng.uniform() < camera.occlusion:
        start, speed = rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.6, 0.6, 2)
        place = canvas.moved(start[0] + speed[0] * (FRAME_TIMES_S - 0.5), start[1] + speed[1] * (FRAME_TIMES_S - 0.5))
        a, b = rng.uniform(*camera.occluder, 2)
        place.moved(angle=rng.uniform(0, 3)).box(0.0, 0.0, a, b, rng.uniform(0, 1, 3))
    frames = 0.5 + uniform(rng, camera.contrast) * (canvas.frames - 0.5) + rng.uniform(-0.15, 0.15)
    frames += uniform(rng, camera.noise) * rng.standard_normal(frames.shape)
    return np.rint(np.clip(frames, 0.0, 1.0) * 255).astype(np.uint8)
