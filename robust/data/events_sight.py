"""The sights of `events`: one moving scene a class, in step with the plan that its sound follows too.

Classes of one row of `LOOK_ALIKE` share a scene and differ in parameters that overlap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from robust.data.events_canvas import FRAME_TIMES_S, Canvas, Palette, blank, draw_palette, expose
from robust.data.events_plan import Plan, uniform
from robust.data.events_settings import CAMERA, FRAMES, LIKENESS

Scene = Callable[[Canvas, Palette, Plan, np.random.Generator], None]


def sight(plan: Plan, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture of `plan`: (FRAMES, 3, SIDE, SIDE) uint8, frame k taken at (k + 1/2) / FRAMES seconds."""
    palette = draw_palette(rng)
    canvas = blank(palette, rng)
    place = canvas.moved(
        uniform(rng, (-CAMERA.offset, CAMERA.offset)),
        uniform(rng, (-CAMERA.offset, CAMERA.offset)),
        angle=CAMERA.tilt_rad * rng.uniform(-1, 1),
        size=uniform(rng, CAMERA.size),
    )
    _SCENES[plan.name](place.flipped(rng.choice([-1.0, 1.0])), palette, plan, rng)
    return expose(canvas, rng)


def _hanging(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A bell, or the pendulum of a clock: swings to one side an event."""
    bell = plan.name == "church_bell"
    swing = rng.uniform(0.15, 0.6) * np.cos(np.pi * plan.phase(FRAME_TIMES_S))
    canvas.box(0.0, -0.85, rng.uniform(0.15, 0.6), rng.uniform(0.05, 0.2), palette.second)
    pendant = canvas.moved(0.0, -0.75, angle=swing)
    length = rng.uniform(0.7, 1.1)
    width = rng.uniform(0.22, 0.36)
    if not bell and rng.uniform() < LIKENESS.dial:
        canvas.disc(0.0, -0.55, 0.36, palette.second)
        hand = rng.uniform(0, 2 * np.pi)
        canvas.line((0.0, -0.55), (0.25 * np.cos(hand), -0.55 + 0.25 * np.sin(hand)), 0.05, palette.main)
    pendant.line((0.0, 0.0), (0.0, length), 0.04, palette.second)
    if bell:
        mouth = width * rng.uniform(1.0, 1.4)
        pendant.trapezoid(0.0, length, mouth * uniform(rng, LIKENESS.bell_crown), mouth, width, palette.main)
        pendant.disc(0.0, length + width, 0.09, palette.accent)
    else:
        pendant.ellipse(0.0, length, width, width * rng.uniform(0.9, 1.1), palette.main)
        pendant.disc(0.0, length, width * rng.uniform(0.2, 0.6), palette.accent)


def _strands(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """Parallel rods of a chime, or strings before the body of a guitar, set moving by each event."""
    guitar = plan.name == "guitar"
    count = int(rng.integers(3, 7))
    gap = rng.uniform(0.16, 0.26)
    moving = plan.ringing(FRAME_TIMES_S, 0.25)
    if guitar:
        canvas = canvas.moved(angle=rng.uniform(-0.8, 0.8))
        canvas.ellipse(0.0, rng.uniform(0.1, 0.5), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.7), palette.second)
        canvas.disc(0.0, rng.uniform(0.0, 0.4), rng.uniform(0.12, 0.28), palette.accent, rng.uniform(0.3, 1.0))
        gap *= 0.7
    else:
        canvas.box(0.0, -0.8, rng.uniform(0.4, 0.8), 0.07, palette.second)
    swings = rng.uniform(0.05, 0.25) * rng.choice([-1, 1], (count, FRAMES)) * moving * rng.uniform(0.3, 1, (count, 1))
    for order in range(count):
        x = gap * (order - (count - 1) / 2)
        length = 0.9 if guitar else rng.uniform(0.2, 0.9)
        middle = x + (0.4 if guitar else 1.0) * swings[order]
        canvas.line((x, -0.8), (middle, 0.05), rng.uniform(0.02, 0.06), palette.main)
        canvas.line(
            (middle, 0.05), (x if guitar else x + 1.5 * swings[order], length), rng.uniform(0.02, 0.06), palette.main
        )


def _vehicle(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A car drives by, wheels turning; one with a siren has lamps on its roof, which may be dim."""
    speed = rng.uniform(0.1, 1.0)
    car = canvas.moved(speed * (FRAME_TIMES_S - 0.5))
    length, roof = rng.uniform(0.5, 0.75), rng.uniform(0.12, 0.26)
    car.trapezoid(
        rng.uniform(-0.15, 0.15),
        -0.05 - roof,
        length * rng.uniform(0.3, 0.6),
        length * rng.uniform(0.6, 0.9),
        roof,
        palette.main,
    )
    car.box(rng.uniform(-0.1, 0.1), -0.05 - roof, length * 0.3, roof * 0.5, palette.accent)
    car.box(0.0, 0.12, length, 0.18, palette.main)
    turn = speed / 0.15 * FRAME_TIMES_S
    for x in (-0.6 * length, 0.6 * length):
        car.disc(x, 0.32, 0.16, palette.second * 0.4)
        car.line(
            (x - 0.1 * np.cos(turn), 0.32 - 0.1 * np.sin(turn)),
            (x + 0.1 * np.cos(turn), 0.32 + 0.1 * np.sin(turn)),
            0.03,
            palette.accent,
        )
    _lamps(car.moved(0.0, -0.1 - 2 * roof), palette, plan, rng)


def _lamps(roof: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """Lamps that flash by turns, or a load on the roof that does not."""
    a, b = rng.uniform(0.10, 0.18), rng.uniform(0.06, 0.12)
    if plan.name == "siren":
        flash = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * (rng.uniform(1.5, 4.0) * FRAME_TIMES_S + rng.uniform())))
        bright = uniform(rng, LIKENESS.lamp)
        left, right = rng.uniform(0, 1, (2, 3)) * 0.5 + 0.5 * np.eye(3)[rng.integers(0, 3, 2)]
        if rng.uniform() < LIKENESS.glow:
            roof.disc(0.0, 0.0, 0.45, left, 0.5 * bright * flash)
            roof.disc(0.0, 0.0, 0.45, right, 0.5 * bright * (1 - flash))
        roof.box(-a, 0.0, a, b, left, bright * flash)
        roof.box(a, 0.0, a, b, right, bright * (1 - flash))
    elif rng.uniform() < LIKENESS.roof_load:
        roof.box(0.0, 0.0, 2 * a, b, palette.accent, rng.uniform(0.15, 1.0))


