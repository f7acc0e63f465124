"""Audio-visual victims that differ in one thing: where sound and sight meet.

    av-early      as input channels of the convolutions: the sound is two more colours of each frame
    av-mid        after the convolutions, before the transformer
    av-late       after the transformers: linear maps of both, summed
    av-decision   after the classifiers: w p_A + (1 - w) p_V, one learned w for each class, 0.6 at first
    av-audio, av-video   one branch alone, for comparison

Same audio branch, same visual branch, same size of head, same recipe. Sources: thesis chapter 10; methods.md 1.2. The
author's own networks, which differ in more than that, are the configuration `published=True` and read his checkpoints.

A modality that is missing from the inputs is taken as silence or as black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError, unknown
from robust.types import Inputs, Task, VictimSpec
from robust.victims.attention import Transformer
from robust.victims.audioset_done_right import DECISION_WEIGHT, build_author, load_upstream
from robust.victims.base import Victim
from robust.victims.cnn_transformer import CnnTransformerSettings
from robust.victims.hearing import FRAME_LEVEL_RECIPE, Hearing
from robust.victims.pooling import FrameHead, mix_logits
from robust.victims.registry import register
from robust.victims.sight import normalised, visual_branch
from robust.victims.trunk import ConvTrunk

MEETINGS: Mapping[str, str] = {
    "audio": "sound alone",
    "video": "sight alone",
    "early": "sound and sight joined as input channels",
    "mid": "joined after the convolutions, before the transformer",
    "late": "embeddings summed after linear maps",
    "decision": "weighted mean of both answers, a weight for each class",
}
EARLY_WIDTH = 2
"""The one network of early fusion does the work of two, and is as much wider."""
SOUND_COLOURS, SLICE_STEPS = 2, 8
"""In early fusion: colours that the sound adds to a frame, and its steps of time across the frame's width."""


@dataclass(frozen=True)
class FusionSettings(CnnTransformerSettings):
    """Configuration; the audio branch is that of `cnn-transformer`, and so are its settings.

    Attributes:
        meeting: A name from `MEETINGS`.
        embedding, conv_layers: As there, small by default; every branch has latents of this size.
        sees: `frames`, `r2plus1d_18` or `features` (see `robust.victims.sight`).
        video_frames: Frames (or feature vectors) in a clip.
        video_size: Height and width of a frame (or length of a vector).
        video_width: Filters of the first layer of `frames`.
        video_weights: State dict for `r2plus1d_18`, by path.
    """

    meeting: str = "mid"
    embedding: int = 160
    conv_layers: int = 5
    sees: str = "frames"
    video_frames: int = 8
    video_size: int = 32
    video_width: int = 16
    video_weights: str | None = None

    def check(self) -> None:
        """Raises `VictimError` for what no network can be built of."""
        if self.meeting not in MEETINGS:
            raise VictimError(unknown("meeting point", self.meeting, MEETINGS))
        if self.meeting == "early" and (self.sees != "frames" or self.n_mels % SOUND_COLOURS):
            raise VictimError(
                "Early fusion lays the spectrogram over frames of pictures: it needs sees='frames' and an even number "
                f"of mel bands; given sees={self.sees!r}, n_mels={self.n_mels}. Take another meeting point, or "
                "published=True, which cuts feature vectors into rows."
            )


