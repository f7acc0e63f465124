"""`hear:MODULE[:WEIGHTS]`: any HEAR 2021 module with a head of ours, attacked through both.

Sources: Turian et al., HEAR: Holistic Evaluation of Audio Representations, PMLR 176, 2022 (the common API); the head is
that of its evaluation kit (methods.md 7.4). The module's code is run, and reads its weights by itself: take only
modules that you trust, as with `FILE.py:FACTORY`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.bpda import straight_through
from attacks.weights import weights_hash
from robust.errors import CheckpointError, VictimError
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.hear_gradients import SAME, Own, as_embeddings, find_way
from robust.victims.registry import VictimEntry, register_open

NEEDED = ("load_model", "get_scene_embeddings")
LEVELS = (0.5, 0.005, 0.0)
"""Of the noise on which a module is tried: loud, quiet, silent."""
BLACK_BOX = (
    "Without gradients it can be asked all the same: `robust attack --attacks square,nes` (black box), `robust noise`, "
    "and in Python robust.load_victim(name, gradients=False) with robust.attack_purified(..., purifier='none', "
    "attacks=('square',)). To attack by gradients, give the module a get_scene_embeddings that keeps the graph."
)


@dataclass(frozen=True)
class HearModuleSettings:
    """Configuration.

    Attributes:
        hidden: Units of the hidden layer with its BatchNorm; 0 for a linear head. 1024 in the evaluation kit's grid.
        dropout: After the hidden layer's BatchNorm, in training.
        clip_seconds: Length of a clip.
        gradients: From where gradients must come: `auto`, `whole`, `inner module`, `bpda`, `none` (`hear_gradients`).
            A checkpoint holds what was found, and is loaded with no other.
        hash: Of the module's weights and their file, as it must be found again; None to take what there is.
    """

    hidden: int = 1024
    dropout: float = 0.1
    clip_seconds: float = 1.0
    gradients: str = "auto"
    hash: str | None = None

    def check(self) -> None:
        """Raises `VictimError` for a head or a clip that there cannot be."""
        if self.hidden < 0 or not 0 <= self.dropout < 1 or self.clip_seconds <= 0:
            raise VictimError(
                "The head of a HEAR module needs hidden >= 0, dropout in [0, 1) and clip_seconds > 0; given "
                f"hidden={self.hidden}, dropout={self.dropout}, clip_seconds={self.clip_seconds}."
            )


class SceneEmbedding:
    """A loaded HEAR module: frozen, no part of a victim's own weights, and with a graph where there is a way to one.

    Copies share it.

    Attributes:
        sample_rate: Hz.
        size: Values of an embedding.
        hash: Of all its weights, and of the file they came from.
        way: How gradients come back.
        one_by_one: Whether clips are embedded singly, since the module lets those of a batch touch one another (a floor
            below the loudest of all, say).

    Args:
        place: Name by which it is imported.
        weights: Path of its weights; empty for the module's own.
        clip_seconds: Length of the clips on which it is tried.
        gradients: As in `HearModuleSettings`.

    Raises:
        VictimError: If it cannot be imported or loaded, is no HEAR module, or has no such gradients.
        CheckpointError: If there are no such weights.
    """

    def __init__(self, place: str, weights: str, *, clip_seconds: float, gradients: str) -> None:
        self.place = place
        # Some modules seed the global generator, switch gradients off for good, or print into the JSON on stdout.
        with torch.random.fork_rng(), torch.enable_grad(), contextlib.redirect_stdout(sys.stderr):
            self.own, self.model = _loaded(place, weights)
            self.model = self.model.to("cpu").eval().requires_grad_(False)
            self.sample_rate = _positive(place, self.model, "sample_rate")
            self.size = _positive(place, self.model, "scene_embedding_size")
            self.hash = _hash(self.model, weights)
            self.one_by_one = False
            samples = round(self.sample_rate * clip_seconds)
            probes = [_noise(samples), _noise(round(1.37 * samples))]
            self._try(probes[0])
            heard = [clip for probe in probes for clip in torch.split(probe[:2], 1)]  # silence may have no gradient
            self.way = find_way(place, self.own, self.model, heard, gradients)
            self.one_by_one = self._mixes(probes[0])

    def __call__(self, audio: Tensor) -> Tensor:
        """Scene embeddings (B, D) of audio (B, T), with a graph where `audio` has one and there is a way."""
        if self.one_by_one and len(audio) > 1:
            return torch.cat([self._batch(clip) for clip in torch.split(audio, 1)])
        return self._batch(audio)

    def __deepcopy__(self, memo: dict[int, Any]) -> SceneEmbedding:
        return self

    def _batch(self, audio: Tensor) -> Tensor:
        route, sought = self.way.route, audio.requires_grad and torch.is_grad_enabled()
        if self.way.gradients == "none" and sought:
            raise VictimError(f"{self.place} gives no gradients. Tried: {self.way.said}. {BLACK_BOX}")
        if self.way.gradients == "inner module" and route is not None:
            return route(self.own, self.model, audio)
        if self.way.gradients == "whole" and sought:
            return as_embeddings(self.own(audio, self.model), audio)
        with torch.no_grad():
            found = as_embeddings(self.own(audio.detach(), self.model), audio)
        return straight_through(found, route(self.own, self.model, audio)) if route is not None and sought else found

    def _try(self, audio: Tensor) -> None:
        """Embeds noise as the module's author meant it; raises `VictimError` if it does not give what it promises."""
        try:
            with torch.no_grad():
                found = as_embeddings(self.own(audio, self.model), audio)
        except Exception as error:
            raise VictimError(
                f"get_scene_embeddings of {self.place} fails on {len(audio)} clips of {audio.shape[1]} samples: "
                f"{type(error).__name__}: {error}. Check clip_seconds and that its dependencies are installed."
            ) from error
        if found.shape != (len(audio), self.size):
            raise VictimError(
                f"get_scene_embeddings of {self.place} returned the shape {tuple(found.shape)}; its "
                f"scene_embedding_size promises {(len(audio), self.size)}."
            )

    def _mixes(self, audio: Tensor) -> bool:
        """Whether a clip's embedding depends on its neighbours."""
        with torch.no_grad():
            together, alone = self._batch(audio), torch.cat([self._batch(clip) for clip in torch.split(audio, 1)])
        return bool((together - alone).abs().max() > SAME * alone.abs().max())


