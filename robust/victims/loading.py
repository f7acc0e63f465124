"""`load_victim`: from a name, a checkpoint, a hub id or a Python file to a victim that can be attacked."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robust.errors import CheckpointError, VictimError
from robust.victims.base import Victim
from robust.victims.checkpoints import card_path, load_checkpoint, load_strictly, read_card, read_safetensors
from robust.victims.probe import check_answers, check_gradients
from robust.victims.registry import VictimEntry, is_registered, victim_entry

EMBEDDED = Path(__file__).parents[1] / "weights"


def load_victim(
    name: str, *, weights: str | Path | None = None, device: str | torch.device = "auto", gradients: bool = True
) -> Victim:
    """A victim ready to be attacked: weights loaded, in evaluation mode, on its device, its gradients probed.

    Args:
        name: A registered name (`ast`, `timm:resnet18`), or `FILE.py:FACTORY` or `package.module:FACTORY` for one's
            own: a callable without arguments that returns a `Victim`.
        weights: None for the embedded weights (trained on `events`). Otherwise a checkpoint of `robust train`
            (`.safetensors` with its card), or what the model's own loader takes: for `ast` a Hugging Face hub id or
            folder, for `cnn14` an upstream `.pth`.
        device: `auto` takes CUDA where there is one.
        gradients: Whether it must give any. Without, it is run forwards once, and is for what only asks: corruptions,
            black-box attacks; a gradient attack on it would find nothing and make it look robust.

    Raises:
        VictimError: If there is no such model, or it cannot be attacked by gradients and is to be.
        CheckpointError: If the weights cannot be read or belong to another architecture.
    """
    own = ":" in name and not is_registered(name)
    victim = _own(name, weights) if own else _registered(victim_entry(name), weights)
    victim = victim.to(find_device(device)).eval()
    (check_gradients if gradients else check_answers)(victim, victim.spec)
    return victim


def find_device(device: str | torch.device) -> torch.device:
    """The device meant; `auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise VictimError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return found


def embedded_weights(name: str) -> Path:
    """Where the embedded weights of a registered victim lie, if it has any."""
    return EMBEDDED / f"{name}.safetensors"


def _registered(entry: VictimEntry, weights: str | Path | None) -> Victim:
    if weights is None:
        path = embedded_weights(entry.name)
        if not path.is_file() and entry.itself is not None:
            return entry.itself()
        if not path.is_file():
            raise CheckpointError(f"The model {entry.name!r} has no embedded weights; give --weights.")
        return load_checkpoint(path)
    path = Path(weights)
    if path.suffix == ".safetensors" and (path.is_file() or entry.pretrained is None):
        card = read_card(path) if card_path(path).is_file() or entry.pretrained is None else None
        if card is not None and card["model"] != entry.name:
            raise CheckpointError(f"{path} holds a {card['model']!r} (says its card), but --model is {entry.name!r}.")
        if card is not None:
            return load_checkpoint(path)
    if entry.pretrained is None:
        raise CheckpointError(
            f"The model {entry.name!r} reads checkpoints of `robust train` (.safetensors with a card), not {weights}. "
            "Pickled checkpoints can run code when read; convert them with safetensors.torch.save_file."
        )
    victim = entry.pretrained(str(weights))
    if victim.spec.name != entry.name:
        raise CheckpointError(f"{weights} holds a {victim.spec.name!r}, but --model is {entry.name!r}.")
    return victim


def _own(name: str, weights: str | Path | None) -> Victim:
    """A victim made by the user's own factory."""
    place, _, attribute = name.rpartition(":")
    factory = _find_factory(place, attribute, name)
    try:
        victim: Any = factory()
    except Exception as error:
        raise VictimError(f"{name} failed: {type(error).__name__}: {error}.") from error
    if not isinstance(victim, Victim):
        raise VictimError(
            f"{name} returned a {type(victim).__name__}; it must return a robust.Victim, e.g. "
            "robust.Victim.wrap(module, sample_rate=16000, labels=[...])."
        )
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise CheckpointError(f"There is no checkpoint at {path}.")
        load_strictly(victim, read_safetensors(path), path)
    return victim


def _find_factory(place: str, attribute: str, name: str) -> Callable[[], Any]:
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise VictimError(f"There is no Python file at {place}.")
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise VictimError(f"{place} cannot be loaded as a Python file.")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except VictimError:
        raise
    except Exception as error:
        raise VictimError(f"{place} cannot be imported: {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, attribute, None)):
        raise VictimError(f"{place} has no callable {attribute!r} (given as {name!r}).")
    factory: Callable[[], Any] = getattr(module, attribute)
    return factory
