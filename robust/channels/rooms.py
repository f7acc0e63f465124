"""Rooms: reverberation by the image source method (Allen & Berkley 1979; pyroomacoustics), at a given RT60.

Sizes as Imperio's adapted rooms (methods.md 6.3): 6-10 x 5-9 x 3-5 m, all walls alike, no absorption by air. Responses
are aligned to the direct path, which arrives at sample 0, and normalised so that it has unit energy (within 0.6 dB, as
it is limited in band): a reverberant clip is the dry one and its reflections, and so it is louder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Victim
from robust.channels import check_heard, range_of, spec_of
from robust.seeds import derived_seed
from robust.types import Batch, Outcome

SMALLEST_M, LARGEST_M = (6.0, 5.0, 3.0), (10.0, 9.0, 5.0)
FROM_WALL_M, APART_M = 0.5, 1.0
RT60_RANGE_S = (0.2, 1.5)
"""Shorter, and the largest room would need walls that swallow everything; longer, and the smallest has more than ten
million images."""

WITHIN, TRIES, REFUSED = 0.05, 10, 0.3
"""Sabine's formula errs by up to a half in such rooms: absorption is corrected until the measured RT60 is this near."""

DIRECT_SECONDS = 0.0025
"""What arrives so soon after the direct path counts as direct in the DRR."""


@dataclass(frozen=True)
class Geometry:
    """A shoebox room with a source and a microphone in it, in metres."""

    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]

    @property
    def distance(self) -> float:
        """Length of the direct path."""
        return float(np.linalg.norm(np.subtract(self.source, self.microphone)))


@dataclass(frozen=True)
class Response:
    """An impulse response (L,) float32, direct path at sample 0 with unit energy, and what was measured of it."""

    samples: Tensor
    rt60_s: float
    drr_db: float


def draw_geometry(generator: np.random.Generator) -> Geometry:
    """A room of uniform size; source and microphone uniform in it, 0.5 m from walls, 1 m apart."""
    size = generator.uniform(SMALLEST_M, LARGEST_M)
    while True:
        source, microphone = generator.uniform(FROM_WALL_M, size - FROM_WALL_M, (2, 3))
        if np.linalg.norm(source - microphone) >= APART_M:
            return Geometry(*(tuple(place.round(3).tolist()) for place in (size, source, microphone)))


@lru_cache(maxsize=1024)
def room_response(geometry: Geometry, rt60_s: float, sample_rate: int) -> Response:
    """The response of a room whose measured RT60 is `rt60_s`; kept in memory.

    Raises:
        ThreatModelError: If the room cannot be that reverberant.
    """
    from pyroomacoustics import inverse_sabine
    from pyroomacoustics.experimental import measure_rt60

    shortest = 1.001 * float(inverse_sabine(1.0, geometry.size)[0])  # where absorption is 1
    # Long reverberation comes out longer than Sabine says, and costs by its cube: begin below. In short one the first
    # reflections decide, one by one: correct carefully.
    begin, power = (0.9, 1.0) if rt60_s > 0.5 else (1.0, 0.7)
    goal, best = max(rt60_s * begin, shortest), (np.zeros(0, dtype=np.float32), np.inf)
    for _ in range(TRIES):
        samples = _simulated(geometry, goal, sample_rate)
        measured = float(measure_rt60(samples, fs=sample_rate, decay_db=30))
        if abs(measured - rt60_s) < abs(best[1] - rt60_s):
            best = samples, measured
        if abs(measured / rt60_s - 1) <= WITHIN:
            break
        goal = max(goal * (rt60_s / measured) ** power, shortest)
    samples, measured = best
    if abs(measured / rt60_s - 1) > REFUSED:
        raise ThreatModelError(
            f"A room of {' x '.join(f'{side:g}' for side in geometry.size)} m cannot have an RT60 of {rt60_s:g} s; the "
            f"nearest found is {measured:.2f} s. Ask for {RT60_RANGE_S[0]:g} to {RT60_RANGE_S[1]:g} s."
        )
    energy, soon = np.square(samples, dtype=np.float64), round(DIRECT_SECONDS * sample_rate) + 1
    drr_db = float(10 * np.log10(energy[:soon].sum() / max(energy[soon:].sum(), 1e-30)))
    return Response(torch.from_numpy(samples), measured, drr_db)


