"""`timm:NAME`: any image backbone of timm on a log-mel spectrogram, a picture of one channel.

Source: timm (Wightman, "PyTorch Image Models"); the picture is PANNs' log-mel, frequency upwards and time rightwards.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.frontends.logmel import LogMel
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import read_safetensors
from robust.victims.hub import first_line
from robust.victims.registry import VictimEntry, register_open
from robust.victims.unused import freeze_unused
from robust.victims.upstream import check_entries, labels_beside, read_state

PREFIX = "timm"
HUB = "hub"
PARITY = "timm's own model inside (living reference)"
MEAN_DB, SCALE_DB = -40.0, 40.0  # -100 dB, the floor, becomes -1.5, and full scale about 1
RECIPE = {"learning_rate": 1e-3, "weight_decay": 0.05, "mixup_alpha": 0.1}


@dataclass(frozen=True)
class TimmSettings:
    """Configuration.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_fft: Samples in the window of the spectrogram.
        hop_length: Samples between its frames.
        n_mels: Mel bands.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz; half the rate when None.
        image_size: Height and width, or one number for both, to which the spectrogram is interpolated. None: as it
            is, with positional embeddings made for it; models that can do neither get the size they were made for.
        dropout: Dropout before the classifier, in training.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in mel bands, in training.
        pretrained: Begin with timm's weights of that name, from the hub; the classifier is new.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 1.0
    n_fft: int = 512
    hop_length: int = 160
    n_mels: int = 64
    fmin: float = 0.0
    fmax: float | None = None
    image_size: int | Sequence[int] | None = None
    dropout: float = 0.1
    time_mask: int = 12
    freq_mask: int = 8
    pretrained: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width asked for."""
        if self.image_size is None:
            return None
        sides = (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
        if len(sides) != 2 or min(sides) < 1:
            raise VictimError(f"image_size={self.image_size} must be a side or (height, width), in pixels.")
        return sides[0], sides[1]

    @property
    def spectrogram(self) -> tuple[int, int]:
        """Mel bands and frames of a clip."""
        return self.n_mels, 1 + round(self.sample_rate * self.clip_seconds) // self.hop_length


class TimmVictim(Victim):
    """Log-mel picture, timm's features, timm's classifier; parameters are named as timm names them, after `model.`.

    The latent is what the last layer of timm's head takes.
    """

    def __init__(self, name: str, *, labels: tuple[str, ...], task: Task, settings: TimmSettings) -> None:
        super().__init__(
            VictimSpec(
                name=f"{PREFIX}:{name}",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.log_mel = LogMel(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop_length,
            n_mels=settings.n_mels,
            fmin=settings.fmin,
            fmax=settings.fmax,
        )
        self.spec_augment = SpecAugment(time_width=settings.time_mask, freq_width=settings.freq_mask)
        self.model, self.size = _model(name, len(labels), settings)
        self.dropout = nn.Dropout(settings.dropout)
        # A checkpoint of ours holds the weights: it is rebuilt without the hub.
        self.config = asdict(replace(settings, pretrained=False))
        _check_head(self, settings)

    def picture(self, audio: Tensor) -> Tensor:
        """What timm's model takes, (B, 1, height, width), of `audio` (B, T)."""
        features: Tensor = self.spec_augment((self.log_mel(audio) - MEAN_DB) / SCALE_DB)
        picture = features.transpose(1, 2).unsqueeze(1)
        if self.size is None or picture.shape[2:] == self.size:
            return picture
        return functional.interpolate(picture, size=self.size, mode="bilinear", align_corners=False)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        model: Any = self.model
        latent = model.forward_head(model.forward_features(self.picture(inputs["audio"])), pre_logits=True)
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        model: Any = self.model
        classifier, latent = model.get_classifier(), self.dropout(fused)
        if isinstance(classifier, nn.Conv2d):  # a linear layer of 1 x 1 pixels
            latent = latent[:, :, None, None]
        logits: Tensor = classifier(latent).flatten(1)
        return logits


def _model(name: str, classes: int, settings: TimmSettings) -> tuple[nn.Module, tuple[int, int] | None]:
    """The model, and the size to which pictures are to be brought: None where it takes any."""
    import timm

    always: dict[str, Any] = {"in_chans": 1, "num_classes": classes, "pretrained": settings.pretrained}
    size = settings.size
    made_for = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    try:
        if not made_for.fixed_input_size:
            return timm.create_model(name, **always), size
        return _fixed(name, always, settings, tuple(made_for.input_size[1:]))
    except Exception as error:  # the hub's client and every architecture fail in their own ways
        raise VictimError(f"timm cannot build {name!r} for this: {first_line(error)}") from error


