"""`robust victims` and `robust data`: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust.cli import options

if TYPE_CHECKING:
    from rich.table import Table

GAP = 2
"""Spaces between columns."""
LEAST_PARITY = 36
"""Columns of a terminal below which parity is too ragged to stand beside the rest."""


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
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=200)
    cells = [
        {
            "name": row["name"],
            "family": row["family"],
            "parameters": f"{row['parameters']:,}" if row["parameters"] else "-",
            "modalities": ", ".join(row["modalities"] or ["-"]),
            "Hz": str(row["sample_rate"] or "-"),
            "clean": f"{100 * row['clean']['score']:.1f} % ({row['embedded']})" if row["clean"] else "-",
            "parity": row["parity"] or "none",
        }
        for row in rows
    ]
    for headings in _side_by_side(cells, console.width):
        console.print(_table(cells, headings))


def _side_by_side(cells: list[dict[str, str]], width: int) -> list[list[str]]:
    """Headings of one table, or of several that each begin with the name: a cell cut short reads like another one."""
    wide = {heading: max(len(heading), *(len(row[heading]) for row in cells)) for heading in cells[0]}
    wide["parity"] = min(wide["parity"], LEAST_PARITY)  # it may take a second line
    name, *others = cells[0]
    tables = [[name]]
    for heading in others:
        if sum(wide[one] + GAP for one in (*tables[-1], heading)) > width:
            tables.append([name])
        tables[-1].append(heading)
    return tables


def _table(cells: list[dict[str, str]], headings: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        number = heading in ("parameters", "Hz")
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading == "name", overflow="fold")
    for row in cells:
        table.add_row(*(row[heading] for heading in headings))
    return table


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
