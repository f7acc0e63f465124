"""The audio victims here as HEAR 2021 modules: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`.

For the benchmark's own tools this file is the module and a victim its model: `hear-validator robust.hear -m m5`,
`heareval.embeddings.runner robust.hear --model CHECKPOINT.safetensors`, or, of one by name, `--model-options
'{"model": "m5"}'`, which also tells their folders of embeddings apart.

Unlike most, these functions keep the graph: an attack through them finds what there is to find.

Source: Turian et al., HEAR: Holistic Evaluation of Audio Representations, PMLR 176, 2022, and its common API.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.victims.base import Victim
from robust.victims.checkpoints import read_card
from robust.victims.loading import load_victim

SAMPLE_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)
"""Hz that the benchmark's tasks come in; a module may not resample."""
DEFAULT = "ast"
HOP_SECONDS = 0.05
"""Between timestamps; the benchmark scores onsets within 50 ms."""
SHORTEST_WINDOW_SECONDS = 0.16
BATCH_WINDOWS = 32
SHORTEST, LONGEST = 0.6, 1.7
"""Lengths that every victim takes whole, as shares of its clip length."""


@runtime_checkable
class Submitted(Protocol):
    """A victim whose authors submitted it to the benchmark: it has embeddings of its own for it (`kwmlp`)."""

    def hear_timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings over time (B, N, D) of audio (B, T) of any length, and their centre times (N,) in milliseconds."""

    def hear_scene(self, audio: Tensor) -> Tensor:
        """One embedding (B, E) of each clip of any length."""


class HearModel(nn.Module):
    """A victim with the attributes that the benchmark asks for; frozen, in evaluation mode.

    Attributes:
        sample_rate: Hz.
        scene_embedding_size: Values of an embedding of a clip.
        timestamp_embedding_size: The same number, but of a victim that has embeddings of its own.
        window: Samples around each timestamp that its embedding is made from.
        by_frames: Whether the victim has a latent per frame, and a timestamp is one of them.

    Args:
        victim: Hears a waveform.
        window_seconds: Length of the window; the victim's clip length when None, 0.16 at least.

    Raises:
        VictimError: If it hears at another rate than the benchmark's, or more or other than sound.
    """

    def __init__(self, victim: Victim, *, window_seconds: float | None = None) -> None:
        super().__init__()
        spec = victim.spec
        if spec.modalities != ("audio",):
            raise VictimError(f"HEAR is about sound; the victim {spec.name!r} takes {', '.join(spec.modalities)}.")
        if spec.sample_rate not in SAMPLE_RATES:
            raise VictimError(
                f"HEAR's audio comes at {', '.join(map(str, SAMPLE_RATES))} Hz and a module may not resample it; the "
                f"victim {spec.name!r} hears {spec.sample_rate} Hz. Train it at one of these: --set "
                "sample_rate=16000."
            )
        if window_seconds is not None and window_seconds < SHORTEST_WINDOW_SECONDS:
            raise VictimError(f"A window needs {SHORTEST_WINDOW_SECONDS} s or more; given {window_seconds}.")
        self.victim = victim.eval().requires_grad_(False)
        self.sample_rate = spec.sample_rate
        seconds = max(spec.clip_seconds, SHORTEST_WINDOW_SECONDS) if window_seconds is None else window_seconds
        self.window = round(spec.sample_rate * seconds)
        with torch.no_grad():
            device = next((value.device for value in victim.parameters()), torch.device("cpu"))
            silence = torch.zeros(1, spec.clip_samples, device=device)
            latent = self.latent(silence)
            self.by_frames = latent.ndim == 3
            self.scene_embedding_size = self.timestamp_embedding_size = latent.shape[-1]
            if self.submitted is not None:
                self.scene_embedding_size = self.submitted.hear_scene(silence).shape[-1]
                self.timestamp_embedding_size = self.submitted.hear_timestamps(silence)[0].shape[-1]

    @property
    def submitted(self) -> Submitted | None:
        """The victim, where it has embeddings of its own for the benchmark."""
        victim: object = self.victim
        return victim if isinstance(victim, Submitted) else None

    def latent(self, audio: Tensor) -> Tensor:
        """The victim's fused latent, (B, D) or (B, frames, D), of audio (B, T); what is too short is padded."""
        least = round(SHORTEST * self.victim.spec.clip_samples)
        found = self.victim.embed({"audio": functional.pad(audio, (0, max(least - audio.shape[1], 0)))})
        return found["fused"]

    def forward(self, audio: Tensor) -> Tensor:
        """One embedding (B, D) of each clip (B, T)."""
        if self.submitted is not None:
            return self.submitted.hear_scene(audio)
        latent = self.latent(audio)
        return latent.mean(dim=1) if self.by_frames else latent