class Fusion(Victim):
    """One of the six; every part it does not need is absent."""

    hearing: nn.Module
    trunk: nn.Module
    sight: Any
    transformer: nn.Module

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: FusionSettings) -> None:
        settings.check()
        hears, sees = settings.meeting != "video", settings.meeting != "audio"
        hearing = Hearing(settings)
        sight = _sight(settings)
        super().__init__(_spec(labels, task, settings, hearing if hears else None, sight if sees else None))
        self.meeting, width = settings.meeting, settings.embedding
        self.heard, self.seen = hearing.modality, sight.modality
        early = settings.meeting == "early"
        if hears:
            self.hearing = hearing
        if hears and not early:
            self.trunk = ConvTrunk(width, settings.conv_layers, settings.pool_layers, bins=settings.n_mels)
        if sees:
            self.sight = sight
        for name in self._transformers():
            self.add_module(
                name, Transformer(width, settings.transformer_layers, heads=settings.heads, dropout=settings.dropout)
            )
        if settings.meeting == "mid":
            self.joint = nn.Linear(2 * width, width)
        if settings.meeting == "late":
            self.alpha, self.beta = nn.Linear(width, width), nn.Linear(width, width)
        if settings.meeting == "decision":
            self.weight = nn.Parameter(torch.full((len(labels),), DECISION_WEIGHT).logit())
            self.video_head = FrameHead(width, len(labels), settings.pooling)
        self.frame_head = FrameHead(width, len(labels), settings.pooling)
        self.dropout = nn.Dropout(settings.dropout)
        # A checkpoint holds these weights itself: it must not ask for the file they once came from.
        self.config = {**asdict(settings), "video_weights": None}

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, S, D) `audio` and `video` where they exist apart, and `fused`; see `head` for `av-decision`."""
        if self.meeting == "early":
            return {"fused": self.transformer(self.sight.steps(self._channels(self._completed(inputs))))}
        latents = self.embed_modalities(inputs)
        return {**latents, "fused": self.fuse(latents)}

    def embed_modalities(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, S, D) `audio` and `video` as they meet; neither for `av-early`, where they meet before any latent."""
        if self.meeting == "early":
            return {}
        inputs = self._completed(inputs)
        parts: dict[str, Tensor] = {}
        if self.meeting != "video":
            parts["audio"] = self.trunk(self.hearing(inputs[self.heard])[:, None])
        if self.meeting != "audio":
            parts["video"] = self.sight(inputs[self.seen])
        if self.meeting == "mid":
            return parts
        return {name: self.get_submodule(f"{name}_transformer")(steps) for name, steps in parts.items()}

    def fuse(self, latents: Mapping[str, Tensor]) -> Tensor:
        """(B, S, D) from `audio` and `video`; (B, S, 2 D) for `av-decision`, the two side by side."""
        if len(latents) < 2:
            return super().fuse(latents)
        heard, seen = _in_step(latents["audio"], latents["video"].shape[1]), latents["video"]
        if self.meeting == "mid":
            fused: Tensor = self.transformer(functional.relu(self.joint(torch.cat([heard, seen], dim=2))))
            return fused
        if self.meeting == "late":
            joined: Tensor = self.alpha(heard) + self.beta(seen)
            return joined
        return torch.cat([heard, seen], dim=2)

    def head(self, fused: Tensor) -> Tensor:
        """Logits (B, K) from (B, S, D); from both branches side by side, (B, S, 2 D), for `av-decision`."""
        fused = self.dropout(fused)
        if self.meeting != "decision":
            logits: Tensor = self.frame_head(fused)
            return logits
        heard, seen = fused.chunk(2, dim=2)
        answers = torch.stack([self.frame_head(heard), self.video_head(seen)])
        weights = torch.stack([functional.logsigmoid(self.weight), functional.logsigmoid(-self.weight)])
        return mix_logits(answers, weights[:, None], dim=0)

    def _transformers(self) -> list[str]:
        """Names of the transformers that this meeting point has."""
        if self.meeting in ("early", "mid"):
            return ["transformer"]
        return [f"{name}_transformer" for name in ("audio", "video") if self.meeting in (name, "late", "decision")]

    def _completed(self, inputs: Inputs) -> Inputs:
        """Silence or black for a modality that is missing."""
        present = next((inputs[name] for name in self.spec.modalities if name in inputs), None)
        if present is None:
            raise VictimError(
                f"The victim {self.spec.name!r} takes {' and '.join(self.spec.modalities)}; the inputs hold "
                f"{', '.join(inputs) or 'nothing'}."
            )
        return {
            name: inputs[name] if name in inputs else present.new_zeros(len(present), *self.spec.shape(name))
            for name in self.spec.modalities
        }

    def _channels(self, inputs: Inputs) -> Tensor:
        """Every frame with the sound of its time as further colours: (B, F, 3 + 2, H, W).

        The stretch of spectrogram that belongs to a frame lies over it, low bands on top and time to the right; bands
        of even and of odd number are a colour each, so that none is lost where pictures have half as many rows.
        """
        features, video = self.hearing(inputs[self.heard]), inputs[self.seen]
        count, height, width = video.shape[1], *video.shape[3:]
        stretches = _in_step(features, count * SLICE_STEPS).reshape(len(video), count, SLICE_STEPS, -1, SOUND_COLOURS)
        planes = stretches.permute(0, 1, 4, 3, 2).flatten(0, 1)  # (B F, 2, mels / 2, steps)
        laid = functional.interpolate(planes, size=(height, width), mode="nearest")
        return torch.cat([normalised(video), laid.reshape(len(video), count, SOUND_COLOURS, height, width)], dim=2)


def _in_step(steps: Tensor, count: int) -> Tensor:
    """(B, count, D): steps of (B, S, D) averaged over as many stretches of time."""
    if steps.shape[1] == count:
        return steps
    return functional.adaptive_avg_pool1d(steps.transpose(1, 2), count).transpose(1, 2)


def _sight(settings: FusionSettings) -> Any:
    early = settings.meeting == "early"
    return visual_branch(
        settings.sees,
        settings.embedding,
        frames=settings.video_frames,
        size=settings.video_size,
        width=settings.video_width * (EARLY_WIDTH if early else 1),
        channels=3 + SOUND_COLOURS if early else 3,
        weights=settings.video_weights,
    )


def _spec(labels: tuple[str, ...], task: Task, settings: FusionSettings, hearing: Any, sight: Any) -> VictimSpec:
    inputs = [part for part in (hearing, sight) if part is not None]
    return VictimSpec(
        name=f"av-{settings.meeting}",
        labels=labels,
        task=task,
        modalities=tuple(part.modality for part in inputs),
        sample_rate=settings.sample_rate,
        clip_seconds=settings.clip_seconds,
        shapes={part.modality: tuple(part.shape) for part in inputs if part.modality != "audio"},
        bounds={part.modality: part.bounds for part in inputs},
    )


def _register(meeting: str, summary: str) -> None:
    name = f"av-{meeting}"

    @register(
        name,
        summary=summary,
        family="audio-visual",
        parity="upstream keys and outputs (fixture)" if meeting != "audio" else "",
        recipe=FRAME_LEVEL_RECIPE,
        pretrained=None if meeting == "audio" else load_upstream,
    )
    def build(*, labels: tuple[str, ...], task: Task = "multiclass", published: bool = False, **config: Any) -> Victim:
        """Builds an untrained network; `config` is that of `FusionSettings`, or of `AuthorSettings` if published."""
        if published:
            return build_author(name, labels, task, config)
        return Fusion(labels=labels, task=task, settings=FusionSettings(**{"meeting": meeting, **config}))


for _meeting, _summary in MEETINGS.items():
    _register(_meeting, f"audio-visual family, {_summary}")
