"""`robust compare`: two runs on the same clips."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from robust.cli import options


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Run folder.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Run folder, on the same clips.")],
    as_json: options.Json = False,
) -> None:
    """Two runs clip by clip: difference with interval, McNemar's test, which clips changed, what was set otherwise."""
    from robust.report.comparing import compare_runs

    told = compare_runs(run_a, run_b)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    _show(told)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False)
    for side in ("a", "b"):
        console.print(f"{side.upper():8} {told[side]['run']} ({told[side]['victim']}, {told[side]['kind']})")
    console.print(f"clips    {told['clips']}, {told['task']}; differences are A minus B")
    console.print(f"clean    {_line(told['clean'])}")
    if "robust" in told:
        console.print(f"robust   {_line(told['robust'])}")
    for level in told.get("levels", []):
        console.print(f"at {level['level']:<8.3g}{_line(level)}")
    if "smallest" in told:
        found = told["smallest"]
        console.print(
            f"clips    {found['longer_a']} stand longer in A, {found['longer_b']} in B, {found['equal']} in neither; "
            f"p = {found['p']:.2g} ({found['test']})"
        )
    words = "right" if told["task"] == "multiclass" else "with a true label left"
    for side, group in told.get("changed", {}).items():
        console.print(f"changed  {group['count']} clips {words} in {side[-1].upper()} alone")
        for clip in group["clips"]:
            console.print(f"  {clip['id']}: {clip['label']}; A says {clip['a']}, B says {clip['b']}")
        if group["count"] > len(group["clips"]):
            console.print(f"  and {group['count'] - len(group['clips'])} more")
    console.print("set      " + ("otherwise:" if told["manifest"] else "alike in both"))
    for found in told["manifest"]:
        console.print(f"  {found['heading']}: {found['a']} in A, {found['b']} in B")


def _line(found: dict[str, Any]) -> str:
    """One comparison: both scores, the difference with its interval, the test."""
    scores = " and ".join("undefined" if found[side] is None else f"{100 * found[side]:.1f} %" for side in ("a", "b"))
    if found["difference"] is None:
        return f"{found['metric']} {scores}"
    ends = f"[{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    ways = (
        "" if found["only_a"] is None else f"; {found['only_a']} clips right in A alone, {found['only_b']} in B alone"
    )
    return (
        f"{found['metric']} {scores}, {100 * found['difference']:+.1f} points {ends}, p = {found['p']:.2g} "
        f"({found['test']}){ways}"
    )
