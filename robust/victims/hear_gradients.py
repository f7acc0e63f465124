"""Ways to a gradient through a HEAR 2021 module, whose `get_scene_embeddings` as a rule gives none.

The official wrappers detach: a `torch.no_grad()` decorator (the audio MLPs), `with torch.no_grad()` around the model's
own method (PaSST, EfficientNet), or NumPy (Wav2CLIP). An attack through them finds nothing, and the model looks robust.
Behind each lies a function with a graph. It is taken only if it gives the same embedding (methods.md 7.2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from robust.errors import VictimError, unknown

Own: TypeAlias = Callable[[Tensor, nn.Module], Any]
"""A module's `get_scene_embeddings(audio, model)`."""
Route: TypeAlias = Callable[[Own, nn.Module, Tensor], Tensor]
"""Another way from audio (B, T) to scene embeddings (B, D), given the module's own function and model."""

GRADIENTS = ("auto", "whole", "inner module", "bpda", "none")
SAME = 1e-4
"""Largest difference of two embeddings that count as the same, as a share of the largest value."""
NEAR = 0.1
"""The same for a function whose gradient may stand in for one that is missing (BPDA)."""


def _undecorated(own: Own, model: nn.Module, audio: Tensor) -> Tensor:
    plain = inspect.unwrap(own)
    if plain is own:
        raise VictimError("it is not decorated")
    found: Tensor = plain(audio, model)
    return found


def _method(name: str) -> Route:
    def route(own: Own, model: nn.Module, audio: Tensor) -> Tensor:
        found: Tensor = getattr(model, name)(audio)
        return found

    return route


def _utterance(own: Own, model: nn.Module, audio: Tensor) -> Tensor:
    """Wav2CLIP takes a clip whole where there is no frame length; otherwise it cuts frames in NumPy."""
    model.frame_length = model.hop_length = None  # type: ignore[assignment]
    found: Tensor = model(audio)
    return found


UNDECORATED, OWN_METHOD = "get_scene_embeddings without its decorator", "model.get_scene_embeddings"
ADAPTERS: Mapping[str, tuple[str, Route]] = {
    "hearaudiomlp": (UNDECORATED, _undecorated),
    "hearkwmlp": (UNDECORATED, _undecorated),
    "hear21passt": (OWN_METHOD, _method("get_scene_embeddings")),
    "efficient_latent": ("model.clip_embedding", _method("clip_embedding")),
    "wav2clip_hear": ("model(audio) on whole clips", _utterance),
    "wav2clip": ("model(audio) on whole clips", _utterance),
}
"""Top-level package -> the function behind its wrapper, in words and to be called."""
USUAL: Mapping[str, Route] = {
    UNDECORATED: _undecorated,
    OWN_METHOD: _method("get_scene_embeddings"),
    "model(audio)": lambda own, model, audio: model(audio),
}
"""What is tried with every module: wrong guesses give another embedding, and are refused for that."""


@dataclass(frozen=True)
class Way:
    """How gradients come back from a module's scene embedding.

    Attributes:
        gradients: `whole` (the module's own function gives them), `inner module` (the same embedding, by `route`),
            `bpda` (the module's embedding, with the gradient of one by `route` that is near it) or `none`.
        route: None for `whole` and `none`.
        said: The route in words; for `none` what was tried and why it is none.
    """

    gradients: str
    route: Route | None
    said: str


def find_way(package: str, own: Own, model: nn.Module, probes: Iterable[Tensor], wanted: str = "auto") -> Way:
    """The best way to a gradient that there is, or the one wanted.

    Args:
        package: Name of the module; its first part chooses the adapter.
        own: The module's `get_scene_embeddings`.
        model: What its `load_model` returned.
        probes: Audio (B, T) on which embeddings are compared; batches of one clip or several.
        wanted: One of `GRADIENTS`; `auto` is the first of `whole`, `inner module`, `bpda`, `none` that there is.

    Raises:
        VictimError: If `wanted` is unknown, or there is no such way.
    """
    if wanted not in GRADIENTS:
        raise VictimError(unknown("way to gradients", wanted, GRADIENTS))
    probes = list(probes)
    if wanted == "none":
        return Way("none", None, "asked to go without")
    problem = _problem(lambda audio: own(audio, model), probes)
    if not problem and wanted in ("auto", "whole"):
        return Way("whole", None, "get_scene_embeddings itself")
    tried = [f"get_scene_embeddings ({problem or 'has a gradient'})"]
    near: tuple[float, str, Route] | None = None
    for said, route in _candidates(package):
        problem = _problem(partial(route, own, model), probes)
        distance = float("inf") if problem else _distance(own, model, route, probes)
        if distance <= SAME and wanted in ("auto", "inner module"):
            return Way("inner module", route, said)
        if distance <= NEAR and (near is None or distance < near[0]):
            near = (distance, said, route)
        tried.append(f"{said} ({problem or f'differs by {100 * distance:.2g} %'})")
    if near is not None and wanted in ("auto", "bpda"):
        return Way("bpda", near[2], f"{near[1]}, which differs by {100 * near[0]:.2g} %")
    if wanted != "auto":
        raise VictimError(f"{package} gives no gradients by {wanted!r}. Tried: {'; '.join(tried)}. Allow 'auto'.")
    return Way("none", None, "; ".join(tried))


def as_embeddings(found: Any, audio: Tensor) -> Tensor:
    """What a module returned as a tensor like `audio`; one made in inference mode becomes an ordinary one."""
    tensor = torch.as_tensor(found)
    return (tensor.clone() if tensor.is_inference() else tensor).to(audio)


def _candidates(package: str) -> list[tuple[str, Route]]:
    """What may lie behind a module's function: what is known of it, then what is usual."""
    known = ADAPTERS.get(package.partition(".")[0])
    rest = [(said, route) for said, route in USUAL.items() if known is None or said != known[0]]
    return rest if known is None else [known, *rest]


def _problem(function: Callable[[Tensor], Any], probes: Iterable[Tensor]) -> str:
    """Why a function gives no gradient; empty where it does, for one probe at least."""
    found = "no gradient"
    for audio in probes:
        leaf = audio.clone().requires_grad_()
        try:
            with torch.enable_grad():
                outputs = function(leaf)
                if not isinstance(outputs, Tensor) or not outputs.requires_grad:
                    return "detaches"
                weights = torch.linspace(-1, 1, outputs.numel()).to(outputs).view_as(outputs)
                (gradient,) = torch.autograd.grad((outputs * weights).sum(), leaf, allow_unused=True)
        except Exception as error:  # it is somebody's code, called in a way it was not made for
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        if gradient is None:
            return "detaches"
        if bool((gradient != 0).any()) and bool(torch.isfinite(gradient).all()):
            found = ""
    return found


def _distance(own: Own, model: nn.Module, route: Route, probes: Iterable[Tensor]) -> float:
    """Largest difference from the module's own embedding over its largest value; infinite for another shape."""
    worst = 0.0
    for audio in probes:
        with torch.no_grad():
            real, other = as_embeddings(own(audio, model), audio), route(own, model, audio)
        if real.shape != other.shape:
            return float("inf")
        worst = max(worst, float((real - other).abs().max() / real.abs().max().clamp_min(1e-12)))
    return worst


__all__ = ["ADAPTERS", "GRADIENTS", "NEAR", "SAME", "USUAL", "Own", "Route", "Way", "as_embeddings", "find_way"]