class HearModule(Victim):
    """A frozen scene embedding and a head; only the head is trained and saved.

    Attributes:
        gradients: Where they come from: `whole`, `inner module`, `bpda` or `none`.
    """

    def __init__(
        self, name: str, scene: SceneEmbedding, *, labels: tuple[str, ...], task: Task, settings: HearModuleSettings
    ) -> None:
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                sample_rate=scene.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.scene = scene
        self.hidden = _hidden(scene.size, settings)
        self.projection = _linear(settings.hidden or scene.size, len(labels), "relu" if settings.hidden else "linear")
        self.gradients = scene.way.gradients
        self.config = asdict(replace(settings, gradients=self.gradients, hash=scene.hash))

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        latent = self.scene(inputs["audio"])
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.projection(self.hidden(fused))
        return logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HearModule:
        """Moves the embedding along to a device or type, although it is no part of the weights."""
        move: Any = nn.Module._apply  # without types in PyTorch
        move(self.scene.model, fn)
        move(self, fn, recurse)
        return self


def _hidden(size: int, settings: HearModuleSettings) -> nn.Module:
    """One layer as in the evaluation kit: BatchNorm before dropout and ReLU."""
    if settings.hidden == 0:
        return nn.Identity()
    return nn.Sequential(
        _linear(size, settings.hidden, "linear"),
        nn.BatchNorm1d(settings.hidden),
        nn.Dropout(settings.dropout),
        nn.ReLU(),
    )


