"""`robust victims` and `robust data`: what there is."""

from __future__ import annotations

import json

from robust.cli import options


def victims(as_json: options.Json = False) -> None:
    """Models that can be attacked by name."""
    from robust.victims import list_victims
    from robust.victims.checkpoints import read_card
    from robust.victims.loading import embedded_weights

    rows = []
    for entry in list_victims():
        path = embedded_weights(entry.name)
        card = read_card(path) if path.is_file() else {}
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "parameters": card.get("parameters"),
                "embedded": card.get("data", {}).get("name"),
                "clean": card.get("clean"),
                "loads_upstream": entry.pretrained is not None,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        clean = row["clean"]
        told = f"{row['embedded']} {100 * clean['score']:.1f} %" if clean else "no embedded weights"
        print(f"{row['name']:15} {told:22} {row['summary']}")


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
