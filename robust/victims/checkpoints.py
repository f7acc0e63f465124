"""Checkpoints: weights as safetensors, and beside them a card (JSON) that says what they are.

Loading never executes code: safetensors hold numbers only, and pickled checkpoints are read with `weights_only=True`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.atomic import write_atomically
from robust.errors import CheckpointError
from robust.victims.base import Victim
from robust.victims.registry import build_victim

CARD_KEYS = ("model", "config", "labels", "task")


def card_path(weights: Path) -> Path:
    """Where the card of `weights` lies: the same name with the ending `.json`."""
    return weights.with_suffix(".json")


def save_checkpoint(victim: Victim, path: Path, card: Mapping[str, Any], *, half: bool = False) -> None:
    """Writes weights and card, each whole or not at all.

    Args:
        victim: A registered victim (built by `build_victim`, so that its configuration is known).
        path: Ends in `.safetensors`.
        card: What else to note: data, seed, command, clean score...
        half: Store matrices as float16 (vectors - norms, biases, statistics - stay float32).

    Raises:
        StoreError: If the folder cannot be written.
    """
    from safetensors.torch import save

    facts = {
        "model": victim.spec.name,
        "config": victim.config,
        "labels": list(victim.spec.labels),
        "task": victim.spec.task,
        "modalities": list(victim.spec.modalities),
        "sample_rate": victim.spec.sample_rate,
        "parameters": sum(parameter.numel() for parameter in victim.parameters()),
        **card,
    }
    write_atomically(path, save(storable_state(victim, half=half)))
    write_atomically(card_path(path), (json.dumps(facts, indent=2) + "\n").encode())


def load_checkpoint(path: Path) -> Victim:
    """The victim in a checkpoint of ours.

    Raises:
        CheckpointError: If weights or card are missing, unreadable, or do not fit each other.
    """
    card = read_card(path)
    config = dict(card["config"])
    victim = build_victim(card["model"], labels=tuple(card["labels"]), task=card["task"], **config)
    load_strictly(victim, read_safetensors(path), path)
    return victim


def read_card(path: Path) -> dict[str, Any]:
    """The card beside the weights of a victim at `path`."""
    return read_json_card(path, CARD_KEYS, "robust train")


def read_json_card(path: Path, keys: Sequence[str], writer: str) -> dict[str, Any]:
    """The card beside the weights at `path`, which `writer` writes with these keys at least.

    Raises:
        CheckpointError: If weights or card are missing, or it is no such card.
    """
    card_file = card_path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    if not card_file.is_file():
        raise CheckpointError(
            f"{path} has no card: expected {card_file.name} beside it, as `{writer}` writes it. For weights of "
            "another project give --weights a file or folder that the model's own loader knows (see `robust victims`)."
        )
    try:
        card = json.loads(card_file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The card {card_file} cannot be read: {error}.") from error
    missing = [key for key in keys if not isinstance(card, dict) or key not in card]
    if missing:
        raise CheckpointError(f"The card {card_file} lacks {', '.join(missing)}.")
    return dict(card)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as float32 where they are floating."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}.") from error
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads `state` into `module`; every key and shape must match.

    Raises:
        CheckpointError: Naming what is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unexpected or reshaped:
        found = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
            if names
        ]
        raise CheckpointError(
            f"The weights in {path} do not fit this architecture: {'; '.join(found)}. Check that --model names the "
            "architecture they were trained with."
        )
    module.load_state_dict(dict(state))


def storable_state(module: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """State to be written, on the CPU; matrices as float16 with `half`."""
    return {name: _storable(value, half=half) for name, value in module.state_dict().items()}


def round_to_half(module: nn.Module) -> None:
    """Rounds matrices to float16 in place, so that a score taken now is that of the stored weights."""
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(_storable(value, half=True))


def _storable(value: Tensor, *, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.ndim >= 2 and value.dtype == torch.float32 else value
