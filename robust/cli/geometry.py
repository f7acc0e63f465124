"""`robust geometry`: sharpness, curvature, density and convexity of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options

if TYPE_CHECKING:
    from robust.model_geometry import Geometry


def geometry(
    model: options.Model = "ast",
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = 200,
    measures: Annotated[
        str | None,
        typer.Option(
            help="all, or some of sharpness, curvature, input, density, convexity with commas between; all but "
            "curvature (the Hessian, which takes minutes) if absent."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a measure: worst_linf=0.002, neighbours=5, include=all; repeatable."),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Clips at once; changes no result.")] = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New folder for tables, summary and figure.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: every count set to one, four clips.")] = False,
    as_json: options.Json = False,
) -> None:
    """What can be read off a model before it is attacked: how sharp, how dense, how convex; each with its interval."""
    from robust.data import load_data
    from robust.evaluation.geometry_settings import LEAST, groups_of, make_settings
    from robust.model_geometry import geometry as measure
    from robust.victims import load_victim

    given = options.settings(setting, "--set", "worst_linf=0.002")
    chosen = make_settings({"groups": groups_of(measures), **given, **(LEAST if check else {})})
    victim = load_victim(model, weights=weights, device=device)
    clips = load_data(
        data, split=split, root=root, limit=4 if check else limit, **options.data_options(fold, data_option)
    )
    found = measure(victim, clips, settings=chosen, batch_size=batch_size, seed=seed, out=out)
    if as_json:
        print(json.dumps({**found.summary(), "run": None if out is None else str(out)}, indent=2))
        return
    _show(found, split)
    if out is not None:
        print(f"written  {out}")


def _show(found: Geometry, split: str) -> None:
    """A line for each measure, in a block for each group."""
    print(f"victim   {found.victim}")
    print(f"clips    {len(found.clips)} of {found.data} {split}; intervals are 95 %")
    for group, rows in found.table.groupby("group", sort=False):
        print()
        for row in rows.to_dict("records"):
            print(f"{group:10} {row['space']:8} {row['measure']:22} {_number(row)}")
    for group, reason in found.left_out.items():
        print(f"{group:10} not measured: {reason}")


def _number(row: dict[str, Any]) -> str:
    interval = "" if row["low"] != row["low"] else f" [{row['low']:.4g}, {row['high']:.4g}]"
    return f"{row['value']:.4g}{interval}  over {row['count']} {row['over']}"
