"""`robust curve`: score against radius, noise or reverberation, several victims on one picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options, threats

if TYPE_CHECKING:
    from robust.evaluation.curve_summary import Curve

PICTURES = ("pdf", "png", "svg")


def curve(
    model: Annotated[
        list[str] | None, typer.Option(help="A name from `robust victims`, or FILE.py:FACTORY; repeat for several.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Checkpoint of each model, in their order; `embedded` for the own ones.")
    ] = None,
    norm: Annotated[
        list[str] | None, typer.Option(help="linf, l2, l1 or snr; repeat for several. linf if none.")
    ] = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(help="first:last:count or a,b,c; for several norms linf=1e-5:1e-2:20. Usual ones if absent."),
    ] = None,
    unit: Annotated[str, typer.Option(help="Of the radii: amplitude, dbfs, lsb16, pixel255.")] = "amplitude",
    modality: Annotated[
        list[str] | None, typer.Option(help="audio, video, both, joint, logmel; repeat for several. The model's first.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="With both and joint: video=16, units per unit of radius.")] = None,
    against: Annotated[str, typer.Option(help="attack; or noise (by SNR in dB), rt60 (rooms, by seconds).")] = "attack",
    threshold: Annotated[float, typer.Option(help="Score of which the radius is told where it is lost.")] = 0.5,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = None,
    steps: Annotated[int, typer.Option(help="Gradient steps of each run.")] = 40,
    restarts: Annotated[int, typer.Option(help="Runs at each radius.")] = 1,
    batch_size: Annotated[str, typer.Option(help="auto or a number; changes no result.")] = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of runs, pictures and table; runs/TIME-curve if absent.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    checks: Annotated[bool, typer.Option(help="Ask whether the numbers are believable.")] = True,
    plot: Annotated[Path | None, typer.Option(help="One more picture: FILE.pdf, .png or .svg.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: every count set to one.")] = False,
    as_json: options.Json = False,
) -> None:
    """Draws how the score falls with radius, noise or reverberation, and says where it is lost."""
    from robust.curve_levels import ATTACK
    from robust.curves import check as check_curve
    from robust.curves import curve as measure
    from robust.data import load_data
    from robust.victims import load_victim

    if against != ATTACK and (norm or scale or unit != "amplitude"):
        raise typer.BadParameter(f"--norm, --scale and --unit are of attacks, not of --against {against}")
    if plot is not None and plot.suffix.lstrip(".") not in PICTURES:
        raise typer.BadParameter(f"--plot takes a file that ends in {', '.join('.' + end for end in PICTURES)}")
    named = options.named_models(model or ["ast"], weights)
    victims = {name: load_victim(one, weights=path, device=device) for name, (one, path) in named.items()}
    chosen = load_data(
        data, split=split, root=root, limit=1 if check else limit, **options.data_options(fold, data_option)
    )
    norms = (norm or ["linf"]) if against == ATTACK else [against]
    for option, given in (("--norm", norms), ("--modality", modality or [])):
        if len(set(given)) < len(given):
            raise typer.BadParameter(f"{option} is given twice with the same value: {', '.join(given)}")
    levels = _levels(eps, norms)
    factors = threats.by_modality(scale, "--scale")
    folder = out or options.new_run("curve")
    lines = [
        (name, asked, axis)
        for name, victim in victims.items()
        for asked in modality or [victim.spec.modalities[0]]
        for axis in norms
    ]
    asked_of: list[dict[str, Any]] = [
        {
            "norm": axis if against == ATTACK else "linf",
            "eps": levels[axis],
            "unit": unit,
            "modality": asked,
            "scale": _factors(factors, asked),
            "against": against,
        }
        for _, asked, axis in lines
    ]
    for (name, _, _), options_ in zip(lines, asked_of, strict=True):
        check_curve(victims[name], chosen, **options_)  # all before the first is measured
    found: list[tuple[Curve, Path]] = []
    for (name, asked, axis), options_ in zip(lines, asked_of, strict=True):
        place = folder / f"{name.replace('/', '-')}--{axis}-{asked}"
        measured = measure(
            victims[name],
            chosen,
            **options_,
            threshold=threshold,
            batch_size=batch_size,
            seed=seed,
            out=place,
            resume=resume,
            checks=checks and not check,
            steps=1 if check else steps,
            restarts=1 if check else restarts,
        )
        found.append((measured.named(name), place))
    _write(folder, [one for one, _ in found], threshold, plot)
    _print(found, folder, threshold, as_json)


def _levels(given: list[str] | None, norms: list[str]) -> dict[str, list[float] | None]:
    """The levels of each norm."""
    found: dict[str, list[float] | None] = dict.fromkeys(norms)
    for text in given or []:
        name, sign, levels = text.rpartition("=")
        if sign and name not in norms:
            raise typer.BadParameter(f"--eps {text} names {name!r}, which is not among the norms: {', '.join(norms)}")
        if not sign and len(norms) > 1:
            raise typer.BadParameter(f"--eps for several norms names each, e.g. --eps {norms[0]}={text}")
        found[name if sign else norms[0]] = threats.levels(levels, "--eps")
    return found


def _factors(given: float | dict[str, float] | None, modality: str) -> dict[str, float] | None:
    if given is None or modality not in ("both", "joint"):
        return None
    if isinstance(given, float):
        raise typer.BadParameter("--scale names modalities, e.g. --scale video=16")
    return given


def _write(folder: Path, curves: list[Curve], threshold: float, plot: Path | None) -> None:
    """The picture in every format, and the table."""
    from robust.atomic import write_atomically
    from robust.evaluation.curve_summary import curves_csv
    from robust.plots.curve import draw_curves, save_figure

    figure = draw_curves(curves, threshold=threshold)
    for path in [*(folder / f"curve.{end}" for end in PICTURES), *([plot] if plot else [])]:
        save_figure(figure, path)
    write_atomically(folder / "curve.csv", curves_csv(curves))


def _print(found: list[tuple[Curve, Path]], folder: Path, threshold: float, as_json: bool) -> None:
    if as_json:
        told: list[dict[str, Any]] = [json.loads((place / "summary.json").read_text()) for _, place in found]
        print(json.dumps({**(told[0] if len(told) == 1 else {}), "curves": told, "run": str(folder)}, indent=2))
        return
    from robust.evaluation.summary import failed_checks

    for one, place in found:
        axis = one.axis
        print(f"curve    {one.label}, {axis['name']} on {axis['modality']}, {one.clips} clips, {one.metric}")
        print(f"clean    {100 * one.clean:.1f} %")
        unit = {"amplitude": "", "snr_db": " dB", "lsb16": " lsb16"}.get(axis["unit"], f" {axis['unit']}")
        lost, *ends = (one.radius_below(threshold, of) for of in ("scores", "low", "high"))
        shown = [_level(one, level, unit) for level in (lost, *sorted(ends))]
        print(f"lost     below {100 * threshold:g} % at {shown[0]} [{shown[1]}, {shown[2]}]")
        print(f"area     {one.auc:.3f} (mean score over the axis)")
        for line in failed_checks(json.loads((place / "summary.json").read_text())):
            print(f"CHECK    {line}")
    print(f"pictures {folder / 'curve.pdf'}, .png, .svg; table {folder / 'curve.csv'}")
    sys.stdout.flush()


def _level(curve: Curve, value: float, unit: str) -> str:
    """A level in words; a search knows of clips that are lost before anything is done to them."""
    if value == curve.never:
        return "no level tried"
    if value in (0.0, float("inf"), float("-inf")):
        return "once, as the clean score is"
    return f"{value:.3g}{unit}"