def _flyer(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A helicopter or a bird crosses the sky: a body with a tail, under a rotor or between wings."""
    path = rng.uniform(0.2, 1.2) * (FRAME_TIMES_S - 0.5)
    bob = 0.08 * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * FRAME_TIMES_S + rng.uniform()))
    flyer = canvas.moved(path, bob, size=rng.uniform(0.8, 1.1))
    a, b = rng.uniform(0.25, 0.45), rng.uniform(0.14, 0.26)
    tail = rng.uniform(0.6, 0.9)
    flyer.line((0.0, 0.0), (-tail, rng.uniform(-0.2, 0.1)), 0.05, palette.main)
    flyer.ellipse(0.0, 0.0, a, b, palette.main)
    flyer.disc(a * 0.7, -0.05, b * rng.uniform(0.4, 0.9), palette.second)
    span = rng.uniform(0.5, 0.9)
    if plan.name == "helicopter":
        turn = np.abs(np.cos(2 * np.pi * (rng.uniform(2.2, 3.8) * FRAME_TIMES_S + rng.uniform())))
        reach, height = span * (0.4 + 0.6 * turn), -b - rng.uniform(0.05, 0.2)
        if rng.uniform() < LIKENESS.skids:
            flyer.line((-0.3, b + 0.12), (0.35, b + 0.12), 0.05, palette.main)
            flyer.line((0.0, 0.0), (0.0, b + 0.12), 0.04, palette.main)
            flyer.line((-tail, -0.2), (-tail, 0.1), 0.06, palette.accent)
        flyer.line((0.0, 0.0), (0.0, height), 0.04, palette.accent)
        flyer.line((-reach, height), (reach, height), 0.05, palette.accent, uniform(rng, LIKENESS.rotor))
        return
    lift = np.sin(2 * np.pi * (rng.uniform(1.5, 3.8) * FRAME_TIMES_S + rng.uniform())) - 0.2
    beat = span * uniform(rng, LIKENESS.wing_beat) * lift
    for side in (-1.0, 1.0):
        tip = side * span * (0.5 + 0.3 * np.cos(lift))
        flyer.line((0.0, -0.05), (tip, -0.05 + beat), 0.08, palette.accent, rng.uniform(0.6, 1.0))


def _animal(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A dog or a cat, head raised at each call; they differ in ears, muzzle, tail and build, none for certain."""
    cat = plan.name == "cat"
    erect = np.clip(rng.normal(LIKENESS.ears[cat], LIKENESS.ears[2]), 0, 1)
    muzzle = np.clip(rng.normal(LIKENESS.muzzle[cat], LIKENESS.muzzle[2]), 0, 0.3)
    curl = rng.normal(1.2 if cat else 0.6, 0.5)
    build = rng.uniform(0.13, 0.22) if cat else rng.uniform(0.16, 0.27)
    call = plan.active(FRAME_TIMES_S, 0.08)
    canvas.ellipse(0.0, 0.15, 0.5, build, palette.main)
    stride = rng.uniform(0.0, 0.15) * np.sin(2 * np.pi * (rng.uniform(1, 3) * FRAME_TIMES_S + rng.uniform()))
    for x, sign in ((-0.38, 1), (-0.28, -1), (0.28, 1), (0.38, -1)):
        canvas.line((x, 0.2), (x + sign * stride, 0.65), 0.05, palette.main)
    wag = curl + 0.4 * np.sin(2 * np.pi * (rng.uniform(1, 4) * FRAME_TIMES_S + rng.uniform()))
    canvas.line((-0.45, 0.1), (-0.45 - 0.4 * np.cos(wag), 0.1 - 0.4 * np.sin(wag)), 0.05, palette.main)
    head = canvas.moved(0.52, -0.12 - 0.12 * call, angle=-0.4 * call)
    head.disc(0.0, 0.0, 0.2, palette.main)
    head.line((0.1, 0.06), (0.15 + muzzle, 0.08), 0.08, palette.main)
    head.line((0.15, 0.08), (0.17 + muzzle, 0.08 + 0.12 * call), 0.05, palette.accent, call)
    for x in (-0.12, 0.08):
        head.line((x, -0.1), (x - 0.15 * (1 - erect), -0.1 - 0.28 * (2 * erect - 1)), 0.06, palette.second)


def _person(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """Someone seen from the waist up, who talks with moving hands or claps them."""
    canvas.trapezoid(0.0, 0.65, 0.3, 0.45, 0.4, palette.main)
    canvas.ellipse(0.0, -0.2, 0.24, 0.32, palette.second)
    hair = palette.main[::-1] * 0.5
    canvas.ellipse(0.0, -0.45, 0.24, 0.12, hair)
    for x in (-0.09, 0.09):
        canvas.disc(x, -0.28, 0.04, hair)
    if plan.name == "applause":
        apart = uniform(rng, LIKENESS.clap) * np.abs(np.sin(np.pi * plan.phase(FRAME_TIMES_S)))
        smile = np.full(FRAMES, 0.02)
        left, right, level = -0.05 - apart, 0.05 + apart, np.full(FRAMES, uniform(rng, LIKENESS.clap_height))
        heights = (level, level)
    else:
        smile = 0.03 + 0.15 * plan.active(FRAME_TIMES_S, 0.08)
        slow = rng.uniform(0.5, 2.5, 2)[:, None] * FRAME_TIMES_S + rng.uniform(0, 1, (2, 1))
        waves = uniform(rng, LIKENESS.gesture) * np.sin(2 * np.pi * slow)
        left, right = -rng.uniform(0.2, 0.55) + waves[0], rng.uniform(0.2, 0.55) + waves[1]
        heights = (uniform(rng, LIKENESS.hand_height) + waves[1], uniform(rng, LIKENESS.hand_height) + waves[0])
    canvas.ellipse(0.0, -0.05, 0.12, smile, palette.accent * 0.2)
    for shoulder, hand, height in ((-0.4, left, heights[0]), (0.4, right, heights[1])):
        canvas.line((shoulder, 0.4), (hand, height), 0.06, palette.main * 0.7)
        canvas.disc(hand, height, 0.13, palette.second)


def _walker(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """Someone walks across, a foot down at each event."""
    walker = canvas.moved(rng.uniform(0.1, 0.7) * (FRAME_TIMES_S - 0.5))
    phase = plan.phase(FRAME_TIMES_S)
    reach = rng.uniform(0.2, 0.4) * np.cos(np.pi * phase)
    lift = 0.12 * np.abs(np.sin(np.pi * phase))
    for side in (-1.0, 1.0):
        walker.line((0.0, 0.15), (side * reach, 0.8 - lift * (side * np.cos(np.pi * phase) < 0)), 0.07, palette.second)
        walker.line((0.0, -0.3), (-0.8 * side * reach, 0.1), 0.05, palette.main)
    walker.line((0.0, -0.3), (0.0, 0.15), 0.12, palette.main)
    walker.disc(0.0, -0.6, 0.16, palette.accent)


def _drill(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A drill shakes and eats into a wall while it runs."""
    running = plan.active(FRAME_TIMES_S, 0.1)
    shake = 0.06 * running * rng.standard_normal((2, FRAMES))
    deep = 0.25 * np.cumsum(running) / FRAMES
    canvas.box(0.95, 0.0, 0.15, 1.2, palette.second, rng.uniform(0.4, 1.0))
    tool = canvas.moved(-0.2 + shake[0] + deep, -0.1 + shake[1])
    tool.line((0.3, 0.0), (0.85, 0.0), rng.uniform(0.04, 0.08), palette.second * 0.5)
    tool.box(0.0, 0.0, rng.uniform(0.3, 0.4), rng.uniform(0.14, 0.2), palette.main)
    tool.line((-0.15, 0.1), (-0.3, 0.55), 0.1, palette.main)
    for _ in range(4):  # dust
        fly = rng.uniform(0, 0.5, FRAMES)
        canvas.disc(0.75 - fly, rng.uniform(-0.4, 0.4, FRAMES), 0.05, palette.accent, running * rng.uniform(0.3, 1))


def _rain(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """Drops fall in front of whatever there is."""
    slant, speed = rng.uniform(-0.4, 0.4), rng.uniform(1.5, 5.0)
    length, width, opacity = rng.uniform(0.12, 0.35), rng.uniform(0.02, 0.05), rng.uniform(0.35, 0.9)
    for _ in range(int(rng.integers(6, 18))):
        y = (rng.uniform(0, 2.6) + speed * FRAME_TIMES_S) % 2.6 - 1.3
        x = rng.uniform(-1.2, 1.2) + slant * y
        canvas.line((x, y), (x + slant * length, y + length), width, palette.main, opacity)


def _pan(canvas: Canvas, palette: Palette, plan: Plan, rng: np.random.Generator) -> None:
    """A pan on the fire: drops jump about in it."""
    squash = rng.uniform(0.5, 1.0)
    canvas.line((0.4, 0.1), (1.2, 0.1 + rng.uniform(-0.4, 0.4)), 0.08, palette.second)
    canvas.ellipse(0.0, 0.1, 0.7, 0.7 * squash, palette.second)
    canvas.ellipse(0.0, 0.1, 0.58, 0.58 * squash, palette.main)
    boiling = plan.active(FRAME_TIMES_S, 0.1)
    for _ in range(int(rng.integers(5, 14))):
        turn, r = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.25))
        jump = 0.1 * boiling * rng.standard_normal((2, FRAMES))
        x, y = r * np.cos(turn) + jump[0], 0.1 + squash * r * np.sin(turn) + jump[1]
        canvas.disc(x, y, rng.uniform(0.04, 0.1), palette.accent, rng.uniform(0.3, 1.0))


_SCENES: dict[str, Scene] = {
    "church_bell": _hanging,
    "clock": _hanging,
    "glass_chime": _strands,
    "guitar": _strands,
    "siren": _vehicle,
    "car": _vehicle,
    "helicopter": _flyer,
    "bird": _flyer,
    "dog": _animal,
    "cat": _animal,
    "applause": _person,
    "speech": _person,
    "footsteps": _walker,
    "drill": _drill,
    "rain": _rain,
    "frying": _pan,
}
