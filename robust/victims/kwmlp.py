"""`kwmlp`: Keyword-MLP, twelve gated MLP blocks on the cepstral coefficients of one second.

Sources: Morshed & Ahsan, "Attention-Free Keyword Spotting", 2021 (97.56 % on the 35 Speech Commands); Morshed et al.,
"Learning Audio Representations with MLPs", PMLR 166, 2022 (0.424 M parameters); the authors' package for HEAR 2021,
whose checkpoints load strictly. Its embeddings there, 64 values every 10 ms and 1024 of a scene, come out of
`robust.hear`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.frontends.mfcc import MFCC
from robust.types import Task
from robust.victims.base import Victim
from robust.victims.gated_mlp import GatedMlp, GatedMlpSettings, GatedMlpVictim, published_sizes, read_published
from robust.victims.registry import register
from robust.victims.upstream import check_entries, labels_beside

NAME = "kwmlp"
HEAD = {r"to_logits\.0\.": "norm.", r"to_logits\.2\.": "classifier."}
"""Upstream's names of the classifier's parts, and ours."""

WORDS = (
    *("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go"),
    *("happy", "house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila"),
    *("six", "stop", "three", "tree", "two", "up", "visual", "wow", "yes", "zero"),
)
"""The 35 Speech Commands in upstream's order, which is that of the alphabet."""

SMALL: dict[str, Any] = {}
"""The published network is small."""


@dataclass(frozen=True)
class KwMlpSettings(GatedMlpSettings):
    """Configuration; the defaults are the published network of 0.424 M parameters.

    Attributes:
        n_mfcc: Cepstral coefficients, at most `n_mels`.
        embedding_after: Block after which `robust.hear` takes its embeddings (4, 8 and 12 in table 4 of the paper);
            the last when None. The classifier stands after the last in any case.
    """

    n_mfcc: int = 40
    embedding_after: int | None = None

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        super().check()
        if self.embedding_after is not None and not 1 <= self.embedding_after <= self.blocks:
            raise VictimError(
                f"embedding_after={self.embedding_after} must be a block from 1 to blocks={self.blocks}, or None."
            )


class KwMlp(GatedMlpVictim):
    """Cepstral coefficients, gated blocks, norm, mean over time, linear classifier.

    The latent is that of every frame, (B, frames, D), normalised and not yet scaled: the authors' embedding over time.
    Of clips longer than a chunk the classifier takes the mean over the frames of all chunks, which is the mean of the
    logits that each chunk would have; a chunk that is not full ends in silence, and counts as the others do.
    """

    sizes: KwMlpSettings

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: KwMlpSettings) -> None:
        super().__init__(NAME, labels=labels, task=task, settings=settings)
        self.front_end = MFCC(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            n_mfcc=settings.n_mfcc,
        )
        self.mlp = GatedMlp(settings, settings.n_mfcc)
        self.norm = nn.LayerNorm(settings.width)
        self.classifier = nn.Linear(settings.width, len(labels))

    def latents(self, chunks: Tensor) -> Tensor:
        """(N, frames, D) of chunks (N, T): what the last block leaves, of zero mean and unit variance."""
        return self._normalised(self.mlp(self.features(chunks)))

    def embeddings(self, chunks: Tensor) -> Tensor:
        """The same after block `embedding_after`."""
        return self._normalised(self.mlp(self.features(chunks), self.sizes.embedding_after))

    def _normalised(self, steps: Tensor) -> Tensor:
        return functional.layer_norm(steps, self.norm.normalized_shape, eps=self.norm.eps)

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(fused.mean(dim=1) * self.norm.weight + self.norm.bias)
        return logits


def load_kwmlp(source: str, *, embedding_after: int | None = None, scene: str = "halving") -> KwMlp:
    """Loads a checkpoint of the authors' with any number of blocks; every entry must fit.

    Labels come from a `class_labels_indices.csv` in the same folder; without one, they are the words of Speech Commands
    where there are 35, else `class 0`, `class 1`, ...

    Args:
        source: Path of a `.pth` (read without running code from it) or `.safetensors` file.
        embedding_after: As of `KwMlpSettings`.
        scene: Likewise.

    Raises:
        CheckpointError: If it is no such file.
        VictimError: If there is no such block or scene embedding.
    """
    state = read_published(source, NAME, parts=HEAD, needed="classifier.weight")
    settings = KwMlpSettings(
        n_mfcc=state["mlp.project.weight"].shape[1],
        n_mels=max(KwMlpSettings.n_mels, state["mlp.project.weight"].shape[1]),
        embedding_after=embedding_after,
        scene=scene,
        **published_sizes(state),
    )
    labels = labels_beside(Path(source), len(state["classifier.weight"]))
    if len(labels) == len(WORDS) and labels[0] == "class 0":
        labels = WORDS
    victim = KwMlp(labels=labels, task="multiclass", settings=settings)
    check_entries(source, NAME, victim.state_dict(), state)
    victim.load_state_dict(state)
    return victim.eval()


@register(
    NAME,
    summary="Keyword-MLP (Morshed 2021, HEAR 2021): 12 gated MLP blocks on MFCC, 0.424 M; upstream checkpoints load",
    family="mlp",
    parity="the authors' checkpoint: front end, logits, HEAR embeddings (fixture)",
    small=SMALL,
    recipe={"learning_rate": 2e-3, "weight_decay": 0.1, "label_smoothing": 0.1, "mixup_alpha": 0.0},
    pretrained=load_kwmlp,
)
def build_kwmlp(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `KwMlpSettings`."""
    return KwMlp(labels=labels, task=task, settings=KwMlpSettings(**config))
