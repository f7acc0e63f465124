"""The sounds of `events`: each a small physical model driven by a plan, in float64, NumPy and SciPy only.

Every synthesis takes its settings, the plan and a generator and returns (SAMPLES,) float64 of arbitrary level; the
room, the background and the level come after, in `events_room`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.signal import lfilter, oaconvolve

from robust.data.events_plan import Floats, Plan, log_uniform, uniform
from robust.data.events_settings import (
    SAMPLE_RATE,
    SAMPLES,
    SOUND,
    Impact,
    Machine,
    Modal,
    Range,
    String,
    Sweep,
    Texture,
    Voice,
)

TIMES_S = np.arange(SAMPLES) / SAMPLE_RATE
_HIGHEST_HZ = 7600.0


def sound(plan: Plan, rng: np.random.Generator) -> Floats:
    """The dry sound of `plan`: (SAMPLES,) float64, root mean square 1."""
    settings = SOUND[plan.name]
    audio = _SYNTHESES[type(settings)](settings, plan, rng)
    audio = audio - audio.mean()
    return _unit(audio)


def ring(excitation: Floats, f_hz: float, decay_s: float) -> Floats:
    """`excitation` through one damped mode: impulse response sin(2 pi f t) exp(-t / decay)."""
    radius = np.exp(-1.0 / (decay_s * SAMPLE_RATE))
    angle = 2 * np.pi * min(f_hz, _HIGHEST_HZ) / SAMPLE_RATE
    rung: Floats = lfilter([0.0, radius * np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2], excitation)
    return rung


def _impulses(onsets_s: Floats, strengths: Floats) -> Floats:
    train = np.zeros(SAMPLES)
    at = (onsets_s * SAMPLE_RATE).astype(np.int64)
    inside = (at >= 0) & (at < SAMPLES)
    np.add.at(train, at[inside], strengths[inside])
    return train


def _unit(audio: Floats) -> Floats:
    scaled: Floats = audio / (np.sqrt(np.mean(audio**2)) + 1e-12)
    return scaled


def _modal(settings: Modal, plan: Plan, rng: np.random.Generator) -> Floats:
    contact = max(2, round(log_uniform(rng, settings.contact_ms) * SAMPLE_RATE / 1000))
    hammer = np.hanning(contact + 2)[1:-1]
    struck = lfilter(hammer / hammer.sum(), [1.0], _impulses(plan.onsets_s, plan.strengths))
    f0, decay = log_uniform(rng, settings.f0_hz), log_uniform(rng, settings.decay_s)
    damping, slope = uniform(rng, settings.damping), uniform(rng, (0.0, 0.5))
    audio = np.zeros(SAMPLES)
    for order, ratio in enumerate(settings.ratios):
        f = f0 * ratio * (1 + settings.spread * rng.uniform(-1, 1))
        gain = rng.uniform(0.2, 1.0) * np.exp(-slope * order)
        beat = 1 + rng.uniform(0.0005, 0.004)
        if f >= _HIGHEST_HZ:
            continue
        life = decay / (1 + damping * (ratio - settings.ratios[0]))
        audio += gain * ring(struck, f, life)
        if order < 3:  # no casting is quite round: the lowest modes come in pairs that beat
            audio += 0.6 * gain * ring(struck, f * beat, life)
    return audio


def _string(settings: String, plan: Plan, rng: np.random.Generator) -> Floats:
    audio = np.zeros(SAMPLES)
    f0 = log_uniform(rng, settings.f0_hz)
    for onset, strength in zip(plan.onsets_s, plan.strengths, strict=True):
        f = f0 * 2 ** (rng.integers(0, 12) / 12)
        whole = int(SAMPLE_RATE / f)
        gain = np.exp(-1.0 / (f * log_uniform(rng, settings.decay_s)))
        late = rng.uniform(0.2, 0.5)  # weight of the second tap: how soon the string's brightness goes
        burst = rng.uniform(-1, 1, whole)
        pick = max(1, int(uniform(rng, settings.pluck) * whole))
        burst = burst - np.roll(burst, pick)  # a string plucked at a node of a partial lacks that partial
        start = int(onset * SAMPLE_RATE)
        excitation = np.zeros(SAMPLES)
        excitation[start : start + whole] = burst[: SAMPLES - start]
        loop = np.zeros(whole + 2)
        loop[0], loop[whole], loop[whole + 1] = 1.0, -gain * (1 - late), -gain * late
        audio += strength * lfilter([1.0], loop, excitation)
    body = ring(audio, uniform(rng, (90, 130)), 0.01) + ring(audio, uniform(rng, (180, 260)), 0.008)
    return _unit(audio) + 0.5 * _unit(body)


def _machine(settings: Machine, plan: Plan, rng: np.random.Generator) -> Floats:
    glide = uniform(rng, settings.glide)
    rate = plan.pulse_hz * (
        1 + glide * TIMES_S + 0.03 * np.sin(2 * np.pi * (rng.uniform(1, 4) * TIMES_S + rng.uniform()))
    )
    phase = np.cumsum(rate) / SAMPLE_RATE + rng.uniform()
    cycle = np.floor(phase).astype(np.int64)
    at = np.flatnonzero(np.diff(cycle)) + 1
    roughness = uniform(rng, settings.roughness)
    pulses = np.zeros(SAMPLES)
    pulses[at] = np.exp(roughness * rng.standard_normal(len(at)))
    since = phase - cycle
    noise = rng.standard_normal(SAMPLES) * (0.2 + np.exp(-since * uniform(rng, (2, 8))))
    mixed = _unit(pulses) + uniform(rng, settings.noise) * _unit(noise)
    audio = np.zeros(SAMPLES)
    for limits in settings.resonance_hz:
        audio += rng.uniform(0.3, 1.0) * _unit(
            ring(mixed, log_uniform(rng, limits), log_uniform(rng, settings.ring_ms) / 1000)
        )
    shaft = 2 * np.pi * phase * round(uniform(rng, settings.whine_ratio))
    whine = np.sin(shaft) + rng.uniform(0, 0.6) * np.sin(2 * shaft) + rng.uniform(0, 0.4) * np.sin(3 * shaft)
    audio = _unit(audio) + uniform(rng, settings.whine) * whine
    return audio * plan.active(TIMES_S, uniform(rng, (0.03, 0.2)))


def _grains(settings: Texture, rng: np.random.Generator) -> Floats:
    """One kernel: a short ring between a damped tone and a noise burst."""
    decay = log_uniform(rng, settings.ring_ms) / 1000
    times = TIMES_S[: max(8, int(5 * decay * SAMPLE_RATE))]
    tone = np.sin(2 * np.pi * log_uniform(rng, settings.ring_hz) * times)
    burst = ring(rng.standard_normal(len(times)), log_uniform(rng, settings.ring_hz), 0.0004)
    noisiness = uniform(rng, settings.noisiness)
    return np.exp(-times / decay) * ((1 - noisiness) * tone + noisiness * _unit(burst))


def _texture(settings: Texture, plan: Plan, rng: np.random.Generator) -> Floats:
    count = max(3, rng.poisson(log_uniform(rng, settings.density_hz)))
    at = rng.uniform(0, 1, count)
    strengths = np.exp(uniform(rng, settings.spread) * rng.standard_normal(count))
    kinds = rng.integers(0, 4, count)
    audio = np.zeros(SAMPLES)
    for kind in range(4):
        mine = kinds == kind
        kernel = _grains(settings, rng)
        audio += oaconvolve(_impulses(at[mine], strengths[mine]), kernel)[:SAMPLES]
    if len(plan.onsets_s) > 1:  # somebody claps near the microphone; he is in the picture too
        near = _impulses(plan.onsets_s, plan.strengths) * strengths.max() * rng.uniform(0.7, 1.5)
        audio += oaconvolve(near, _grains(settings, rng))[:SAMPLES]
    else:
        audio *= plan.active(TIMES_S, 0.1)
    tilt = uniform(rng, settings.hiss_tilt)
    hiss = lfilter([1.0, -tilt], [1.0], rng.standard_normal(SAMPLES))
    return _unit(audio) + uniform(rng, settings.hiss) * _unit(hiss)


def _knock(settings: Impact, pitch: float, rng: np.random.Generator) -> Floats:
    """One contact: damped modes and a noise burst, 0.1 s."""
    times = TIMES_S[: SAMPLE_RATE // 10]
    audio = np.zeros(len(times))
    for limits in settings.ring_hz:
        decay = log_uniform(rng, settings.ring_ms) / 1000
        f = min(log_uniform(rng, limits) * pitch, _HIGHEST_HZ)
        audio += rng.uniform(0.2, 1.0) * np.exp(-times / decay) * np.sin(2 * np.pi * f * times)
    burst = ring(rng.standard_normal(len(times)), log_uniform(rng, settings.ring_hz[1]) * pitch, 0.0005)
    decay = log_uniform(rng, settings.ring_ms) / 1000
    return audio + uniform(rng, settings.noise) * _unit(burst) * np.exp(-times / decay)


def _impact(settings: Impact, plan: Plan, rng: np.random.Generator) -> Floats:
    state = rng.integers(0, 2**63)  # left and right foot, tick and tock: one object, two pitches
    turn = (1.0, uniform(rng, settings.alternation))
    delay, second = log_uniform(rng, settings.second_s), uniform(rng, settings.second)
    audio = np.zeros(SAMPLES)
    for side, pitch in enumerate(turn):
        onsets, strengths = plan.onsets_s[side::2], plan.strengths[side::2]
        if len(onsets):
            train = _impulses(onsets, strengths) + second * _impulses(onsets + delay, strengths)
            audio += oaconvolve(train, _knock(settings, pitch, np.random.default_rng(state)))[:SAMPLES]
    return audio


def _formants(source: Floats, centres_hz: list[float], rng: np.random.Generator) -> Floats:
    """`source` through parallel formants of 60 to 200 Hz bandwidth, weaker upwards."""
    audio = np.zeros(SAMPLES)
    for order, centre in enumerate(centres_hz):
        audio += 0.6**order * _unit(ring(source, centre, 1.0 / (np.pi * rng.uniform(60, 200))))
    return audio


def _voice(settings: Voice, plan: Plan, rng: np.random.Generator) -> Floats:
    f0, bend = log_uniform(rng, settings.f0_hz), uniform(rng, settings.bend)
    skew = uniform(rng, (0.25, 0.6))
    pitch = np.full(SAMPLES, f0)
    blend = np.zeros(SAMPLES)
    for order, (onset, duration) in enumerate(zip(plan.onsets_s, plan.durations_s, strict=True)):
        along = (TIMES_S - onset) / duration
        inside = (along >= 0) & (along < 1)
        place = along[inside]
        arch = np.where(place < skew, place / skew, (1 - place) / (1 - skew))
        accent = 1 + 0.1 * rng.uniform(-1, 1)
        pitch[inside] = f0 * accent * (1 + bend * (arch - 0.5))
        blend[inside] = place if order % 2 == 0 else 1 - place
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sharpness = log_uniform(rng, settings.sharpness)  # pulses exp(k (cos - 1)): harmonics fall off smoothly, no aliases
    source = np.exp(sharpness * (np.cos(phase) - 1))
    source = _unit(source - source.mean()) + uniform(rng, settings.breath) * rng.standard_normal(SAMPLES)
    first = [log_uniform(rng, limits) for limits in settings.formants_hz]
    last = [log_uniform(rng, limits) for limits in settings.formants_hz]
    audio = (1 - blend) * _formants(source, first, rng) + blend * _formants(source, last, rng)
    return audio * plan.active(TIMES_S, uniform(rng, (0.02, 0.08)))


def _sweep(settings: Sweep, plan: Plan, rng: np.random.Generator) -> Floats:
    centre, octaves = log_uniform(rng, settings.f_hz), uniform(rng, settings.octaves)
    drive = uniform(rng, settings.drive)
    if plan.pulse_hz:
        turn = 2 * np.pi * (plan.pulse_hz * TIMES_S + rng.uniform())
        wave = (np.sin(turn), 2 / np.pi * np.arcsin(np.sin(turn)), np.tanh(8 * np.sin(turn)))[rng.integers(0, 3)]
        bend = 0.5 * octaves * wave
        level = plan.active(TIMES_S, uniform(rng, (0.02, 0.2)))
    else:
        bend, level = _chirps(octaves, plan, rng), plan.active(TIMES_S, 0.08)
    f = np.minimum(centre * 2**bend, _HIGHEST_HZ)
    tone = np.sin(2 * np.pi * np.cumsum(f) / SAMPLE_RATE)
    return level * (tone + drive * np.tanh(2 * tone + 0.5 * drive))


def _chirps(octaves: float, plan: Plan, rng: np.random.Generator) -> Floats:
    """Pitch of a bird's notes, in octaves about its centre: one or two shapes, repeated, with a trill."""
    bend = np.zeros(SAMPLES)
    shapes = rng.uniform(-1, 1, (2, 3))
    trill_hz, trill = rng.uniform(15, 40), rng.uniform(0, 0.15)
    for order, (onset, duration) in enumerate(zip(plan.onsets_s, plan.durations_s, strict=True)):
        along = (TIMES_S - onset) / duration
        inside = (along >= 0) & (along < 1)
        slope, curve, step = shapes[order % 2]
        place = along[inside]
        bend[inside] = octaves * (slope * (place - 0.5) + 2 * curve * (place - 0.5) ** 2 + 0.3 * step)
        bend[inside] += trill * np.sin(2 * np.pi * trill_hz * TIMES_S[inside])
    return bend


_SYNTHESES: dict[type, Callable[[Any, Plan, np.random.Generator], Floats]] = {
    Modal: _modal,
    String: _string,
    Machine: _machine,
    Texture: _texture,
    Impact: _impact,
    Voice: _voice,
    Sweep: _sweep,
}


def pulse_range(name: str) -> Range:
    """Rates in Hz of what repeats inside one event of class `name`; (0, 0) where nothing does."""
    settings = SOUND[name]
    return settings.rate_hz if isinstance(settings, Machine | Sweep) else (0.0, 0.0)
