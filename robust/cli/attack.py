"""`robust attack`: how often does this attack break this victim?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import conditions, options, threats
from robust.cli import purify as purified

if TYPE_CHECKING:
    from rich.console import Console

    from attacks.pgd import PGD
    from robust.api import AttackRun
    from robust.types import Dataset
    from robust.victims import Victim


def attack(
    model: options.Model = "ast",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: threats.Eps = None,
    unit: threats.Unit = "amplitude",
    modality: threats.Modality = None,
    scale: Annotated[str | None, typer.Option(help="With joint: units of a modality per unit of the norm.")] = None,
    window: threats.Window = None,
    band: threats.Band = None,
    mels: threats.Mels = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="Attack everywhere, then cut down to --window, --band, --mels.")
    ] = False,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="With --cut: scale what is left up to the radius.")
    ] = False,
    missing: Annotated[str | None, typer.Option(help="No attack: this modality is missing.")] = None,
    fill: Annotated[str, typer.Option(help="With --missing: zeros, mean or silence.")] = "zeros",
    swap: Annotated[str | None, typer.Option(help="No attack: this modality comes from another clip.")] = None,
    occlude: Annotated[str | None, typer.Option(help="No attack: hide parts of --modality; a pattern's name.")] = None,
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = None,
    audio: Annotated[Path | None, typer.Option(help="Attack this one recording instead of a data set.")] = None,
    label: Annotated[str | None, typer.Option(help="Its class; the model's own prediction if absent.")] = None,
    purify: purified.Purify = None,
    attacks: purified.Attacks = None,
    draws: purified.Draws = None,
    queries: purified.Queries = None,
    cascade: purified.Cascade = True,
    steps: Annotated[int | None, typer.Option(help="Gradient steps: 40, with --purify 70.")] = None,
    inaudible: options.Hiding = 0,
    speech: options.Speech = False,
    restarts: Annotated[int, typer.Option(help="Runs; each works on what is left.")] = 1,
    loss: Annotated[str | None, typer.Option(help="margin, ce, dlr; bce, label-margin for many labels.")] = None,
    schedule: Annotated[str, typer.Option(help="auto, apgd, cosine or constant.")] = "auto",
    step_size: Annotated[float | None, typer.Option(help="First step over the radius.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of the step schedule.")] = None,
    target: Annotated[str | None, typer.Option(help="Class the attacker wants to see.")] = None,
    success: Annotated[
        str | None, typer.Option(help="Many labels a clip: all-gone, top-gone; with --target appears or only.")
    ] = None,
    batch_size: Annotated[str, typer.Option(help="auto or a number; changes no result.")] = "auto",
    device: options.Device = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, or bf16 to search in (successes are confirmed in fp32).")
    ] = "fp32",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/TIME-... if absent.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    checks: Annotated[bool, typer.Option(help="Ask whether the number is believable.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: every count set to one.")] = False,
    by: Annotated[str | None, typer.Option(help="Also show scores by this column of the records.")] = None,
    as_json: options.Json = False,
) -> None:
    """How often does this attack break this victim? Clean and robust score, checks, records, pairs to listen to."""
    from robust import api
    from robust.data import load_data, single_file
    from robust.evaluation.summary import check_group
    from robust.threats import posed
    from robust.victims import load_victim

    if by is not None:
        check_group(by)
    asked = purified.Asked(purify, attacks, draws, queries, cascade, check).or_bare()
    asked.refuse(missing, swap, occlude, scale, mels, cut, rescale, inaudible, success, by)
    steps = asked.usual_steps if steps is None else steps
    config = _config(steps, restarts, loss, schedule, step_size, momentum, precision, check)
    if resume and out is None:
        raise typer.BadParameter("--resume needs the --out of the run to go on with")
    by_gradients = not (asked.black_box or missing or swap or occlude)
    victim = load_victim(model, weights=weights, device=device, gradients=by_gradients)
    told = options.data_options(fold, data_option)
    if audio is not None:
        chosen: Dataset = single_file(audio, label, victim.spec.labels)
    elif label is not None:
        raise typer.BadParameter("--label goes with --audio")
    else:
        chosen = load_data(data, split=split, root=root, limit=(2 if swap else 1) if check else limit, **told)
    attacked = modality or victim.spec.modalities[0]
    if missing or swap or occlude:
        victim, chosen = posed(victim, chosen, missing or swap or attacked)
        changed = _changed(victim, chosen, attacked, missing, fill, swap, occlude)
        folder = out or _folder("evaluate", victim, chosen, changed.name)
        conditions.show(victim, chosen, changed, batch_size, seed, folder, resume, as_json)
        return
    allowed = threats.support(window, band, mels, victim.spec.sample_rate)
    if asked.purify is not None:
        purified.show(
            asked,
            victim,
            chosen,
            lambda limit: load_data(data, split="validation", root=root, limit=limit, **told),
            norm=norm,
            eps=threats.by_modality(eps, "--eps"),
            unit=threats.words_by_modality(unit),
            modality=attacked,
            support=allowed,
            speech=speech,
            config=config,
            target=target,
            batch_size=batch_size,
            seed=seed,
            out=out or _folder("purify", victim, chosen, f"{norm}-{asked.word}"),
            resume=resume,
            checks=checks and not check,
            as_json=as_json,
        )
        return
    if (cut and allowed is None) or (rescale and not cut):
        raise typer.BadParameter("--rescale goes with --cut, and --cut with --window, --band or --mels")
    folder = out or _folder("attack", victim, chosen, norm)
    run = api.attack(
        victim,
        chosen,
        norm=norm,
        eps=threats.by_modality(eps, "--eps"),
        unit=threats.words_by_modality(unit),
        modality=attacked,
        scale=_scale(scale),
        support=None if cut else allowed,
        cut=allowed if cut else None,
        rescale=rescale,
        inaudible=options.hiding(inaudible, check),
        speech=speech,
        config=config,
        target=target,
        success=success,
        batch_size=batch_size,
        seed=seed,
        out=folder,
        resume=resume,
        checks=checks,
    )
    groups = _groups(run, by, victim)
    if as_json:
        print(json.dumps({**run.summary, **({"by": groups} if groups else {})}, indent=2))
    else:
        _show(run, groups, by)


def _folder(what: str, victim: Victim, data: Dataset, how: str) -> Path:
    """Where a run goes unless told."""
    return options.new_run(what, victim.spec.name, data.name, how)


def _scale(text: str | None) -> dict[str, float] | None:
    found = threats.by_modality(text, "--scale")
    if isinstance(found, float):
        raise typer.BadParameter("--scale names modalities, e.g. --scale video=16")
    return found


def _changed(
    victim: Victim,
    data: Dataset,
    modality: str,
    missing: str | None,
    fill: str,
    swap: str | None,
    occlude: str | None,
) -> Any:
    """The condition that was asked for instead of an attack."""
    from robust import change
    from robust.evaluation.occlusion import Occlusion

    if sum(part is not None for part in (missing, swap, occlude)) > 1:
        raise typer.BadParameter("--missing, --swap and --occlude are one condition each; give one of them")
    if missing is not None:
        return change.missing(victim, data, missing, fill)
    if swap is not None:
        return change.swap(victim, data, swap)
    assert occlude is not None
    return Occlusion(modality, occlude)


def _config(
    steps: int,
    restarts: int,
    loss: str | None,
    schedule: str,
    step_size: float | None,
    momentum: float | None,
    precision: str,
    check: bool,
) -> PGD:
    import torch

    from attacks.errors import ThreatModelError, unknown
    from robust.api import make_config

    precisions = {"fp32": None, "bf16": torch.bfloat16}
    if precision not in precisions:
        raise ThreatModelError(unknown("precision", precision, precisions))
    return make_config(
        {
            "steps": 1 if check else steps,
            "restarts": 1 if check else restarts,
            "loss": loss,
            "schedule": schedule,
            "rel_step": step_size,
            "momentum": momentum,
            "search_dtype": precisions[precision],
        }
    )


def _groups(run: AttackRun, by: str | None, victim: Victim) -> dict[str, Any]:
    from robust.evaluation.summary import scores_by

    if by is None:
        return {}
    found = scores_by(run.records, by, victim.spec.task)
    return {
        value: {"clips": clean.clips, "clean": str(clean), "robust": str(robust)}
        for value, (clean, robust) in found.items()
    }


def _show(run: AttackRun, groups: dict[str, Any], by: str | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    told = run.summary
    console.print(f"victim   {told['victim']}")
    console.print(f"data     {told['data']['name']} {told['data']['split']}, {told['clips']} clips, {told['task']}")
    for name, threat in told["threat"].items():
        console.print(f"threat   {name} {_threat(threat)}")
    console.print(f"clean    {run.clean.metric} {run.clean}")
    console.print(f"robust   {run.robust.metric} {run.robust}")
    conditions.show_multilabel(console, told.get("multilabel"))
    success, audit = told["success"], told["audit"]
    if success["clips"]:
        console.print(f"success  {100 * success['score']:.1f} % of the {success['clips']} clips attacked")
    console.print(f"audit    {audit['violations']} violations; largest realised / allowed {audit['worst_ratio']:.7f}")
    cost = f"{told['forwards_per_clip']:.1f} forwards and {told['backwards_per_clip']:.1f} backwards per attacked clip"
    console.print(f"cost     {cost}; {told['seconds']:.1f} s")
    _show_checks(console, run)
    for value, scores in groups.items():
        console.print(f"{by}={value}: {scores['clips']} clips, clean {scores['clean']}, robust {scores['robust']}")
    console.print(f"records  {told['run']} ({len(told.get('audio', [])) // 3} triples to listen to in audio/)")
    sys.stdout.flush()


def _threat(threat: dict[str, Any]) -> str:
    """A budget in all the units that people ask for."""
    level = "" if threat["radius_dbfs"] is None else f", {threat['radius_dbfs']:.1f} dBFS"
    noise = "" if threat["snr_db_median"] is None else f", median SNR at least {threat['snr_db_median']:.1f} dB"
    given = "" if threat["unit"] == "amplitude" else f" ({threat['radius']:g} {threat['unit']})"
    return f"{threat['norm']} {threat['radius_amplitude']:g}{given}{level}{noise}"


def _show_checks(console: Console, run: AttackRun) -> None:
    counts = {
        verdict: sum(check.verdict == verdict for check in run.checks)
        for verdict in ("pass", "warn", "fail", "skipped")
    }
    console.print("checks   " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    for check in run.checks:
        if check.verdict in ("warn", "fail"):
            colour = "red" if check.verdict == "fail" else "yellow"
            console.print(f"  [{colour}]{check.verdict.upper()}[/] {check.name}: {check.detail}")
