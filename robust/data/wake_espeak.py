"""espeak-ng as the voice of `events-wake`, where it is on the machine and is asked for."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import soxr

from robust.data.events_plan import Floats
from robust.data.wake_phonemes import Syllables
from robust.data.wake_voice import SAMPLE_RATE, Speaker
from robust.errors import DataError

PROGRAM = "espeak-ng"
VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f4")
NORMAL_WORDS_A_MINUTE = 165
SILENT = 1e-3


def espeak_version() -> str:
    """What the program says it is.

    Raises:
        DataError: If it is not on the machine, or does not run.
    """
    if shutil.which(PROGRAM) is None:
        raise DataError(
            f"espeak=true needs {PROGRAM}, which is not on this machine; install it, or leave the option out to hear "
            "the suite's own synthesiser."
        )
    words = _run(["--version"]).decode(errors="replace").split()
    return next((word for word in words if word[:1].isdigit()), "unknown")


def espeak_voice(words: str, syllables: Syllables, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """Says `words` roughly as high and fast as the speaker speaks: (T,) float64, root mean square 1, without pauses."""
    size = np.clip(np.log(speaker.pitch_hz / 85.0) / np.log(280.0 / 85.0), 0, 1)
    men, women = VARIANTS[:4], VARIANTS[4:]
    variant = str(rng.choice(men if size < 0.5 else women))
    pitch = int(np.clip(20 + 60 * size + rng.normal(0, 5), 0, 99))
    speed = int(NORMAL_WORDS_A_MINUTE * speaker.rate)
    wav = _run(["-v", f"en+{variant}", "-p", str(pitch), "-s", str(speed), "--stdout", "--", words])
    audio = _decoded(wav)
    loud = np.flatnonzero(np.abs(audio) > SILENT)
    if len(loud) == 0:
        raise DataError(f"{PROGRAM} said nothing for {words!r}; leave espeak out.")
    heard = audio[loud[0] : loud[-1] + 1]
    spoken: Floats = heard / np.sqrt(np.mean(heard**2))
    return spoken


def _decoded(wav: bytes) -> Floats:
    import soundfile

    try:
        audio, rate = soundfile.read(io.BytesIO(wav), dtype="float64")
    except soundfile.LibsndfileError as error:
        raise DataError(f"{PROGRAM} wrote no readable WAV: {error}. Leave espeak out.") from error
    resampled: Floats = soxr.resample(audio, rate, SAMPLE_RATE)
    return resampled


def _run(arguments: list[str]) -> bytes:
    try:
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"{PROGRAM} failed: {error}. Leave espeak out.") from error
    return done.stdout
