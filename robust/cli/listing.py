"""`robust victims` and `robust data`: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robust.cli import options


def victims(as_json: options.Json = False) -> None:
    """Models that can be attacked by name: what they are, how good, and how they were held against their source."""
    from robust.victims import list_open, list_victims
    from robust.victims.loading import embedded_weights

    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            **_of_card(embedded_weights(entry.name)),
            "parity": entry.parity,
            "loads_upstream": entry.pretrained is not None,
            "summary": entry.summary,
        }
        for entry in list_victims()
    ]
    rows += [
        {
            "name": f"{entry.prefix}:{entry.argument}",
            "family": entry.family,
            **_of_card(None),
            "parity": entry.parity,
            "loads_upstream": True,
            "summary": entry.summary,
        }
        for entry in list_open()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _of_card(weights: Path | None) -> dict[str, Any]:
    """What the card of embedded weights tells."""
    from robust.victims.checkpoints import read_card

    card = read_card(weights) if weights is not None and weights.is_file() else {}
    return {
        "parameters": card.get("parameters"),
        "modalities": card.get("modalities"),
        "sample_rate": card.get("sample_rate"),
        "embedded": card.get("data", {}).get("name"),
        "clean": card.get("clean"),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each victim; what it is in words stands in the JSON."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "family", "parameters", "modalities", "Hz", "clean", "parity"):
        number = heading in ("parameters", "Hz")
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading == "name")
    for row in rows:
        clean = f"{100 * row['clean']['score']:.1f} % ({row['embedded']})" if row["clean"] else "-"
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters']:,}" if row["parameters"] else "-",
            ", ".join(row["modalities"] or ["-"]),
            str(row["sample_rate"] or "-"),
            clean,
            row["parity"] or "none",
        )
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


def data(as_json: options.Json = False) -> None:
    """Data sets that can be named."""
    from robust.data import list_data

    entries = list_data()
    if as_json:
        print(
            json.dumps([{"name": e.name, "summary": e.summary, "needs_root": e.needs_root} for e in entries], indent=2)
        )
        return
    for entry in entries:
        print(f"{entry.name:17} {'--root DIR' if entry.needs_root else 'built in':12} {entry.summary}")
