"""`robust noise`: scores under named corruptions at five severities, against a reference, on a heat map."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options
from robust.cli.purified_table import print_purified

if TYPE_CHECKING:
    from robust.corruption_run import NoiseRun


def noise(
    model: Annotated[
        list[str] | None, typer.Option(help="A name from `robust victims`, or FILE.py:FACTORY; repeat for several.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Checkpoint of each model, in their order; `embedded` for the own ones.")
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(help="Names, categories, all; repeat, or with commas. audiomentations:NAME,PARAMETER=VALUE too."),
    ] = None,
    severity: Annotated[str, typer.Option(help="first:last or a,b,c, from 1 to 5.")] = "1:5",
    list_: Annotated[bool, typer.Option("--list", help="Print what there is, with parameters, and stop.")] = False,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = None,
    reference: Annotated[
        str | None, typer.Option(help="Model whose errors mCE is relative to; a pinned one for events if absent.")
    ] = None,
    reference_weights: Annotated[
        str | None, typer.Option(help="Its checkpoint; the embedded weights if absent.")
    ] = None,
    purify: Annotated[
        str | None,
        typer.Option(help="Before and after a purifier: waveform:3, mel:5, low-pass:4000, gate...; + chains them."),
    ] = None,
    cache_gib: Annotated[float, typer.Option(help="Bound of corrupted clips kept on disk; 0 keeps none.")] = 4.0,
    batch_size: Annotated[str, typer.Option(help="auto or a number; changes no result.")] = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of runs and pictures; runs/TIME-noise if absent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out, cell by cell.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one clip.")] = False,
    as_json: options.Json = False,
) -> None:
    """Scores models under named noise, rooms, devices, codecs and more, each at five severities."""
    from robust.corruption_run import check as check_noise
    from robust.corruption_run import noise as measure
    from robust.data import load_data
    from robust.victims import load_victim

    if list_:
        _print_list(as_json)
        return
    named = options.named_models(model or ["ast"], weights)
    severities = _severities(severity)
    asked = corruption or ["all"]
    victims = {
        name: load_victim(one, weights=path, device=device, gradients=False) for name, (one, path) in named.items()
    }
    chosen = load_data(
        data, split=split, root=root, limit=1 if check else limit, **options.data_options(fold, data_option)
    )
    for victim in victims.values():
        check_noise(victim, chosen, asked, severities, purify)  # all before the first is measured
    folder = out or options.new_run("noise")
    settings: dict[str, Any] = {"cache_gib": cache_gib, "seed": seed, "resume": resume}
    theirs = None
    if reference is not None:
        standard = load_victim(reference, weights=reference_weights, device=device, gradients=False)
        check_noise(standard, chosen, asked, severities)
        theirs = measure(standard, chosen, asked, severities, out=folder / "reference", **settings)
    found: dict[str, tuple[NoiseRun, Path]] = {}
    for name, victim in victims.items():
        place = folder / name.replace("/", "-")
        own: dict[str, Any] = {"reference": theirs, "purify": purify, "batch_size": batch_size, "out": place}
        run = measure(victim, chosen, asked, severities, **own, **settings)
        found[name] = run, place
        _write(run, place)
    _print(found, folder, as_json)


def _severities(text: str) -> list[int]:
    """`1:5` or `1,3,5`."""
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            return list(range(max(first, 0), min(last, 6) + 1))  # 0 and 6 are refused, as all beyond them
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--severity takes first:last or a,b,c from 1 to 5; given {text!r}") from None


def _write(run: NoiseRun, place: Path) -> None:
    """The heat map and the table of cells beside the run."""
    from robust.atomic import write_atomically
    from robust.plots.saving import save_both

    save_both(run.plot(), place, "corruptions")
    write_atomically(place / "corruptions.csv", run.table.to_csv(index=False).encode())


def _print(found: dict[str, tuple[NoiseRun, Path]], folder: Path, as_json: bool) -> None:
    if as_json:
        told = [run.summary for run, _ in found.values()]
        print(json.dumps({**(told[0] if len(told) == 1 else {"run": str(folder)}), "runs": told}, indent=2))
        return
    for run, place in found.values():
        summary = run.summary
        data = summary["data"]
        print(f"victim   {summary['victim']}")
        print(f"data     {data['name']} {data['split']}, {summary['clips']} clips, {summary['task']}")
        print(f"clean    {run.clean.metric} {run.clean}, ECE {100 * summary['clean']['ece']:.1f} %")
        print(f"error    {_share(summary, 'mean_error')} mean over {len(summary['cells'])} cells")
        for category, figures in summary["categories"].items():
            print(f"         {_share(figures, 'mean_error')} {category}")
        print(f"lost     {_share(summary, 'degradation')} of the clean score")
        print(f"mCE      {_mce(summary)}")
        if summary["silent_clips"]:
            print(f"silent   {summary['silent_clips']} clips, left as they are by noise and out of SNR")
        if "purified" in summary:
            print_purified(summary["purified"])
        print(f"pictures {place / 'corruptions.pdf'}, .png; table {place / 'corruptions.csv'}")
    sys.stdout.flush()


def _share(figures: dict[str, Any], name: str) -> str:
    if figures[name] is None:
        return "undefined"
    low, high = figures[f"{name}_low"], figures[f"{name}_high"]
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * figures[name]:.1f} %{interval}"


def _mce(summary: dict[str, Any]) -> str:
    """MCE with what it is relative to, or why there is none."""
    if summary["mce"] is None:
        return f"none: {summary['no_reference'] or 'the reference makes no errors here'}"
    low, high = summary["mce_low"], summary["mce_high"]
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    relative = "" if summary["relative_mce"] is None else f", relative mCE {summary['relative_mce']:.2f}"
    return f"{summary['mce']:.2f}{interval}{relative}; 1 is as bad as {summary['reference']['model']}"


def _print_list(as_json: bool) -> None:
    from robust.corruptions import CORRUPTIONS

    if as_json:
        rows = [
            {
                "name": one.name,
                "category": one.category,
                "modality": one.modality,
                "parameter": one.parameter,
                "values": list(one.values),
                "measure": one.measure.name,
                "summary": one.summary,
            }
            for one in CORRUPTIONS.values()
        ]
        print(json.dumps(rows, indent=2))
        return
    for one in CORRUPTIONS.values():
        values = " ".join(f"{value:g}" for value in one.values)
        print(f"{one.name:16} {one.category:13} {one.parameter:26} {values:26} {one.summary}")
    print("audiomentations:NAME,PARAMETER=VALUE  any waveform transform of audiomentations, without severity")
