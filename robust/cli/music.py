"""`robust music`: does music keep a wake-word detector from its word?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robust.cli import options


def music(
    model: options.Model = "wakeword",
    weights: options.Weights = None,
    data: options.Data = "events-wake",
    root: options.Root = None,
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    wake: Annotated[str | None, typer.Option(help="Class to be missed; found by its name if absent.")] = None,
    rooms: Annotated[str, typer.Option(help="generic, adapted, qin; none for no rooms.")] = "adapted",
    train_rooms: Annotated[int, typer.Option(min=1, help="Rooms it is fitted in.")] = 200,
    held_out_rooms: Annotated[int, typer.Option(min=1, help="Rooms it is scored in.")] = 100,
    smr: Annotated[
        str, typer.Option(help="Speech-to-music ratios in dB it is scored at, comma between.")
    ] = "-5,0,5,10",
    fit_smr: Annotated[str, typer.Option(help="Lowest and highest ratio in the fit, colon between.")] = "-5:5",
    chords: Annotated[str, typer.Option(help="The tune: chords with a comma between; Am C Dm E F G.")] = "Am,F,C,G",
    eighth: Annotated[float, typer.Option(help="Seconds of an eighth note.")] = 0.25,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the music.")] = 400,
    draws: Annotated[int, typer.Option(min=1, help="Batches of clips and rooms summed for one update.")] = 1,
    clips_per_step: Annotated[int, typer.Option(min=1, help="Clips in a batch.")] = 32,
    masking: Annotated[
        float,
        typer.Option(min=0.0, help="Weight of what is heard of the difference from the plain tune; 0: none."),
    ] = 0.0,
    fit_limit: Annotated[int, typer.Option(min=1, help="Most clips of the word it is fitted to.")] = 400,
    limit: options.Limit = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; nothing is kept if absent.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one step, few clips, two rooms.")] = False,
    as_json: options.Json = False,
) -> None:
    """Optimises a guitar tune in training rooms, scores detection in held-out ones beside plain music and noise."""
    from attacks.jamming import Jamming
    from attacks.score import tune
    from robust.channels.bank import load_bank
    from robust.data import load_data
    from robust.jamming import jam
    from robust.victims import load_victim

    ratios = _numbers(smr, ",", "--smr")
    low, *more = _numbers(fit_smr, ":", "--fit-smr")
    if len(more) > 1:
        raise typer.BadParameter(f"--fit-smr takes one ratio, or the lowest and the highest; given {fit_smr!r}")
    victim = load_victim(model, weights=weights, device=device)
    told = options.data_options(fold, data_option)
    training = load_data(data, split="train", root=root, limit=16 if check else None, **told)
    test = load_data(data, split="test", root=root, limit=16 if check else limit, **told)
    bank = None
    if rooms != "none":
        counts = (1, 1) if check else (train_rooms, held_out_rooms)
        bank = load_bank(rooms, train=counts[0], held_out=counts[1], sample_rate=victim.spec.sample_rate, seed=seed)
    run = jam(
        victim,
        training,
        test,
        bank=bank,
        score=tune(tuple(chords.split(",")), eighth_s=eighth),
        config=Jamming(
            steps=1 if check else steps,
            draws=1 if check else draws,
            clips_per_step=2 if check else clips_per_step,
            smr_db=(low, more[-1] if more else low),
        ),
        smr_db=ratios[:1] if check else ratios,
        wake=wake,
        fit_clips=fit_limit,
        masking=masking,
        seed=seed,
        out=out,
    )
    if as_json:
        print(json.dumps(run.summary, indent=2))
        return
    summary = run.summary
    place = "without rooms" if bank is None else f"in {len(bank.held_out)} {rooms} rooms it was not fitted in"
    print(f"victim   {summary['victim']}, listening for {summary['wake']!r}")
    print(f"music    {summary['score']}, {len(run.loops['plain']) / victim.spec.sample_rate:g} s, {steps} steps")
    print(f"scored   on {summary['clips']} clips of {data} test {place}; F1 of detection [95 %]")
    for row in summary["cells"]:
        level = "" if row["smr_db"] is None else f"{row['smr_db']:+g} dB"
        print(f"{row['masker']:12} {level:7} {row['f1']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    for row in summary["adversarial_over_plain"]:
        if row["ratio"] is not None:
            print(f"{'left of plain':12} {row['smr_db']:+g} dB {row['ratio']:.2f}")
    told = summary["masking"]
    print(f"heard    {100 * told['audible']:.0f} % of what differs from the plain tune is not masked by it")
    if out is not None:
        print(f"kept     in {out}; listen to music-adversarial.wav beside music-plain.wav")


def _numbers(text: str, between: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(between)]
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes numbers with {between!r} between; given {text!r}") from error
