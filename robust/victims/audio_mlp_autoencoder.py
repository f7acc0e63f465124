"""`audio-mlp-autoencoder`: the encoder of a denoising autoencoder of gated MLP blocks, eight values a frame.

Source: the second submission of Morshed & Ahsan to HEAR 2021 (`audiomlp` of their package), of 0.213 M parameters:
what SpecAugment blanked of mel spectrograms was to be restored by six blocks, a bottleneck of 8 and six blocks more.
The published checkpoint is the encoder alone and loads strictly. Its embeddings at HEAR, 8 values every 10 ms and 1584
of a scene, come out of `robust.hear`; the classifier on them is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError, unknown
from robust.frontends.logmel import decibels
from robust.frontends.mel import MelSpectrogram
from robust.types import Task
from robust.victims.base import Victim
from robust.victims.gated_mlp import GatedMlp, GatedMlpSettings, GatedMlpVictim, published_sizes, read_published
from robust.victims.registry import register
from robust.victims.scenes import scene_embedding
from robust.victims.upstream import check_entries

NAME = "audio-mlp-autoencoder"
FEATURES: Mapping[str, str] = {
    "power": "mel energies as they are, which the published encoder takes",
    "decibels": "10 log10 of them, of about zero mean and unit variance",
}
DECIBELS_MEAN, DECIBELS_STD = -38.0, 17.0
"""Of the training clips of `events`. Decibels as they are leave all of the bottleneck off."""
BOTTLENECK = {r"bottleneck\.0\.": "bottleneck."}

SMALL: dict[str, Any] = {"features": "decibels", "scene": "mean", "scene_steps": 49}


@dataclass(frozen=True)
class AudioMlpSettings(GatedMlpSettings):
    """Configuration; the defaults are the published encoder of 0.213 M parameters.

    Attributes:
        features: A name from `FEATURES`.
        bottleneck: Values of an embedding over time.
        classifier: Whether there is one; without, the logits are the means of the embeddings over time, one for each
            of their values, as the published encoder has no classifier.
    """

    blocks: int = 6
    scene_steps: int = 198
    features: str = "power"
    bottleneck: int = 8
    classifier: bool = True

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        super().check()
        if self.features not in FEATURES:
            raise VictimError(unknown("kind of features", self.features, FEATURES))
        if self.bottleneck < 1:
            raise VictimError(f"{NAME} needs a value or more in an embedding; given bottleneck={self.bottleneck}.")


class AudioMlpAutoencoder(GatedMlpVictim):
    """Mel spectrogram, gated blocks, bottleneck; a linear classifier on the scene embedding.

    The latent is that of every frame, (B, frames, bottleneck). Clips of any length make a scene embedding of one size.
    """

    sizes: AudioMlpSettings

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: AudioMlpSettings) -> None:
        super().__init__(NAME, labels=labels, task=task, settings=settings)
        self.front_end = MelSpectrogram(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            pad_mode=None,
        )
        self.mlp = GatedMlp(settings, settings.n_mels)
        self.bottleneck = nn.Linear(settings.width, settings.bottleneck)
        self.classifier: nn.Linear | None = None
        if settings.classifier:
            self.classifier = nn.Linear(settings.scene_steps * settings.bottleneck, len(labels))
        elif len(labels) != settings.bottleneck:
            raise VictimError(
                f"Without a classifier {NAME} has bottleneck={settings.bottleneck} logits; given {len(labels)} labels."
            )

    def features(self, chunks: Tensor) -> Tensor:
        """(N, frames, n_mels) of chunks (N, T), with SpecAugment in training: the noise that was to be removed."""
        energies: Tensor = self.front_end(chunks)
        if self.sizes.features == "decibels":
            energies = (decibels(energies) - DECIBELS_MEAN) / DECIBELS_STD
        augmented: Tensor = self.spec_augment(energies)
        return augmented

    def latents(self, chunks: Tensor) -> Tensor:
        """(N, frames, bottleneck) of chunks (N, T)."""
        return functional.gelu(self.bottleneck(self.mlp(self.features(chunks))))

    def head(self, fused: Tensor) -> Tensor:
        if self.classifier is None:
            return fused.mean(dim=1)
        logits: Tensor = self.classifier(scene_embedding(fused, self.sizes.scene_steps, self.sizes.scene))
        return logits


def load_audio_mlp_autoencoder(source: str) -> AudioMlpAutoencoder:
    """Loads the authors' encoder; every entry must fit. It has no classifier, and its labels are `latent 0`, ...

    Saved as a checkpoint of ours (`robust.victims.checkpoints.save_checkpoint`), it is where `robust train --init` may
    begin.

    Args:
        source: Path of a `.pth` (read without running code from it) or `.safetensors` file.

    Raises:
        CheckpointError: If it is no such file.
    """
    state = read_published(source, NAME, parts=BOTTLENECK, needed="bottleneck.weight")
    count = len(state["bottleneck.weight"])
    settings = AudioMlpSettings(
        n_mels=state["mlp.project.weight"].shape[1], bottleneck=count, classifier=False, **published_sizes(state)
    )
    labels = tuple(f"latent {index}" for index in range(count))
    victim = AudioMlpAutoencoder(labels=labels, task="multiclass", settings=settings)
    check_entries(source, NAME, victim.state_dict(), state)
    victim.load_state_dict(state)
    return victim.eval()


@register(
    NAME,
    summary="encoder of a denoising autoencoder (Morshed 2021, HEAR 2021): 6 gated MLP blocks, 8 values a frame",
    family="mlp",
    parity="the authors' checkpoint: front end, HEAR embeddings (fixture)",
    small=SMALL,
    recipe={"learning_rate": 2e-3, "weight_decay": 0.05, "mixup_alpha": 0.0},
    pretrained=load_audio_mlp_autoencoder,
)
def build_audio_mlp_autoencoder(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained encoder and classifier; `config` is that of `AudioMlpSettings`."""
    return AudioMlpAutoencoder(labels=labels, task=task, settings=AudioMlpSettings(**config))