def _simulated(geometry: Geometry, rt60_s: float, sample_rate: int) -> NDArray[np.float32]:
    """The response at Sabine's absorption for `rt60_s`, cut where the images end."""
    import pyroomacoustics as pra
    from pyroomacoustics.parameters import constants

    absorption, order = pra.inverse_sabine(rt60_s, geometry.size)
    room = pra.ShoeBox(geometry.size, fs=sample_rate, materials=pra.Material(absorption), max_order=order)
    room.add_source(geometry.source)
    room.add_microphone(geometry.microphone)
    threads = constants.get("num_threads")
    try:
        constants.set("num_threads", 1)  # each number of threads rounds the sum of images its own way
        room.compute_rir()
    finally:
        constants.set("num_threads", threads)
    full = room.rir[0][0]
    # The filters that place images between samples delay all of them by half their length.
    delay = constants.get("frac_delay_length") // 2 + geometry.distance / constants.get("c") * sample_rate
    length = round(1.1 * rt60_s * sample_rate)
    turns = np.fft.rfftfreq(2 * len(full)) * delay  # an exact shift, between samples too
    shifted = np.fft.irfft(np.fft.rfft(full, 2 * len(full)) * np.exp(2j * np.pi * turns))[:length]
    return (shifted * geometry.distance).astype(np.float32)


def convolve(clips: Tensor, responses: Tensor) -> Tensor:
    """Clips (B, T) through responses (B, L), cut to T; FFT at a fast length, differentiable in both."""
    from scipy.fft import next_fast_len

    length = next_fast_len(clips.shape[1] + responses.shape[1] - 1, real=True)
    spectrum = torch.fft.rfft(clips, length) * torch.fft.rfft(responses, length)
    heard: Tensor = torch.fft.irfft(spectrum, length)
    return heard[:, : clips.shape[1]]


@dataclass(frozen=True)
class Room:
    """Every clip is heard in a room of its own, the same at every RT60; what rings on into padding is cut off.

    A reverberant waveform may leave [-1, 1]; nothing is clipped, and `room_over_range` tells the share.

    Attributes:
        rt60_s: Reverberation time in seconds; 0 is no room at all.
        rooms: How many rooms a seed has; each clip is in the one that its id says. Simulating one takes up to seconds.
        modality: A waveform, (B, T).

    Raises:
        ThreatModelError: If no such room can be; when applied, if the victim has no such modality or it is no waveform.
    """

    rt60_s: float
    rooms: int = 16
    modality: str = "audio"

    def __post_init__(self) -> None:
        low, high = RT60_RANGE_S
        if self.rt60_s != 0 and not low <= self.rt60_s <= high:
            raise ThreatModelError(
                f"The RT60 must be 0 (no room) or {low:g} to {high:g} s, what rooms of "
                f"{' x '.join(f'{a:g}-{b:g}' for a, b in zip(SMALLEST_M, LARGEST_M, strict=True))} m can have; "
                f"given {self.rt60_s} s."
            )
        if self.rooms < 1:
            raise ThreatModelError(f"There must be at least one room; given {self.rooms}.")

    @property
    def name(self) -> str:
        """E.g. `room-audio-0.4s`."""
        return f"room-{self.modality}-{self.rt60_s:g}s"

    def describe(self) -> dict[str, Any]:
        """All settings, and the sizes that rooms are drawn from."""
        return {
            "condition": self.name,
            "modality": self.modality,
            "rt60_s": self.rt60_s,
            "rooms": self.rooms,
            "sizes_m": [SMALLEST_M, LARGEST_M],
        }

    def geometry(self, clip: str, seed: int) -> Geometry:
        """The room of the clip with this id."""
        number = derived_seed(seed, clip, "room") % self.rooms
        return draw_geometry(np.random.default_rng(derived_seed(seed, number, "geometry")))

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The clips in their rooms; columns `rt60_s_measured`, `drr_db` (infinite without room), `room_over_range`."""
        check_heard(self.modality, batch)
        spec, clips = spec_of(victim, self.name), batch.inputs[self.modality]
        if clips.ndim != 2:
            raise ThreatModelError(f"A room needs a waveform (B, T); {self.modality!r} is {tuple(clips.shape)}.")
        if self.rt60_s == 0:
            count = len(batch)
            columns = {"rt60_s_measured": [0.0] * count, "drr_db": [float("inf")] * count}
            return Outcome(dict(batch.inputs), {**columns, "room_over_range": [0.0] * count})
        found = [room_response(self.geometry(clip, seed), self.rt60_s, spec.sample_rate) for clip in batch.ids]
        # Clip by clip: an FFT rounds a batch otherwise than its rows. What arrives after a clip's end is not heard.
        pairs = zip(clips, (one.samples[: clips.shape[1]] for one in found), strict=True)
        valid = batch.valid[self.modality].expand_as(clips)
        heard = torch.cat([convolve(clip[None], response[None].to(clips)) for clip, response in pairs]) * valid
        low, high = range_of(spec, self.modality)
        beyond = ((heard < low) | (heard > high)).double().sum(dim=1) / valid.sum(dim=1).clamp_min(1)
        columns = {
            "rt60_s_measured": [one.rt60_s for one in found],
            "drr_db": [one.drr_db for one in found],
            "room_over_range": beyond.cpu().tolist(),
        }
        return Outcome({**batch.inputs, self.modality: heard}, columns)
