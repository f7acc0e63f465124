"""`robust air`: does the attack survive loudspeaker, room and microphone?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options, threats

if TYPE_CHECKING:
    from robust.over_the_air import AirRun


def air(
    model: options.Model = "ast",
    channel: Annotated[
        str, typer.Option(help="room, living-room, car, phone-call, meeting, outdoors; or a YAML file of your own.")
    ] = "room",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: Annotated[float | None, typer.Option(help="Radius in --unit; a usual one for the norm if absent.")] = None,
    unit: Annotated[str, typer.Option(help="amplitude, dbfs, lsb16 or snr_db.")] = "amplitude",
    band: threats.Band = None,
    window: threats.Window = None,
    draws: Annotated[int, typer.Option(help="K: draws of the channel in each gradient.")] = 4,
    keep_steps: Annotated[int, typer.Option(help="Q: steps for which the same draws are kept.")] = 1,
    situations: Annotated[int, typer.Option(help="Rooms of each split in which clips are heard.")] = 20,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 60,
    plain_steps: Annotated[
        int | None, typer.Option(help="Steps of the attack without EOT; as many as with it if absent.")
    ] = None,
    inaudible: options.Hiding = 0,
    speech: options.Speech = False,
    restarts: Annotated[int, typer.Option(help="Runs from other starts.")] = 1,
    loss: Annotated[str | None, typer.Option(help="margin, ce, dlr; bce, label-margin for many labels.")] = None,
    schedule: Annotated[str, typer.Option(help="auto, apgd, cosine or constant.")] = "auto",
    target: Annotated[str | None, typer.Option(help="Class the attacker wants to see.")] = None,
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = None,
    batch_size: Annotated[str, typer.Option(help="auto or a number; changes no result.")] = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/TIME-... if absent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    checks: Annotated[bool, typer.Option(help="Ask whether the number is believable.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: every count set to one.")] = False,
    as_json: options.Json = False,
) -> None:
    """Attacks with and without EOT, scored without a channel, in training rooms and in rooms never seen."""
    from robust.data import load_data
    from robust.over_the_air import air as measure
    from robust.victims import load_victim

    if resume and out is None:
        raise typer.BadParameter("--resume needs the --out of the run to go on with")
    victim = load_victim(model, weights=weights, device=device)
    chosen = load_data(
        data, split=split, root=root, limit=1 if check else limit, **options.data_options(fold, data_option)
    )
    name = Path(channel).stem
    folder = out or options.new_run("air", victim.spec.name, data, name)
    run = measure(
        victim,
        chosen,
        channel=channel,
        norm=norm,
        eps=eps,
        unit=unit,
        modality="audio",
        support=threats.support(window, band, None, victim.spec.sample_rate),
        draws=1 if check else draws,
        keep_steps=keep_steps,
        situations=1 if check else situations,
        plain_steps=1 if check else plain_steps,
        inaudible=options.hiding(inaudible, check),
        speech=speech,
        target=target,
        batch_size=batch_size,
        seed=seed,
        out=folder,
        resume=resume,
        checks=checks and not check,
        steps=1 if check else steps,
        restarts=1 if check else restarts,
        loss=loss,
        schedule=schedule,
    )
    if as_json:
        print(json.dumps(run.summary, indent=2))
    else:
        _show(run)


FIGURES = {
    "snr_db": ("SNR", "dB"),
    "segmental_snr_db": ("segmental SNR", "dB"),
    "perturbation_loudness_lu": ("perturbation against the clip", "LU"),
    "masking_audible": ("not masked", "%"),
}
PLACES = {"no_channel": "no channel", "train_rooms": "training rooms", "held_out_rooms": "held-out rooms"}


def _show(run: AirRun) -> None:
    """The table of who stands where, and what EOT wins back."""
    from rich.console import Console
    from rich.table import Table

    from robust.evaluation.summary import failed_checks

    console = Console(highlight=False, soft_wrap=True)
    told = run.summary
    threat = next(iter(told["threat"].values()))
    console.print(f"victim   {told['victim']}, through {told['channel']}")
    console.print(f"data     {told['data']['name']} {told['data']['split']}, {told['clips']} clips, {told['task']}")
    console.print(f"threat   {threat['norm']} {threat['radius_amplitude']:g}")
    console.print(f"clean    {run.clean.metric} {run.clean}")
    table = Table("success of", *PLACES.values(), "worst tenth", box=None, pad_edge=False)
    for version, words in (("random", "noise"), ("plain", "plain attack"), ("eot", "EOT attack")):
        scores = told[version] if version in told else told["controls"][version]
        worst = scores["worst_decile"]["held_out_rooms"]
        table.add_row(words, *(_interval(scores[place]["success"]) for place in PLACES), _percent(worst))
    console.print(table)
    standing = told["controls"]["unperturbed"]
    shown = ", ".join(f"{words} {_percent(standing[place]['standing']['score'])}" for place, words in PLACES.items())
    console.print(f"stand    unperturbed: {shown}")
    gain = told["gain"]
    console.print(f"EOT      {_points(gain)} over the plain attack in held-out rooms, p = {gain['p']:.2g}")
    console.print(f"         wins back {_interval(told['recovered'])} of what the air costs the plain attack")
    console.print(f"heard    {_heard(told['perceptual']['eot'])} (EOT, medians)")
    console.print(f"cost     {told['backwards_per_clip']:.0f} gradients a clip; {told['seconds']:.1f} s")
    for line in failed_checks(told):
        console.print(f"CHECK    {line}")
    console.print(f"records  {told['run']} ({len(told.get('audio', []))} recordings to listen to in audio/)")
    sys.stdout.flush()


def _interval(score: dict[str, Any]) -> str:
    if score["score"] is None:
        return "nothing to count"
    return f"{100 * score['score']:.0f} % [{100 * score['low']:.0f}, {100 * score['high']:.0f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _points(gain: dict[str, Any]) -> str:
    if gain["difference"] is None:
        return "undefined"
    return f"{100 * gain['difference']:+.1f} points [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def _heard(figures: dict[str, float | None]) -> str:
    """Perceptual figures in words."""
    return ", ".join(
        f"{words} {100 * value if unit == '%' else value:.1f} {unit}"
        for name, (words, unit) in FIGURES.items()
        if (value := figures.get(name)) is not None
    )
