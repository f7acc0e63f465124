"""The author's full-size networks on AudioSet features, and their checkpoints.

Source: AudioSetDoneRight (`MMTEncoder`, `LateFusion`, `SuperLateFusion`, `TransformerEncoder`, `videoModel`), with ten
convolutions, five pools and 1024-wide embeddings (methods.md 1.2). The same state dict gives the same logits
(tests/robust/test_audioset_done_right.py), down to what one would not guess:

- one transformer layer is applied `transformer_layers` times: the layers share their weights;
- mid-fusion folds ten convolution steps and their channels into one second, and has no transformer for video alone;
- early fusion cuts both feature maps into 80 rows, whatever stands in them, and joins them along frequency;
- `MMTEncoder` with fusion module 2 (after the transformer) cannot run upstream either: its classifier takes 1024
  values and is given 12,288.

Logits stand before upstream's sigmoid, and are pooled without its clamp at 1e-7.
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

from robust.errors import CheckpointError, VictimError, unknown
from robust.types import Inputs, Task, VictimSpec
from robust.victims.attention import EncoderLayer, positions
from robust.victims.base import Victim
from robust.victims.hearing import LOGMEL_BOUNDS
from robust.victims.pooling import FrameHead, mix_logits
from robust.victims.sight import FEATURE_BOUNDS
from robust.victims.trunk import conv_blocks
from robust.victims.upstream import check_entries, labels_beside, read_state

WIDTH, FRAMES, BINS = 1024, 400, 64
SECONDS, FEATURES = 10, 2048
STEPS_PER_SECOND = FRAMES // 4 // SECONDS
EARLY_ROWS = 80
DECISION_WEIGHT = 0.6
"""Of the audio branch in `SuperLateFusion`."""

FUSIONS: Mapping[str, str] = {
    "cnn-transformer": "TransformerEncoder",
    "av-video": "videoModel",
    "av-early": "MMTEncoder (fusion module 0)",
    "av-mid": "MMTEncoder (fusion module 1)",
    "av-late": "LateFusion",
    "av-decision": "SuperLateFusion",
}
"""Our names and upstream's."""
BRANCH_CLASSIFIER = re.compile(r"branch([12])\.(fc_(?:prob|att)\.(?:weight|bias))$")


@dataclass(frozen=True)
class AuthorSettings:
    """Configuration.

    Attributes:
        fusion: A name from `FUSIONS`.
        pooling: One of the five of `robust.victims.pooling`.
        transformer_layers: How often the transformer layer is applied; a state dict does not tell.
        heads: Attention heads.
        add_positions: Scale the features by 8 and add sinusoidal positions.
        dropout: In the transformer layers, in training.
    """

    fusion: str
    pooling: str = "attention"
    transformer_layers: int = 2
    heads: int = 8
    add_positions: bool = False
    dropout: float = 0.75


class AudioBranch(nn.Module):
    """Convolutions and, unless left out, a transformer: log-mel (B, 400, 64) to (B, 100, 1024)."""

    def __init__(self, settings: AuthorSettings) -> None:
        super().__init__()
        self.repeats = settings.transformer_layers
        self.conv = conv_blocks(WIDTH, 10, 5)
        self.enc_layer = EncoderLayer(WIDTH, WIDTH, heads=settings.heads, dropout=settings.dropout)
        if settings.add_positions:
            self.positional_encoding = Positions()

    def maps(self, logmel: Tensor) -> Tensor:
        """The input as a one-channel picture."""
        if hasattr(self, "positional_encoding"):
            logmel = logmel * 8 + self.positional_encoding.pe[:, : logmel.shape[1]]
        return logmel[:, None]

    def convolve(self, maps: Tensor) -> Tensor:
        """Steps (B, T / 4, channels x bins) from a picture (B, 1, T, F)."""
        for block in self.conv:
            maps = block(maps)
        return maps.transpose(1, 2).flatten(2)

    def attend(self, steps: Tensor) -> Tensor:
        """The transformer layer, as often as configured."""
        for _ in range(self.repeats):
            steps = self.enc_layer(steps)
        return steps

    def forward(self, logmel: Tensor) -> Tensor:
        """(B, 100, 1024)."""
        return self.attend(self.convolve(self.maps(logmel)))


