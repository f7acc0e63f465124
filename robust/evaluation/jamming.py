"""Speech and music in a room together, as a condition; what is played beside adversarial music; and the scores of it.

Whatever is played has the same loudness (ITU-R BS.1770-4, measured with its gates) and meets a clip at the same moment,
in the same rooms and at the same level: maskers differ in nothing but their sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attacks.channel import Channel
from attacks.errors import ThreatModelError, unknown
from attacks.gradients import LANES, Victim
from attacks.jamming import draw_meeting, heard
from attacks.loudness import OFFSET_DB, weighted
from attacks.music import LOUDNESS_LUFS
from robust.channels import check_heard
from robust.channels.levels import active_regions, frame_samples
from robust.channels.noise import coloured_noise
from robust.errors import DataError
from robust.evaluation.paired import compare
from robust.metrics.detection import Detection, detection
from robust.metrics.perceptual import loudness_lufs
from robust.seeds import generators_for
from robust.types import Batch, Outcome, VictimSpec

if TYPE_CHECKING:
    import pandas as pd

MASKERS = ("adversarial", "plain", "noise")
"""What is played: the music as optimised, the same music as it was before, white noise. Silence stands beside them."""

QUIETEST_LUFS = -70.0
"""The gate of BS.1770; nothing is taken for quieter, so that music beside digital silence is not infinitely soft."""


def speech_loudness(clips: Tensor, valid: Tensor, sample_rate: int) -> Tensor:
    """(B,) LUFS of each of `clips` (B, T) over what of it is active; `QUIETEST_LUFS` at least.

    Without the gates of BS.1770, whose blocks of 0.4 s are as long as a word.
    """
    active = active_regions(clips, valid, frame_samples(sample_rate)).to(clips)
    power = (weighted(clips, sample_rate).square() * active).sum(dim=1) / active.sum(dim=1).clamp_min(1)
    return (OFFSET_DB + 10 * power.clamp_min(1e-14).log10()).clamp_min(QUIETEST_LUFS)


def at_loudness(loop: Tensor, sample_rate: int, lufs: float = LOUDNESS_LUFS) -> tuple[Tensor, float]:
    """A loop (T,) brought to an integrated loudness as it goes round, and the loudness measured afterwards.

    Raises:
        ThreatModelError: If there is nothing to be heard.
    """
    twice = loop.double().cpu().repeat(2).numpy()
    before = loudness_lufs(twice, sample_rate)
    if before is None:
        raise ThreatModelError(
            f"A masker needs 0.2 s or more above -70 LUFS to have a loudness; given {len(loop) / sample_rate:.2f} s."
        )
    gain = 10 ** ((lufs - before) / 20)
    after = loudness_lufs(twice * gain, sample_rate)
    return loop * gain, float("nan") if after is None else after


def white_loop(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """(samples,) white noise at `LOUDNESS_LUFS`."""
    return at_loudness(coloured_noise(samples, "white", sample_rate, generator), sample_rate)[0]


@dataclass(frozen=True)
class Jammed:
    """Clips as they are heard while something is played.

    Attributes:
        masker: Its name; `silence` where nothing is.
        smr_db: Loudness of the speech over that of the masker, before rooms.
        loop: (L,) at `LOUDNESS_LUFS`; None for silence.
        speech_channel, music_channel: Rooms, each with draws of its own; None for none.
        loop_samples: Length of the loops, so that silence makes the same draws.
    """

    masker: str
    smr_db: float
    loop: Tensor | None = field(compare=False, repr=False)
    speech_channel: Channel | None
    music_channel: Channel | None
    loop_samples: int

    @property
    def name(self) -> str:
        """E.g. `jam-plain-5dB`."""
        return f"jam-{self.masker}" + ("" if self.loop is None else f"-{self.smr_db:g}dB")

    def describe(self) -> dict[str, Any]:
        """Level, channels, and a hash of what is played."""
        content = b"" if self.loop is None else self.loop.cpu().float().contiguous().numpy().tobytes()
        return {
            "condition": self.name,
            "masker": self.masker,
            "smr_db": None if self.loop is None else self.smr_db,
            "loop": hashlib.blake2b(content, digest_size=16).hexdigest(),
            "loop_samples": self.loop_samples,
            "speech_channel": None if self.speech_channel is None else self.speech_channel.describe(),
            "music_channel": None if self.music_channel is None else self.music_channel.describe(),
        }

    def apply(self, victim: Victim, batch: Batch, clean_logits: Tensor, seed: int) -> Outcome:
        """The mixture; columns tell level, moment and rooms."""
        check_heard("audio", batch)
        spec = getattr(victim, "spec", None)
        rate = spec.sample_rate if isinstance(spec, VictimSpec) else 16_000
        clips, valid = batch.inputs["audio"], batch.valid["audio"].expand_as(batch.inputs["audio"])
        # One draw for all maskers and levels of a clip.
        generators = generators_for(seed, batch.ids, "jamming")
        meeting = draw_meeting(
            clips,
            generators,
            loop_samples=self.loop_samples,
            smr_db=(self.smr_db, self.smr_db),
            speech_channel=self.speech_channel,
            music_channel=self.music_channel,
        )
        loudness = speech_loudness(clips, valid, rate)
        # In full lanes, so that no row depends on how many there are.
        rows = torch.arange(len(clips) + -len(clips) % LANES, device=clips.device).clamp_max(len(clips) - 1)
        mixture = heard(
            clips[rows],
            loudness[rows],
            None if self.loop is None else self.loop.to(clips),
            meeting.select(rows),
            speech_channel=self.speech_channel,
            music_channel=self.music_channel,
        )[: len(clips)]
        columns: dict[str, Sequence[object]] = {
            "masker": [self.masker] * len(batch),
            "smr_db": [None if self.loop is None else self.smr_db] * len(batch),
            "music_start_s": (meeting.starts.double() / rate).tolist(),
            "speech_lufs": loudness.double().tolist(),
        }
        for name, drawn in (("speech", meeting.speech_room), ("music", meeting.music_room)):
            columns |= {f"{name}_{key}": value.tolist() for key, value in drawn.items() if value.ndim == 1}
        return Outcome({**batch.inputs, "audio": torch.where(valid, mixture, clips)}, columns)


def wake_index(labels: Sequence[str], wake: str | None) -> int:
    """The class to be missed: the one named; else `wake`; else the one of two that is not the background.

    Raises:
        DataError: If it is not there, or cannot be told.
    """
    from robust.victims.wakeword import background_index

    if wake is not None or "wake" in labels:
        name = wake or "wake"
        if name not in labels:
            raise DataError(unknown("class to be missed", name, labels))
        return list(labels).index(name)
    if len(labels) == 2:
        return 1 - background_index(tuple(labels), None)
    raise DataError(
        f"Which of the {len(labels)} classes is to be missed? Name it with --wake: {', '.join(labels[:8])}."
    )


def detected(records: pd.DataFrame, wake: int) -> Detection:
    """F1, precision and recall of detecting the class `wake`."""
    return detection((records["label"] == wake).to_numpy(), (records["prediction"] == wake).to_numpy())


def cell(records: pd.DataFrame, wake: int, masker: str, smr_db: float | None) -> dict[str, Any]:
    """One row of the table."""
    found = detected(records, wake)
    return {
        "masker": masker,
        "smr_db": smr_db,
        "f1": found.f1.score,
        "low": found.f1.low,
        "high": found.f1.high,
        **{
            name: {"score": score.score, "low": score.low, "high": score.high}
            for name, score in (("precision", found.precision), ("recall", found.recall))
        },
    }


def against_plain(records: Mapping[tuple[str, float], pd.DataFrame], wake: int, smr_db: float) -> dict[str, Any]:
    """What is left of the F1 that the plain music leaves, with a paired bootstrap interval, and the paired test.

    `ratio` is F1 under adversarial over F1 under plain music; None where the latter is 0.
    """
    adversarial, plain = records["adversarial", smr_db], records["plain", smr_db]
    truth = (plain["label"] == wake).to_numpy()
    found = [(part["prediction"] == wake).to_numpy() for part in (adversarial, plain)]
    ratio, low, high = _ratio(truth, *found)
    spoken = adversarial[adversarial["label"] == wake], plain[plain["label"] == wake]
    told = asdict(compare(spoken[0], spoken[1], "multiclass")) if len(spoken[0]) else {}
    return {
        "smr_db": smr_db,
        "ratio": ratio,
        "low": low,
        "high": high,
        "recall_difference": {key: told.get(key) for key in ("difference", "low", "high", "p", "test")},
    }


def _ratio(
    truth: np.ndarray[Any, Any], first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], resamples: int = 1000
) -> tuple[float | None, float | None, float | None]:
    """F1 of `first` over F1 of `second`, clips resampled together."""
    generator = np.random.default_rng(0)
    weights = generator.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=resamples)
    weights = np.concatenate([np.ones((1, len(truth)), dtype=weights.dtype), weights])
    scores = []
    for found in (first, second):
        hits = weights @ (truth & found).astype(np.float64)
        below = weights @ (truth.astype(np.float64) + found.astype(np.float64))
        scores.append(np.divide(2 * hits, below, out=np.zeros_like(below), where=below > 0))
    if scores[1][0] == 0:
        return None, None, None
    ratios = np.divide(scores[0], scores[1], out=np.full_like(scores[0], np.inf), where=scores[1] > 0)
    low, high = np.quantile(ratios[1:], [0.025, 0.975], method="inverted_cdf")
    return float(ratios[0]), float(low), float(high) if np.isfinite(high) else None