def _fixed(
    name: str, always: dict[str, Any], settings: TimmSettings, made_for: tuple[int, ...]
) -> tuple[nn.Module, tuple[int, int] | None]:
    """A model whose positions belong to one size: made for the spectrogram's where it can be, else the other way."""
    import timm

    if settings.size is not None:
        if settings.size != made_for:
            always = {**always, "img_size": settings.size}
        return timm.create_model(name, **always), settings.size
    try:
        model: Any = timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True, **always)
        patch = model.patch_embed.patch_size
    except (TypeError, AttributeError):  # no such thing among its arguments, or no patches
        return timm.create_model(name, **always), (made_for[0], made_for[1])
    whole = [-(-side // step) * step for side, step in zip(settings.spectrogram, patch, strict=True)]
    model.set_input_size(img_size=tuple(whole))
    return model, None


def _check_head(victim: TimmVictim, settings: TimmSettings) -> None:
    """Features and classifier, taken apart, must be timm's model; and the model must take such pictures at all.

    Raises:
        VictimError: If there is no classifier that could be taken apart, or the spectrogram is too small.
    """
    name, model = victim.spec.name, victim.model
    classifier = getattr(model, "get_classifier", lambda: None)()
    if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.Identity | nn.ModuleList):
        raise VictimError(
            f"{name} has no single classifier layer: it gives features or maps and no classes, or has several heads. "
            "Take a backbone for classification, or wrap it with a head of your own by robust.Victim.wrap."
        )
    audio = 0.1 * torch.randn(1, victim.spec.clip_samples, generator=torch.Generator().manual_seed(0))
    victim.eval()
    try:
        with torch.no_grad():
            ours, whole = victim({"audio": audio}), model(victim.picture(audio))
    except Exception as error:  # every architecture fails in its own way
        height, width = cast(Any, model).pretrained_cfg["input_size"][1:]
        raise VictimError(
            f"{name} cannot take the spectrogram of a clip, {settings.n_mels} bands x {settings.spectrogram[1]} "
            f"frames, or the image_size given. Set image_size=[{height}, {width}], for which it was made, or take "
            f"longer clips. ({first_line(error)})"
        ) from error
    if not isinstance(whole, Tensor) or ours.shape != whole.shape or not torch.allclose(ours, whole, atol=1e-4):
        raise VictimError(
            f"{name} does not split into features and a classifier: what its own forward pass gives is not what its "
            "classifier makes of its features. Wrap the model by robust.Victim.wrap."
        )
    freeze_unused(victim, lambda: victim({"audio": audio}))
    victim.train()


def load_timm(name: str, source: str) -> Victim:
    """Loads weights of the timm model `name`, its classifier included.

    Labels come from a `class_labels_indices.csv` beside a file, or are `class 0`, `class 1`, ...

    Args:
        name: timm's name, with a tag of its weights or without.
        source: `hub` for timm's own weights of that name, or a file holding its state dict (`.safetensors`, `.pth`,
            `.bin`); first layers for three channels are summed, as timm does.

    Raises:
        CheckpointError: If they cannot be fetched or read, or belong to another architecture.
    """
    import timm

    if source == HUB:
        try:
            model: Any = timm.create_model(name, pretrained=True, in_chans=1)
        except Exception as error:  # the hub's client fails in many ways
            raise CheckpointError(
                f"timm's weights of {name!r} cannot be fetched: no such weights, or the hub is out of reach. Give "
                f"--weights a file of them. ({first_line(error)})"
            ) from error
        labels = tuple(f"class {index}" for index in range(model.num_classes))
        return _filled(name, source, labels, model.state_dict())
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"There is no file at {source}; give one of timm's state dicts, or {HUB!r}.")
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_state(path)
    made_for: Any = timm.create_model(name, in_chans=1).pretrained_cfg
    key = f"{_first_of(made_for['classifier'])}.weight"
    if key not in state:
        raise CheckpointError(f"{source} has no {key!r} among its {len(state)} entries: it is no {name!r} classifier.")
    return _filled(name, source, labels_beside(path, len(state[key])), state)


def _filled(name: str, source: str, labels: tuple[str, ...], state: dict[str, Tensor]) -> Victim:
    """The victim with the weights of `state`; models of fixed size keep theirs."""
    from timm.models import get_pretrained_cfg
    from timm.models._manipulate import adapt_input_conv

    made_for = get_pretrained_cfg(name)
    fixed = made_for is not None and made_for.fixed_input_size
    settings = TimmSettings(image_size=made_for.input_size[1:] if made_for is not None and fixed else None)
    victim = TimmVictim(name, labels=labels, task="multiclass", settings=settings)
    own = victim.model.state_dict()
    first: Any = victim.model
    for place in _all_of(first.pretrained_cfg.get("first_conv")):
        key = f"{place}.weight"
        if key in own and key in state and state[key].shape[1] == 3 and own[key].shape[1] == 1:
            state = {**state, key: adapt_input_conv(1, state[key])}
    check_entries(source, name, own, state)
    victim.model.load_state_dict(state)
    return victim.eval()


def _all_of(names: str | Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def _first_of(names: str | Sequence[str] | None) -> str:
    return (*_all_of(names), "classifier")[0]


@register_open(
    PREFIX,
    argument="NAME",
    summary="any image backbone of timm on a log-mel: timm:resnet18, timm:vit_tiny_patch16_224, timm:convnext_atto...",
    parity=PARITY,
)
def open_timm(name: str) -> VictimEntry:
    """The victim whose backbone is timm's `name`.

    Raises:
        VictimError: If timm has no such model; the nearest are offered.
    """
    import timm

    if not timm.is_model(name):
        names = timm.list_models()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise VictimError(
            f"Unknown timm model {name!r}.{hint} timm has {len(names)} of them; timm.list_models('*{name[:4]}*') lists "
            "those of a kind."
        )

    def build(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
        return TimmVictim(name, labels=labels, task=task, settings=TimmSettings(**config))

    return VictimEntry(
        f"{PREFIX}:{name}",
        build,
        f"timm's {name} on log-mel",
        parity=PARITY,
        recipe=RECIPE,
        pretrained=lambda source: load_timm(name, source),
    )