class Positions(nn.Module):
    """Upstream stores its positions with the weights."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", positions(FRAMES, BINS)[None])


class VideoBranch(nn.Module):
    """A transformer on one vector per second: (B, 10, 2048) to (B, 10, 1024)."""

    def __init__(self, settings: AuthorSettings) -> None:
        super().__init__()
        self.repeats = settings.transformer_layers
        self.enc_layer = EncoderLayer(FEATURES, WIDTH, heads=settings.heads, dropout=settings.dropout)
        self.hidden1 = nn.Linear(FEATURES, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 10, 1024)."""
        for _ in range(self.repeats):
            features = self.enc_layer(features)
        return functional.relu(self.hidden1(features))


class Early(AudioBranch):
    """`MMTEncoder`, fusion module 0."""

    def __init__(self, settings: AuthorSettings) -> None:
        super().__init__(settings)
        self.proj0 = nn.Linear(9 * WIDTH, WIDTH)

    def fuse(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, 20, 1024)."""
        heard = self.maps(inputs["logmel"]).reshape(-1, 1, EARLY_ROWS, FRAMES * BINS // EARLY_ROWS)
        seen = inputs["video_features"].reshape(-1, 1, EARLY_ROWS, SECONDS * FEATURES // EARLY_ROWS)
        steps = self.convolve(torch.cat([heard, seen], dim=3))
        return {"fused": self.attend(functional.relu(self.proj0(steps)))}


class Mid(AudioBranch):
    """`MMTEncoder`, fusion module 1."""

    def __init__(self, settings: AuthorSettings) -> None:
        super().__init__(settings)
        self.proj1 = nn.Linear(STEPS_PER_SECOND * WIDTH + FEATURES, WIDTH)

    def fuse(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, 10, 1024)."""
        heard = self.convolve(self.maps(inputs["logmel"])).reshape(-1, SECONDS, STEPS_PER_SECOND * WIDTH)
        joined = torch.cat([heard, inputs["video_features"]], dim=2)
        steps = self.attend(functional.relu(self.proj1(joined)))
        return {"audio": heard, "video": inputs["video_features"], "fused": steps}


