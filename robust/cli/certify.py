"""`robust certify`: up to which radius can no perturbation change the answer?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options

if TYPE_CHECKING:
    from robust.certification import CertifyRun
    from robust.victims.base import Victim

PICTURES = ("pdf", "png")


def certify(
    model: options.Model = "ast",
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise; full scale is 1.")] = 0.25,
    denoise: Annotated[
        str | None, typer.Option(help="waveform, or a checkpoint of `robust train --diffusion`, before the model.")
    ] = None,
    n0: Annotated[int, typer.Option(help="Votes that choose the answer.")] = 100,
    n: Annotated[int, typer.Option(help="Votes that test it; with --radius, the most of them.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability with which a clip's certificate may be wrong.")] = 0.001,
    radius: Annotated[
        float | None, typer.Option(help="Decide on this L2 radius alone, with as few votes as that takes.")
    ] = None,
    radii: Annotated[
        str | None, typer.Option(help="Radii of table and attack: first:last:count, or a,b,c; usual ones if absent.")
    ] = None,
    attack: Annotated[bool, typer.Option(help="Attack the smoothed classifier at each radius.")] = True,
    attack_steps: Annotated[int, typer.Option(help="Gradient steps at each radius.")] = 20,
    attack_draws: Annotated[int, typer.Option(help="Noises in each gradient.")] = 8,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16; changes no vote.")] = "auto",
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = None,
    batch_size: Annotated[str, typer.Option(help="Votes at once; auto or a number; changes no result.")] = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/TIME-... if absent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    checks: Annotated[bool, typer.Option(help="Ask whether the numbers are believable.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: counts as small as they can be.")] = False,
    as_json: options.Json = False,
) -> None:
    """Smooths a model with Gaussian noise and certifies L2 radii, with attacks on the smoothed model above them."""
    from robust.certification import certify as measure
    from robust.data import load_data
    from robust.victims import load_victim

    if resume and out is None:
        raise typer.BadParameter("--resume needs the --out of the run to go on with")
    levels = _radii(radii)
    victim = load_victim(model, weights=weights, device=device)
    chosen = load_data(
        data, split=split, root=root, limit=1 if check else limit, **options.data_options(fold, data_option)
    )
    folder = out or options.new_run("certify", victim.spec.name, data)
    run = measure(
        victim,
        chosen,
        sigma=sigma,
        denoiser=denoise,
        n0=1 if check else n0,
        n=_least(victim, n, radius, sigma, alpha) if check else n,
        alpha=alpha,
        radius=radius,
        radii=levels[:2] if check and levels else levels,
        attack=attack,
        steps=1 if check else attack_steps,
        draws=1 if check else attack_draws,
        precision=precision,
        batch_size=batch_size,
        seed=seed,
        out=folder,
        resume=resume,
        checks=checks and not check,
    )
    pictures = [] if radius is not None else _draw(run, folder)
    if as_json:
        print(json.dumps(run.summary, indent=2))
    else:
        _show(run, pictures)


def _radii(text: str | None) -> list[float] | None:
    """`0:1.5:7`, in equal steps, or `0,0.1,0.5`."""
    import numpy as np

    if text is None:
        return None
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return [float(part) for part in text.split(",")]
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) == 3 and count >= 1:
            return [float(level) for level in np.linspace(first, last, count).round(12)]
    except (ValueError, IndexError):
        pass
    raise typer.BadParameter(f"--radii takes first:last:count, e.g. 0:1.5:7, or a,b,c; given {text!r}")


def _least(victim: Victim, n: int, radius: float | None, sigma: float, alpha: float) -> int:
    """Votes of a smoke run: as few as can show anything, or the radius asked for."""
    from defenses.smoothing import votes_needed

    claims = len(victim.spec.labels) if victim.spec.task == "multilabel" else 1
    return min(n, votes_needed(radius or 0.0, sigma, alpha / claims / 2))


def _draw(run: CertifyRun, folder: Path) -> list[Path]:
    from robust.plots.certificates import certificate_line, draw_certificates
    from robust.plots.saving import save_figure

    label = f"{run.summary['victim']}, σ {run.summary['sigma']:g}"
    figure = draw_certificates([certificate_line(label, run.records, run.summary)])
    paths = [folder / f"certificate.{kind}" for kind in PICTURES]
    for path in paths:
        save_figure(figure, path)
    return paths


def _show(run: CertifyRun, pictures: list[Path]) -> None:
    """The table of radii."""
    from rich.console import Console
    from rich.table import Table

    from robust.evaluation.summary import failed_checks

    console = Console(highlight=False, soft_wrap=True)
    told = run.summary
    denoiser = f", denoised by {told['denoiser']['name']}" if told["denoiser"] else ""
    console.print(f"victim   {told['victim']}, noise of sigma {told['sigma']:g}{denoiser}")
    console.print(f"data     {told['data']['name']} {told['data']['split']}, {told['clips']} clips, {told['task']}")
    console.print(f"clean    {told['clean']['metric']} {_interval(told['clean'])} without noise")
    console.print(f"smoothed {_interval(told['smoothed'])} right; {_interval(told['abstained'])} without an answer")
    if told["average_radius"] is not None:
        mean = told["average_radius"]
        console.print(f"radius   {mean['score']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] in the mean over clips")
    console.print(
        f"ceiling  {told['ceiling']:.3f}: no more can be shown with {told['n']} votes at alpha {told['alpha']:g}"
    )
    console.print(_table(told, Table("L2 radius", "SNR", "certified", "at least", "under attack", box=None)))
    tried = told["attacked"]
    if tried is not None:
        console.print(f"attack   PGD, {tried['steps']} steps with {tried['draws']} noises in each gradient")
    console.print(
        f"votes    {told['votes_per_clip']:.0f} a clip in {', '.join(told['certified_in'])}; {told['seconds']:.1f} s"
    )
    for line in failed_checks(told):
        console.print(f"CHECK    {line}")
    console.print(f"records  {told['run']}" + (f"; {pictures[0]}" if pictures else ""))
    sys.stdout.flush()


def _table(told: dict[str, Any], table: Any) -> Any:
    """A row for each radius."""
    attacked = dict(zip(told["attacked"]["radii"], told["attacked"]["scores"], strict=True)) if told["attacked"] else {}
    rows = zip(told["radii"], told["snr_db"], told["certified"], told["high_probability"], strict=True)
    for radius, snr_db, share, least in rows:
        shown = _interval(attacked[radius]) if radius in attacked else ""
        snr = "" if snr_db is None else f"{snr_db:.1f} dB"
        table.add_row(f"{radius:g}", snr, _interval(share), f"≥ {100 * least:.1f} %", shown)
    return table


def _interval(score: dict[str, Any]) -> str:
    return f"{100 * score['score']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
