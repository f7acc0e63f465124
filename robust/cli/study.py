"""`robust study`: a whole grid in one file, resumable, ending in claims with verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust.cli import options

if TYPE_CHECKING:
    from robust.study.run import Plan, StudyRun


def study(
    file: Annotated[Path, typer.Argument(help="YAML file; experiments/template.yaml explains every key.")],
    out: Annotated[
        str | None, typer.Option(help="Folder or address (s3://...) of the store; runs/NAME if absent. Always resumes.")
    ] = None,
    root: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR: where a data set (or all of a registered name) lies.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local, processes or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Cells computed at once; one for each core if absent.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster: auto or HOST:PORT; local if absent.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Compute failed cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and how long they may take.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: every cell with one step on four clips.")] = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Computes a grid of victims, conditions, data and seeds, and says which claims it supports."""
    from robust.study.executors import find_executor
    from robust.study.run import plan_study, run_study

    chosen = find_executor(executor, workers=workers, address=address)
    plan = plan_study(file, out=out, check=check, roots=_roots(root), device=device)
    if dry_run:
        _show_plan(plan, getattr(chosen, "workers", None) or 1, as_json)
        return
    done = run_study(plan, executor=chosen, retry=retry)
    if as_json:
        told = json.loads((done.folder / "study.json").read_text())
        claims = [verdict.as_json() for verdict in done.verdicts]
        print(json.dumps({**told, "claims": claims, "run": str(done.folder)}, indent=2))
    else:
        _show(done)
    if done.failed:
        raise typer.Exit(1)


def _roots(given: list[str] | None) -> dict[str, str]:
    found = {}
    for pair in given or []:
        name, sign, folder = pair.partition("=")
        if not sign or not name or not folder:
            raise typer.BadParameter(f"--root takes NAME=DIR, e.g. --root fsdd=recordings; given {pair!r}")
        found[name] = folder
    return found


def _show_plan(plan: Plan, workers: int, as_json: bool) -> None:
    from robust.study.estimate import estimate, spoken

    states = [plan.state(cell) for cell in plan.cells]
    seconds = estimate(plan, states)
    if as_json:
        names = ("victim", "condition", "kind", "data", "seed", "key")
        cells = [
            {**{name: getattr(cell, name) for name in names}, "state": state, "seconds": cost}
            for cell, state, cost in zip(plan.cells, states, seconds, strict=True)
        ]
        print(json.dumps({"cells": cells, "trainings": len(plan.trainings), "workers": workers}, indent=2))
        return
    for training in plan.trainings:
        print(f"train    {training['victim']['weights']}")
    for cell, state, cost in zip(plan.cells, states, seconds, strict=True):
        told = state if cost is None else f"{state}, about {spoken(cost)}"
        print(f"cell     {cell.victim:12} {cell.condition:16} {cell.data:10} seed {cell.seed}  {told}")
    total = sum(cost for cost, state in zip(seconds, states, strict=True) if cost and state != "done")
    print(f"cells    {len(plan.cells)}, {states.count('done')} done, {states.count('failed')} failed")
    print(f"time     about {spoken(total / workers)} with {workers} worker{'s' if workers > 1 else ''}, training apart")


def _show(done: StudyRun) -> None:
    from robust.study.tables import doubtful, warned

    counts = {state: sum(cell.state == state for cell in done.cells) for state in ("done", "failed", "waiting")}
    print("cells    " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for cell in done.failed:
        print(f"FAILED   {cell.victim}, {cell.condition}, {cell.data}, seed {cell.seed}: {cell.error}")
    for text, count in warned(done.cells):
        print(f"WARNING  {text}{'' if count == 1 else f' ({count} cells)'}")
    for line in doubtful(done.cells):
        print(f"CHECK    {line}")
    for verdict in done.verdicts:
        print(f"claim    {verdict.text}{'' if verdict.data in verdict.name else f' ({verdict.data})'}")
        if verdict.words:
            print(f"         {verdict.words}")
        print(f"         {verdict.verdict.upper()}: {verdict.told()}")
    print(f"tables   {done.folder / 'table.md'}, {done.folder / 'table.csv'}")
    if done.correlations is not None:
        print(f"related  {done.correlations}, {done.correlations.with_suffix('.csv')}")
    if done.failed:
        print("retry    the same command with --retry computes failed cells again")