class Late(nn.Module):
    """`LateFusion`: linear maps of both branches, summed."""

    def __init__(self, settings: AuthorSettings) -> None:
        super().__init__()
        self.branch1, self.branch2 = AudioBranch(settings), VideoBranch(settings)
        self.alpha, self.beta = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def fuse(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, 10, 1024)."""
        heard = self.branch1(inputs["logmel"]).reshape(-1, SECONDS, STEPS_PER_SECOND, WIDTH).mean(dim=2)
        seen = self.branch2(inputs["video_features"])
        return {"audio": heard, "video": seen, "fused": self.alpha(heard) + self.beta(seen)}


class AuthorVictim(Victim):
    """One of the author's networks behind the contract."""

    network: nn.Module

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: AuthorSettings) -> None:
        if settings.fusion not in FUSIONS:
            raise VictimError(unknown("network of AudioSetDoneRight", settings.fusion, FUSIONS))
        shapes = {"logmel": (FRAMES, BINS), "video_features": (SECONDS, FEATURES)}
        if settings.fusion in ("cnn-transformer", "av-video"):
            shapes.pop("video_features" if settings.fusion == "cnn-transformer" else "logmel")
        bounds = {"logmel": LOGMEL_BOUNDS, "video_features": FEATURE_BOUNDS}
        super().__init__(
            VictimSpec(
                name=settings.fusion,
                labels=labels,
                task=task,
                modalities=tuple(shapes),
                clip_seconds=float(SECONDS),
                shapes=shapes,
                bounds={name: bounds[name] for name in shapes},
            )
        )
        self.settings = settings
        self.network = self._network()
        heads = 2 if settings.fusion == "av-decision" else 1
        self.heads = nn.ModuleList(FrameHead(WIDTH, len(labels), settings.pooling) for _ in range(heads))
        self.config = {"published": True, **asdict(settings)}

    def _network(self) -> nn.Module:
        kind = self.settings.fusion
        if kind in ("av-late", "av-decision"):
            late = Late(self.settings)
            if kind == "av-decision":
                del late.alpha, late.beta
            return late
        kinds = {"av-early": Early, "av-mid": Mid, "av-video": VideoBranch, "cnn-transformer": AudioBranch}
        made: nn.Module = kinds[kind](self.settings)
        return made

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`fused` (B, S, 1024), or (B, 110, 1024) of both branches one after the other for `av-decision`."""
        kind, network = self.settings.fusion, self.network
        if isinstance(network, Early | Mid | Late) and kind != "av-decision":
            return network.fuse(inputs)
        if isinstance(network, Late):
            heard, seen = network.branch1(inputs["logmel"]), network.branch2(inputs["video_features"])
            return {"audio": heard, "video": seen, "fused": torch.cat([heard, seen], dim=1)}
        name, modality = ("video", "video_features") if kind == "av-video" else ("audio", "logmel")
        steps: Tensor = network(inputs[modality])
        return {name: steps, "fused": steps}

    def head(self, fused: Tensor) -> Tensor:
        if len(self.heads) == 1:
            logits: Tensor = self.heads[0](fused)
            return logits
        parts = fused[:, : FRAMES // 4], fused[:, FRAMES // 4 :]
        answers = torch.stack([head(part) for head, part in zip(self.heads, parts, strict=True)])
        weights = torch.tensor([DECISION_WEIGHT, 1 - DECISION_WEIGHT], device=fused.device).log()
        return mix_logits(answers, weights[:, None, None], dim=0)


def load_upstream(path: str) -> Victim:
    """Loads a checkpoint of AudioSetDoneRight; which network it holds is read off its keys.

    Labels come from a `class_labels_indices.csv` in the same folder, or are `class 0`, `class 1`, ...

    Args:
        path: A `.pt` file with `{"model": state_dict}` or a state dict, or the same as safetensors.

    Raises:
        CheckpointError: If the file cannot be read safely or holds none of these networks, whole.
    """
    state = _read(Path(path))
    fusion = _recognise(state, path)
    # The branches of late fusion bring classifiers of their own, which it never asks.
    asked = state if fusion != "av-late" else {key: state[key] for key in state if not BRANCH_CLASSIFIER.match(key)}
    given = {_our_key(name, fusion): value for name, value in asked.items()}
    # `MMTEncoder` registers its convolutions twice, as `conv.0` and as `conv1`; the second is what it computes with.
    twice = sum(name.startswith("network.conv.") for name in given) if fusion in ("av-early", "av-mid") else 0
    if len(asked) != len(given) + twice:
        raise CheckpointError(f"{path} does not hold every convolution as {FUSIONS[fusion]} does; it is not whole.")
    head = "heads.0.fc_prob.weight"
    if head not in given:
        raise CheckpointError(f"{path} has no classifier: {head} ({'fc_prob.weight'} upstream) is missing.")
    settings = AuthorSettings(
        fusion,
        # Upstream's default; without attention weights a state dict does not tell the pooling.
        pooling="attention" if "heads.0.fc_att.weight" in given else "linear",
        add_positions=any("positional_encoding" in name for name in given),
    )
    labels = labels_beside(Path(path), len(given[head]))
    victim = AuthorVictim(labels=labels, task="multilabel", settings=settings)
    check_entries(path, f"{FUSIONS[fusion]} of AudioSetDoneRight", victim.state_dict(), given)
    victim.load_state_dict(given)
    return victim.eval()


def build_author(fusion: str, labels: tuple[str, ...], task: Task, config: Mapping[str, Any]) -> Victim:
    """The published configuration of one of `FUSIONS`, untrained."""
    return AuthorVictim(labels=labels, task=task, settings=AuthorSettings(**{"fusion": fusion, **config}))


def _read(path: Path) -> dict[str, Tensor]:
    from robust.victims.checkpoints import read_safetensors

    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_state(path)
    return {name.removeprefix("module."): value for name, value in state.items()}  # DataParallel's prefix


def _recognise(state: Mapping[str, Tensor], path: str) -> str:
    """Which of `FUSIONS` has these keys."""
    marks = {
        "proj0.weight": "av-early",
        "proj1.weight": "av-mid",
        "alpha.weight": "av-late",
        "branch1.fc_prob.weight": "av-decision",
        "hidden1.weight": "av-video",
        "fc_prob.weight": "cnn-transformer",
    }
    for key, fusion in marks.items():
        if key in state:
            return fusion
    raise CheckpointError(
        f"{path} holds no network of AudioSetDoneRight: none of {', '.join(marks)} is among its {len(state)} entries."
    )


def _our_key(name: str, fusion: str) -> str:
    """Upstream's name of a parameter as ours."""
    name = re.sub(r"\bconv(\d+)\.", lambda found: f"conv.{int(found[1]) - 1}.", name)
    branch = BRANCH_CLASSIFIER.match(name)
    if branch and fusion == "av-decision":
        return f"heads.{int(branch[1]) - 1}.{branch[2]}"
    return f"heads.0.{name}" if name.startswith("fc_") else f"network.{name}"
