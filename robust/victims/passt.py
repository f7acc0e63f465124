"""`passt`: a vision transformer on overlapping patches that trains on some of them ("patchout").

Sources: Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022; the authors' module
for HEAR 2021. Parameters have upstream's names; the transformer's layers are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from robust.errors import CheckpointError
from robust.frontends.emphasised import EmphasisedMel
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_safetensors
from robust.victims.passt_net import PasstNet, PasstSettings
from robust.victims.registry import register
from robust.victims.upstream import AUDIOSET_CLASSES, check_entries, labels_beside, read_state

UPSTREAM_MELS = 128
HEAD_WIDTH = 64
STRIDES = {12: 10, 10: 12, 9: 14, 8: 16}
"""Bands of patches in a published file -> mel bands between patches."""

SMALL: dict[str, Any] = {
    "sample_rate": 16_000,  # the generated sounds hold nothing above 8 kHz, and radii mean what they do elsewhere
    "clip_seconds": 1.0,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 64,
    "fmax": 7_500.0,
    "time_positions": 9,
    "width": 128,
    "layers": 3,
    "heads": 4,
    "patchout_time": 2,
    "patchout_frequency": 1,
    "time_mask": 12,
    "freq_mask": 8,
}


class Passt(Victim):
    """Front end, transformer and classifier; `net` has upstream's names.

    The latent is the mean of the two summary tokens. Clips may be of any length that holds a patch; shorter ones are
    padded with silence.
    """

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: PasstSettings) -> None:
        super().__init__(
            VictimSpec(
                name="passt",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.net = PasstNet(settings, len(labels))
        self.mel = EmphasisedMel(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            win_length=settings.win_length,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            fmin=settings.fmin,
            fmax=settings.fmax,
        )
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask, stripes=1)
        self.least_samples = max((settings.patch_size - 1) * settings.hop_length, settings.n_fft // 2) + 2
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        audio = inputs["audio"]
        audio = functional.pad(audio, (0, max(self.least_samples - audio.shape[1], 0)))
        latent = self.net(self.spec_augment(self.mel(audio)))
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.net.head(fused)
        return logits


def load_passt(source: str) -> Victim:
    """Loads a published checkpoint; every entry must fit.

    Files of 10, 20 and 30 s and of strides 10 to 16 are told apart by their shapes. The task is multilabel for
    AudioSet's 527 classes and multiclass otherwise.

    Args:
        source: Path of a `.pt` (read without running code from it) or `.safetensors` file with the network's entries,
            or those of the authors' wrapper, where `net.` stands before them.

    Raises:
        CheckpointError: If it is no such file.
    """
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"No PaSST checkpoint at {source!r}: give a .pt or .safetensors file of upstream's.")
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_state(path)
    if any(name.startswith("net.") for name in state):
        state = {name.removeprefix("net."): value for name, value in state.items() if name != "device_proxy"}
    settings = _settings(state, source)
    classes = state["head.1.weight"].shape[0]
    task: Task = "multilabel" if classes == AUDIOSET_CLASSES else "multiclass"
    victim = Passt(labels=labels_beside(path, classes), task=task, settings=settings)
    check_entries(source, "passt", victim.net.state_dict(), state)
    victim.net.load_state_dict(state)
    return victim.eval()


def _settings(state: Mapping[str, Tensor], source: str) -> PasstSettings:
    """The configuration that the shapes tell."""
    needed = ("patch_embed.proj.weight", "freq_new_pos_embed", "time_new_pos_embed", "head.1.weight")
    lacking = [name for name in (*needed, "blocks.0.mlp.fc1.weight") if name not in state]
    if lacking:
        raise CheckpointError(f"{source} is no PaSST checkpoint: it lacks {', '.join(lacking)}.")
    odd = [f"{name} is {tuple(state[name].shape)}" for name in needed[:3] if state[name].ndim != 4]
    bands = 0 if odd else state["freq_new_pos_embed"].shape[2]
    if odd or bands not in STRIDES:
        told = "; ".join(odd) or f"it has {bands} bands of patches, and published files {', '.join(map(str, STRIDES))}"
        raise CheckpointError(f"{source} is no PaSST checkpoint of {UPSTREAM_MELS} mel bands: {told}.")
    width, times, stride = (
        state["patch_embed.proj.weight"].shape[0],
        state["time_new_pos_embed"].shape[3],
        STRIDES[bands],
    )
    return PasstSettings(
        clip_seconds=float(max(round(times * stride / 100), 1)),
        stride=stride,
        time_positions=times,
        width=width,
        layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        heads=max(width // HEAD_WIDTH, 1),
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        patchout_time=min(PasstSettings.patchout_time, times // 2),
        patchout_frequency=min(PasstSettings.patchout_frequency, bands // 2),
    )


@register(
    "passt",
    summary="PaSST-S (Koutini 2022): patchout in training, time and frequency positions; upstream files load",
    family="transformer",
    parity="upstream keys, front end and outputs (fixture)",
    small=SMALL,
    recipe={"learning_rate": 1e-3, "mixup_alpha": 0.0},
    pretrained=load_passt,
)
def build_passt(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `PasstSettings`."""
    return Passt(labels=labels, task=task, settings=PasstSettings(**config))