def _linear(inputs: int, outputs: int, before: str) -> nn.Linear:
    """Xavier weights, with the gain of what comes before."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, gain=2**0.5 if before == "relu" else 1.0)
    return layer


def _loaded(place: str, weights: str) -> tuple[Own, nn.Module]:
    """A module's function and model."""
    if weights and not Path(weights).is_file():
        raise CheckpointError(f"There are no weights at {weights}; hear:MODULE:WEIGHTS takes a file, hear:MODULE none.")
    try:
        module = importlib.import_module(place)
    except Exception as error:
        raise VictimError(
            f"The HEAR module {place!r} cannot be imported: {type(error).__name__}: {error}. Install it, or put the "
            "folder that holds it on PYTHONPATH."
        ) from error
    if missing := [name for name in NEEDED if not callable(getattr(module, name, None))]:
        raise VictimError(f"{place} is no HEAR 2021 module: it has no {' and no '.join(missing)}.")
    try:
        model = module.load_model(*_arguments(module.load_model, weights))
    except Exception as error:
        given = f" from {weights}" if weights else ""
        raise VictimError(f"load_model of {place} failed{given}: {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise VictimError(f"load_model of {place} returned a {type(model).__name__}; a torch.nn.Module is needed.")
    return module.get_scene_embeddings, model


def _arguments(load_model: Callable[..., Any], weights: str) -> tuple[str, ...]:
    """The path, or nothing where none is given; some want an empty one then."""
    if weights:
        return (weights,)
    try:
        inspect.signature(load_model).bind()
    except TypeError:
        return ("",)
    return ()


def _positive(place: str, model: nn.Module, name: str) -> int:
    value = getattr(model, name, None)
    if not isinstance(value, int) or value < 1:
        raise VictimError(f"The model of {place} must have {name}, a whole number above 0; it is {value!r}.")
    return value


def _hash(model: nn.Module, weights: str) -> str:
    digest = hashlib.blake2b(weights_hash(model).encode(), digest_size=16)
    if weights:
        digest.update(Path(weights).read_bytes())
    return digest.hexdigest()


def _noise(samples: int) -> Tensor:
    """(3, T) noise, a clip at each level."""
    noise = 2 * torch.rand(len(LEVELS), samples, generator=torch.Generator().manual_seed(0)) - 1
    return noise * torch.tensor(LEVELS)[:, None]


@register_open(
    "hear",
    argument="MODULE[:WEIGHTS]",
    summary="any HEAR 2021 module, frozen, with a linear or one-hidden-layer head; gradients through its inner module",
    parity="what replaces a detaching wrapper is held against it to 1e-4 at every load",
)
def open_hear(argument: str) -> VictimEntry:
    """The entry of `hear:MODULE` or `hear:MODULE:WEIGHTS`; the module is not imported before a victim is built."""
    place, _, weights = argument.partition(":")
    name = f"hear:{argument}"
    return VictimEntry(
        name=name,
        build=functools.partial(_build, name, place, weights),
        summary=f"the HEAR module {place} with a head",
        parity="own embedding, or held against it to 1e-4",
        recipe={"learning_rate": 1e-3, "weight_decay": 0.0, "mixup_alpha": 0.0},
    )


def _build(
    name: str, place: str, weights: str, *, labels: tuple[str, ...], task: Task = "multiclass", **config: Any
) -> Victim:
    settings = HearModuleSettings(**config)
    settings.check()
    scene = SceneEmbedding(place, weights, clip_seconds=settings.clip_seconds, gradients=settings.gradients)
    if settings.hash not in (None, scene.hash):
        raise CheckpointError(
            f"The head was trained on other weights of {place}{f' ({weights})' if weights else ''} than there are now "
            f"(hash {settings.hash}, now {scene.hash}). Take those of then, or train the head anew."
        )
    return HearModule(name, scene, labels=labels, task=task, settings=settings)


__all__ = ["HearModule", "HearModuleSettings", "SceneEmbedding", "open_hear"]
