"""`audio-mae`: a vision transformer on patches of a Kaldi filterbank, as masked autoencoders pre-train it.

Sources: Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022; thesis chapter 7. `robust pretrain` pre-trains
it without labels; fine-tuning sees some of the patches, evaluation all of them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from robust.errors import CheckpointError
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.audio_mae_encoder import (
    AudioMaeSettings,
    build_vit,
    encoded,
    patches_of,
    read_published,
    settings_of,
)
from robust.victims.base import Victim
from robust.victims.patch_masking import StructuredMask
from robust.victims.registry import register
from robust.victims.upstream import AUDIOSET_CLASSES, check_entries, labels_beside

SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "max_frames": 96,
    "width": 128,
    "layers": 3,
    "heads": 4,
    "drop_path": 0.0,
    "time_ratio": 0.15,
    "frequency_ratio": 0.15,
    "swapped_positions": False,
}


class AudioMae(Victim):
    """Kaldi filterbank, transformer, mean over the patches seen, linear classifier.

    Clips of any length are padded with zeros or cut to `max_frames`, as upstream does it.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: AudioMaeSettings) -> None:
        super().__init__(
            VictimSpec(
                name="audio-mae",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.vit = build_vit(settings, classes=len(labels))
        self.fbank = settings.fbank()
        self.mask = StructuredMask(
            settings.grid, time_ratio=settings.time_ratio, frequency_ratio=settings.frequency_ratio
        )
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        patches = self.mask(patches_of(self.vit, self.fbank(inputs["audio"])))
        latent = self.vit.fc_norm(encoded(self.vit, patches)[:, 1:].mean(dim=1))
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.vit.head(fused)
        return logits


def load_audio_mae(source: str) -> Victim:
    """Loads a fine-tuned checkpoint of upstream's; every entry must fit.

    The task is multilabel for AudioSet's 527 classes and multiclass otherwise; normalisation follows from the number of
    frames, which upstream has different for each data set.

    Args:
        source: Path of a `.pth` (read without running code from it) or `.safetensors` file.

    Raises:
        CheckpointError: If it is no such file, or a pre-trained one, which has no classifier.
    """
    state = read_published(source)
    if "head.weight" not in state:
        if "mask_token" in state:
            raise CheckpointError(
                f"{source} is a pre-trained Audio-MAE and has no classifier: take it up with `robust pretrain --init "
                f"{source}`, then `robust train --model audio-mae --init` what that writes."
            )
        raise CheckpointError(f"{source} is no Audio-MAE checkpoint: it lacks head.weight.")
    settings = settings_of(state, source)
    classes = state["head.weight"].shape[0]
    task: Task = "multilabel" if classes == AUDIOSET_CLASSES else "multiclass"
    victim = AudioMae(labels=labels_beside(Path(source), classes), task=task, settings=settings)
    check_entries(source, "audio-mae", victim.vit.state_dict(), state)
    victim.vit.load_state_dict(dict(state))
    return victim.eval()


@register(
    "audio-mae",
    summary="ViT on filterbank patches (Huang 2022, thesis 7), pre-trained by `robust pretrain`; upstream files load",
    family="transformer",
    parity="timm's ViT (living reference), upstream outputs (fixture)",
    small=SMALL,
    recipe={"learning_rate": 1e-3, "mixup_alpha": 0.0},
    pretrained=load_audio_mae,
)
def build_audio_mae(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `AudioMaeSettings`."""
    return AudioMae(labels=labels, task=task, settings=AudioMaeSettings(**config))
