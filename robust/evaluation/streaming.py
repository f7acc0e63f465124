"""A wake-word detector on a long recording, with or without something played beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.jamming import windows
from attacks.music import LOUDNESS_LUFS
from robust.data.wake_stream import WakeStream
from robust.errors import DataError
from robust.evaluation.jamming import speech_loudness
from robust.metrics.detection import StreamDetection, detections, stream_detection
from robust.victims.wakeword import HOP_SECONDS, Wakeword, stream_scores

REFRACTORY_S = 1.0


def hear_stream(
    victim: Wakeword, stream: WakeStream, *, threshold: float = 0.0, refractory_s: float = REFRACTORY_S
) -> StreamDetection:
    """False alarms per hour, misses and delays; the time the network looks ahead is part of the delays.

    Args:
        victim: A `wakeword` network at the stream's rate.
        stream: The recording and what is in it.
        threshold: Log-odds at which it wakes; 0 is where a clip's prediction changes.
        refractory_s: After waking, for which it does not wake again.

    Raises:
        DataError: If the rates differ.
    """
    if victim.spec.sample_rate != stream.sample_rate:
        raise DataError(
            f"The stream has {stream.sample_rate} Hz and {victim.spec.name!r} hears {victim.spec.sample_rate} Hz."
        )
    device = next(victim.parameters()).device
    scores = stream_scores(victim, torch.from_numpy(stream.audio).to(device)).cpu().double().numpy()
    times = detections(scores, threshold, frames_per_second=1 / HOP_SECONDS, refractory_s=refractory_s)
    return stream_detection(
        times + victim.settings.right * HOP_SECONDS,
        stream.onsets_s,
        stream.offsets_s,
        duration_s=len(stream.audio) / stream.sample_rate,
    )


def beside(stream: WakeStream, loop: Tensor, smr_db: float) -> WakeStream:
    """The stream while `loop` (L,) at `LOUDNESS_LUFS` goes round, `smr_db` below the loudness of what is said in it."""
    audio = torch.from_numpy(stream.audio)
    loudness = float(speech_loudness(audio[None], torch.ones(1, len(audio), dtype=torch.bool), stream.sample_rate))
    playing = windows(loop.cpu().float(), torch.zeros(1, dtype=torch.int64), len(audio))[0]
    mixture = audio + playing * 10 ** ((loudness - smr_db - LOUDNESS_LUFS) / 20)
    return WakeStream(mixture.clamp(-1, 1).numpy(), stream.onsets_s, stream.offsets_s, stream.sample_rate)
