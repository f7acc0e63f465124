"""Gated MLPs over the frames of one-second chunks, and what the two victims made of them share.

Sources: Liu et al., "Pay Attention to MLPs", NeurIPS 2021; Morshed & Ahsan, "Attention-Free Keyword Spotting", 2021;
Morshed et al., "Learning Audio Representations with MLPs", PMLR 166, 2022 (equations 1 and 2), and the authors' package
for HEAR 2021. The equations leave out what the package has: a norm of the gate before its temporal projection, and one
of each block's output before that is added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_safetensors
from robust.victims.scenes import check_scene, scene_embedding
from robust.victims.upstream import read_state

GATE_SPREAD = 1e-3
"""Temporal projections begin within this over the number of frames around 0, and their biases at 1: an open gate."""
BATCH_CHUNKS = 64


@dataclass(frozen=True)
class GatedMlpSettings:
    """Configuration; the defaults are those of the published `kwmlp` (table 5 of the paper).

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        chunk_seconds: What the network takes at a time; clips are padded to a multiple of it.
        n_fft: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Mel filters.
        width: Of the blocks, and of an embedding over time.
        hidden: Width within a block, even: one half gates the other.
        blocks: Gated blocks.
        survival: Probability that a block is not skipped, in training.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in coefficients or bands, in training.
        scene: How a scene embedding is made of embeddings over time; a name from `robust.victims.scenes.SCENES`.
        scene_steps: Steps that are left in it.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 1.0
    chunk_seconds: float = 1.0
    n_fft: int = 480
    hop_length: int = 160
    n_mels: int = 40
    width: int = 64
    hidden: int = 256
    blocks: int = 12
    survival: float = 0.9
    time_mask: int = 25
    freq_mask: int = 7
    scene: str = "halving"
    scene_steps: int = 16

    @property
    def chunk(self) -> int:
        """Samples in a chunk."""
        return round(self.sample_rate * self.chunk_seconds)

    @property
    def frames(self) -> int:
        """Frames within a chunk; the last begins where a whole window is left."""
        return 1 + (self.chunk - self.n_fft) // self.hop_length

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        if min(self.blocks, self.width) < 1 or self.hidden < 2 or self.hidden % 2:
            raise VictimError(
                "A gated MLP needs blocks and a width of 1 or more and an even hidden width; given "
                f"blocks={self.blocks}, width={self.width}, hidden={self.hidden}."
            )
        if not 0 < self.survival <= 1:
            raise VictimError(f"survival={self.survival} must be above 0 and at most 1.")
        if not 0 < self.hop_length <= self.n_fft <= self.chunk:
            raise VictimError(
                f"A chunk of {self.chunk} samples must hold a window, and this a hop of 1 or more; given "
                f"n_fft={self.n_fft}, hop_length={self.hop_length}."
            )
        check_scene(self.scene, self.scene_steps)