def load_model(
    model_file_path: str = "", model: str = "", window_seconds: float | None = None, device: str = "auto"
) -> HearModel:
    """Loads a victim as a HEAR model.

    Args:
        model_file_path: A checkpoint of `robust train` (.safetensors with its card), or the name of a victim with
            embedded weights; with `model`, any weights that its own loader takes. Empty: embedded weights.
        model: Name of a victim; what the checkpoint's card says, or `ast`, when empty.
        window_seconds: As for `HearModel`.
        device: As for `load_victim`.

    Raises:
        VictimError: If there is no such victim, or HEAR's audio is none for it.
        CheckpointError: If weights cannot be read or belong to another architecture.
    """
    weights, name = model_file_path or None, model or DEFAULT
    if weights and not model:
        if weights.endswith(".safetensors"):
            name = str(read_card(Path(weights))["model"])
        else:
            name, weights = weights, None
    victim = load_victim(name, weights=weights, device=device, gradients=False)
    return HearModel(victim, window_seconds=window_seconds)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding of each sound, (n_sounds, scene_embedding_size) float32.

    What is longer than 1.7 of the victim's clips is cut into windows of one clip, half a clip apart, whose embeddings
    are averaged; a victim that its authors submitted takes it whole, as it did there. With gradients off for `audio`,
    as the benchmark has it, memory does not grow with the length beyond that of embeddings over time.

    Args:
        audio: (n_sounds, n_samples) float32 in [-1, 1] at `model.sample_rate`.
        model: From `load_model`.

    Raises:
        VictimError: If `audio` is not of this shape.
    """
    _check_audio(audio)
    clip = model.victim.spec.clip_samples
    if audio.shape[1] <= LONGEST * clip or model.submitted is not None:
        whole: Tensor = model(audio)
        return whole
    hop = max(clip // 2, 1)
    count = -(-(audio.shape[1] - clip) // hop) + 1
    starts = [min(index * hop, audio.shape[1] - clip) for index in range(count)]  # the last one ends with the sound
    return _windows(audio, starts, clip, model).mean(dim=1)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings over time (n_sounds, n_timestamps, D) and their centre times (n_sounds, n_timestamps) in milliseconds.

    Of a victim that its authors submitted they are those that it gave there; of another with a latent per frame, its
    latents, clip by clip, at its own frame rate. Of all others they are embeddings of windows `model.window` samples
    long around a time every 50 ms from 0 on, with silence before and after the sound.

    Args:
        audio: As for `get_scene_embeddings`.
        model: From `load_model`.

    Raises:
        VictimError: If `audio` is not of this shape.
    """
    _check_audio(audio)
    if model.submitted is not None:
        found, times = model.submitted.hear_timestamps(audio)
    elif model.by_frames:
        found, times = _frame_latents(audio, model)
    else:
        rate, samples = model.sample_rate, audio.shape[1]
        count = int(samples / rate / HOP_SECONDS + 1e-6) + 1
        # Rounded one by one, not by adding up a rounded hop, which drifts.
        centres = [min(round(index * HOP_SECONDS * rate), samples) for index in range(count)]
        left = model.window // 2
        padded = functional.pad(audio, (left, model.window - left))
        found = _windows(padded, centres, model.window, model)
        times = 1000 * torch.tensor(centres, dtype=torch.float64) / rate
    return found, times.to(audio).expand(len(audio), -1)


def _check_audio(audio: Tensor) -> None:
    if audio.ndim != 2 or 0 in audio.shape or not audio.is_floating_point():
        raise VictimError(
            f"HEAR audio is (n_sounds, n_samples) of floating point numbers in [-1, 1]; given {tuple(audio.shape)} "
            f"{audio.dtype}."
        )


def _windows(audio: Tensor, starts: list[int], length: int, model: HearModel) -> Tensor:
    """Embeddings (B, len(starts), D) of windows of `audio`, few at a time."""
    views = audio.unfold(1, length, 1)  # (B, positions, length), no copy
    found = []
    per_batch = max(BATCH_WINDOWS // len(audio), 1)
    for first in range(0, len(starts), per_batch):
        chosen = views[:, starts[first : first + per_batch]]
        found.append(model(chosen.flatten(0, 1)).reshape(*chosen.shape[:2], -1))
    return torch.cat(found, dim=1)


def _frame_latents(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Latents of all frames (B, N, D) whose centres lie within the sound, and these (N,) in milliseconds."""
    clip = model.victim.spec.clip_samples
    missing = -audio.shape[1] % clip
    clips = functional.pad(audio, (0, missing)).reshape(len(audio), -1, clip)  # (B, clips, T)
    per_batch = max(BATCH_WINDOWS // len(audio), 1)
    parts = []
    for some in torch.split(clips, per_batch, dim=1):
        latent = model.latent(some.flatten(0, 1))
        parts.append(latent.reshape(*some.shape[:2], *latent.shape[1:]))
    frames = torch.cat(parts, dim=1)  # (B, clips, frames, D)
    step = 1000 * clip / model.sample_rate / frames.shape[2]
    times = (torch.arange(frames.shape[1] * frames.shape[2], dtype=torch.float64) + 0.5) * step
    times = times[times <= 1000 * audio.shape[1] / model.sample_rate]
    if len(times) == 0:  # a sound shorter than half a frame
        times = torch.tensor([500 * audio.shape[1] / model.sample_rate])
    return frames.flatten(1, 2)[:, : len(times)], times


__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
