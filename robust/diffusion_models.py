"""Diffusion models by name or path: the embedded ones, and checkpoints of `robust train --diffusion`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from defenses.diffusion import DiffusionModel
from defenses.diffusion_unet import UNetDiffusion, UNetSettings
from robust.atomic import write_atomically
from robust.errors import CheckpointError
from robust.victims.checkpoints import card_path, load_strictly, read_json_card, read_safetensors, storable_state
from robust.victims.loading import embedded_weights

DOMAINS = ("waveform", "mel")
CARD_KEYS = ("model", "config", "labels")


def load_diffusion(source: str | Path) -> DiffusionModel:
    """A diffusion model in evaluation mode, on the CPU.

    Args:
        source: `waveform` or `mel` for the embedded ones (trained on `events`), or the path of a checkpoint of
            `robust train --diffusion`.

    Raises:
        CheckpointError: If weights or card are missing, unreadable, or of something else.
    """
    path = embedded_weights(f"diffusion-{source}") if source in DOMAINS else Path(source)
    card = read_json_card(path, CARD_KEYS, "robust train --diffusion")
    if not str(card["model"]).startswith("diffusion-"):
        raise CheckpointError(
            f"{path} holds a {card['model']!r}, which is no diffusion model; train one with `robust train --diffusion`."
        )
    try:
        config = {**card["config"], "channels": tuple(card["config"]["channels"])}
        model = UNetDiffusion(UNetSettings(**config), tuple(card["labels"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"The card {card_path(path)} does not describe a diffusion model: {error}.") from error
    load_strictly(model, read_safetensors(path), path)
    return model.eval().requires_grad_(False)


def save_diffusion(model: UNetDiffusion, path: Path, card: Mapping[str, Any], *, half: bool = False) -> None:
    """Writes weights and card, each whole or not at all; matrices as float16 with `half`."""
    from safetensors.torch import save

    facts = {
        "model": f"diffusion-{model.domain}",
        "config": asdict(model.settings),
        "labels": list(model.labels),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **card,
    }
    write_atomically(path, save(storable_state(model, half=half)))
    write_atomically(card_path(path), (json.dumps(facts, indent=2) + "\n").encode())


__all__ = ["DOMAINS", "load_diffusion", "save_diffusion"]