class GatedBlock(nn.Module):
    """What a block adds to its input (equation 2): one half of a wide layer times the other, mixed over time.

    Args:
        width: Of input and output.
        hidden: Of the wide layer.
        frames: Steps in time, each of which has its row in `temporal`.
    """

    def __init__(self, width: int, hidden: int, frames: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.gate_norm = nn.LayerNorm(hidden // 2)
        self.temporal = nn.Linear(frames, frames)
        self.contract = nn.Linear(hidden // 2, width)
        self.norm = nn.LayerNorm(width)
        spread = GATE_SPREAD / frames
        nn.init.uniform_(self.temporal.weight, -spread, spread)
        nn.init.ones_(self.temporal.bias)

    def forward(self, steps: Tensor) -> Tensor:
        """(B, frames, width) from the same."""
        kept, gate = functional.gelu(self.expand(steps)).chunk(2, dim=-1)
        mixed = self.temporal(self.gate_norm(gate).transpose(1, 2)).transpose(1, 2)
        found: Tensor = self.norm(self.contract(kept * mixed))
        return found


class GatedMlp(nn.Module):
    """A linear layer on each frame, then blocks; in training some are skipped, for the whole batch, and never all.

    What blocks add is not scaled up in return, as upstream does not.

    Args:
        settings: Sizes.
        features: Values in a frame of the input.
        seed: Seed of the generator.

    Attributes:
        generator: Chooses the blocks that are skipped, on the CPU; may be replaced.
    """

    def __init__(self, settings: GatedMlpSettings, features: int, seed: int = 0) -> None:
        super().__init__()
        self.survival = settings.survival
        self.project = nn.Linear(features, settings.width)
        self.blocks = nn.ModuleList(
            GatedBlock(settings.width, settings.hidden, settings.frames) for _ in range(settings.blocks)
        )
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, features: Tensor, depth: int | None = None) -> Tensor:
        """(B, frames, width) after `depth` blocks, all when None, from (B, frames, features)."""
        steps: Tensor = self.project(features)
        for block, kept in zip(self.blocks[:depth], self._kept(), strict=False):
            # A factor, for a block without gradients would stand outside the optimiser's step.
            steps = steps + block(steps) * kept
        return steps

    def _kept(self) -> list[float]:
        """1 for every block that is to be computed, else 0."""
        count = len(self.blocks)
        if not self.training or self.survival == 1:
            return [1.0] * count
        kept = torch.rand(count, generator=self.generator) < self.survival
        if not kept.any():
            kept[torch.randint(count, (1,), generator=self.generator)] = True
        return kept.float().tolist()


class GatedMlpVictim(Victim):
    """Front end and gated MLP on chunks of a clip, whose latents follow each other.

    Subclasses have `front_end` and `mlp`, implement `latents` and `head`, and may have other `embeddings`. Both
    `hear_` functions are what the authors submitted to HEAR 2021; see `robust.hear`.
    """

    front_end: nn.Module
    mlp: GatedMlp

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: GatedMlpSettings) -> None:
        settings.check()
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.sizes = settings
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask)
        self.config = asdict(settings)

    def features(self, chunks: Tensor) -> Tensor:
        """(N, frames, features) of chunks (N, T), with SpecAugment in training."""
        augmented: Tensor = self.spec_augment(self.front_end(chunks))
        return augmented

    def latents(self, chunks: Tensor) -> Tensor:
        """(N, frames, D) of chunks (N, T)."""
        raise NotImplementedError

    def embeddings(self, chunks: Tensor) -> Tensor:
        """What HEAR is given of chunks (N, T), (N, frames, D); the latents unless told."""
        return self.latents(chunks)

    def chunks(self, audio: Tensor) -> Tensor:
        """(B, n, T) of clips (B, any), the last filled up with silence."""
        size = self.sizes.chunk
        missing = max(size - audio.shape[1], -audio.shape[1] % size)
        return functional.pad(audio, (0, missing)).reshape(len(audio), -1, size)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, frames of all chunks, D)."""
        chunks = self.chunks(inputs["audio"])
        latent = self.latents(chunks.flatten(0, 1))
        latent = latent.reshape(len(chunks), -1, latent.shape[2])
        return {"audio": latent, "fused": latent}

    @torch.no_grad()
    def temporal_projections(self) -> Tensor:
        """(blocks, frames, frames): row `t` of each matrix is what the gate at frame `t` takes from every frame."""
        return torch.stack([block.get_parameter("temporal.weight") for block in self.mlp.blocks])

    def hear_timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, N, D) of clips (B, T), one for each hop, and their centre times (N,) in milliseconds."""
        sizes, samples = self.sizes, audio.shape[1]
        found = self._over_time(audio)
        count = max(samples // sizes.hop_length, 1)
        hop = 1000 * sizes.hop_length / sizes.sample_rate
        times = hop * torch.arange(1, count + 1, dtype=torch.float64, device=audio.device)
        return found[:, :count], times.clamp(max=1000 * samples / sizes.sample_rate)

    def hear_scene(self, audio: Tensor) -> Tensor:
        """One embedding (B, `scene_steps` * D) of clips (B, T)."""
        return scene_embedding(self._over_time(audio), self.sizes.scene_steps, self.sizes.scene)

    def _over_time(self, audio: Tensor) -> Tensor:
        """Embeddings (B, N, D) of clips between half windows of silence.

        A chunk has no frames where its last window would end in the next one: where two meet, the last embedding of one
        and the first of the other are repeated, so that there is one for every hop.
        """
        sizes = self.sizes
        half = sizes.n_fft // 2
        chunks = self.chunks(functional.pad(audio, (max(half - sizes.hop_length, 0), half)))
        parts = [self.embeddings(some) for some in torch.split(chunks.flatten(0, 1), BATCH_CHUNKS)]
        missing = max(sizes.chunk // sizes.hop_length - sizes.frames, 0)
        before, after = missing // 2, missing - missing // 2
        places = torch.arange(-before, sizes.frames + after, device=audio.device).clamp(0, sizes.frames - 1)
        found = torch.cat(parts)[:, places]
        joined = found.reshape(len(chunks), -1, found.shape[2])
        return joined[:, before : joined.shape[1] - after]


PARTS = {
    r"to_patch_embed\.1\.": "mlp.project.",
    r"layers\.(\d+)\.fn\.norm\.": r"mlp.blocks.\1.norm.",
    r"layers\.(\d+)\.fn\.fn\.proj_in\.0\.": r"mlp.blocks.\1.expand.",
    r"layers\.(\d+)\.fn\.fn\.sgu\.norm\.": r"mlp.blocks.\1.gate_norm.",
    r"layers\.(\d+)\.fn\.fn\.sgu\.proj\.": r"mlp.blocks.\1.temporal.",
    r"layers\.(\d+)\.fn\.fn\.proj_out\.": r"mlp.blocks.\1.contract.",
}
"""Upstream's names of the parts that both networks have, and ours."""


def read_published(source: str, model: str, *, parts: Mapping[str, str], needed: str) -> dict[str, Tensor]:
    """The entries of one of the authors' checkpoints under our names; nothing in it is executed.

    Args:
        source: Path of a `.pth` file with `{"model_state_dict": state dict}` or a state dict, or the same as
            `.safetensors`.
        model: Name, for messages.
        parts: Pattern of upstream's names -> ours, besides `PARTS`.
        needed: An entry, under our name, that no other network has.

    Raises:
        CheckpointError: If there is no such file, or it holds something else.
    """
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"No {model} checkpoint at {source!r}: give a .pth or .safetensors file of upstream's.")
    found = {}
    for name, value in (read_safetensors(path) if path.suffix == ".safetensors" else read_state(path)).items():
        for theirs, ours in {**PARTS, **parts}.items():
            name = re.sub(f"^{theirs}", ours, name.removeprefix("module."))
        # Upstream mixes over time by convolutions of one sample.
        found[name] = value.squeeze(-1) if name.endswith("temporal.weight") and value.ndim == 3 else value
    for key in (needed, "mlp.project.weight", "mlp.blocks.0.expand.weight"):
        if key not in found or found[key].ndim != 2:
            raise CheckpointError(f"{path} is no {model} checkpoint: it has no {key!r} among its {len(found)} entries.")
    return found


def published_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of `GatedMlpSettings` that the shapes of `read_published` tell."""
    return {
        "width": state["mlp.project.weight"].shape[0],
        "hidden": state["mlp.blocks.0.expand.weight"].shape[0],
        "blocks": len({name.split(".")[2] for name in state if name.startswith("mlp.blocks.")}),
    }
