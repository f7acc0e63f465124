"""What commands print of conditions that are no attack, and of clips with many labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from robust.evaluation.conditions import Condition
    from robust.types import Dataset
    from robust.victims import Victim


def show(
    victim: Victim,
    data: Dataset,
    condition: Condition,
    batch_size: str,
    seed: int,
    out: Path,
    resume: bool,
    as_json: bool,
) -> None:
    """Evaluates a victim under a condition and prints what came of it."""
    from rich.console import Console

    from robust.change import evaluate

    found = evaluate(victim, data, condition, batch_size=batch_size, seed=seed, out=out, resume=resume)
    if as_json:
        print(json.dumps(found.summary, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    told = found.summary
    console.print(f"victim   {told['victim']}")
    console.print(f"data     {told['data']['name']} {told['data']['split']}, {told['clips']} clips, {told['task']}")
    console.print(f"clean    {found.clean.metric} {found.clean}")
    console.print(f"changed  {found.changed.metric} {found.changed} ({condition.name})")
    difference = told["difference"]
    if difference["difference"] is not None:
        ends = f"[{100 * difference['low']:.1f}, {100 * difference['high']:.1f}]"
        console.print(
            f"change   {100 * difference['difference']:+.1f} points {ends}, p = {difference['p']:.2g} "
            f"({difference['test']})"
        )
    show_multilabel(console, told.get("multilabel"))
    if found.dominance is not None:
        console.print(f"decides  {found.dominance}")
    console.print(f"records  {told['run']}")


def show_multilabel(console: Console, told: dict[str, Any] | None) -> None:
    """MAUC and d' beside the mAP."""
    for when, scores in (told or {}).items():
        if when == "classes":
            continue
        auc, d_prime = scores["mean_auc"]["score"], scores["d_prime"]
        shown = [f"{name} {value:.3f}" for name, value in (("mAUC", auc), ("d'", d_prime)) if value is not None]
        console.print(f"{when:8} {', '.join(shown)}")
