"""Which victims of a study are relatives: the model each is, and the defense it was trained with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust.study.plan import Cell
from robust.victims.checkpoints import card_path

UNDEFENDED = "none"


def kinship(cells: Sequence[Cell]) -> dict[str, dict[str, str]]:
    """Victim -> its `model` and `defense`; several victims of one model are a family.

    Args:
        cells: All cells of a study.
    """
    named = {cell.victim: cell.task["victim"] for cell in cells}
    return {
        name: {"model": str(victim["model"]).rpartition("/")[2], "defense": _defense(victim)}
        for name, victim in named.items()
    }


def _defense(victim: Mapping[str, Any]) -> str:
    """What the card tells, else what the study asks for; mixup may be a part of the usual recipe."""
    card = _card(victim["weights"])
    asked, recipe = card.get("defense"), card.get("recipe")
    if not card:
        asked, recipe = ((victim["train"] or {}).get(name) for name in ("defense", "mixup"))
        recipe = {"mixup_alpha": recipe}
    if isinstance(asked, Mapping):
        return str(asked.get("name") or UNDEFENDED)
    return "mixup" if isinstance(recipe, Mapping) and recipe.get("mixup_alpha") else UNDEFENDED


def _card(weights: str | None) -> dict[str, Any]:
    """The card beside weights; empty where there is none of ours."""
    if weights is None or not card_path(Path(weights)).is_file():
        return {}
    try:
        card = json.loads(card_path(Path(weights)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


__all__ = ["UNDEFENDED", "kinship"]
