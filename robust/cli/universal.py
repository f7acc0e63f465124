"""`robust universal`: one perturbation for every clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from robust.cli import options, threats


def universal(
    model: options.Model = "cnn-transformer",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: threats.Eps = None,
    unit: threats.Unit = "amplitude",
    modality: threats.Modality = None,
    window: threats.Window = None,
    band: threats.Band = None,
    mels: threats.Mels = None,
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    fit_split: Annotated[str, typer.Option(help="Split it is fitted to.")] = "train",
    fit_limit: Annotated[int | None, typer.Option(help="Clips it is fitted to; all if absent.")] = None,
    split: Annotated[str, typer.Option(help="Split it is scored on.")] = "test",
    limit: options.Limit = None,
    target: Annotated[str | None, typer.Option(help="Class the attacker wants to see.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the fitting clips.")] = 20,
    clamp_delta: Annotated[
        bool, typer.Option("--clamp-delta", help="Keep every fitting clip in its data range ('delta force').")
    ] = False,
    legacy_step: Annotated[
        float | None,
        typer.Option(help="The author's algorithm with this step instead; it does not keep to the radius."),
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; nothing is kept if absent.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one epoch, few clips.")] = False,
    as_json: options.Json = False,
) -> None:
    """One perturbation for all clips, fitted on training clips, scored on test clips beside random noise."""
    from attacks.legacy import Legacy, LegacyNorm
    from attacks.universal import Universal
    from robust import universals as home
    from robust.data import load_data
    from robust.victims import load_victim

    victim = load_victim(model, weights=weights, device=device)
    told = options.data_options(fold, data_option)
    opened = {
        name: load_data(data, split=name, root=root, limit=8 if check else most, **told)
        for name, most in ((fit_split, fit_limit), (split, limit))
    }
    epochs = 1 if check else epochs
    legacy = None
    if legacy_step is not None:
        word = cast(LegacyNorm, norm)  # checked by Legacy
        legacy = Legacy(num_steps=epochs, step=legacy_step, step_norm=word, eps_norm=word, delta_force=clamp_delta)
    run = home.universal(
        victim,
        opened[fit_split],
        opened[split],
        norm=norm,
        eps=threats.by_modality(eps, "--eps"),
        unit=threats.words_by_modality(unit),
        modality=modality or victim.spec.modalities[0],
        support=threats.support(window, band, mels, victim.spec.sample_rate),
        target=target,
        config=Universal(epochs=epochs, clamp_delta=clamp_delta),
        legacy=legacy,
        seed=seed,
        out=out,
    )
    if as_json:
        print(json.dumps(run.summary, indent=2))
        return
    told = run.summary
    print(f"victim   {told['victim']}")
    print(f"fitted   on {told['fitted_on']['clips']} clips of {data} {fit_split}, scored on {told['clips']} of {split}")
    for name, threat in told["threat"].items():
        print(f"threat   {name} {threat['norm']} {threat['radius']:g}, realised {threat['realised']:.7g}")
    if told["legacy"]:
        print("LEGACY   the author's algorithm: its radius is nominal, the realised norm is what counts")
    print(f"clean    {run.clean.metric} {run.clean}")
    print(f"robust   {run.robust.metric} {run.robust}")
    print(f"random   {run.random.metric} {run.random} (random noise of the same norm)")
    audit = told["audit"]
    print(f"audit    {audit['violations']} violations; largest realised / allowed {audit['worst_ratio']:.7f}")
