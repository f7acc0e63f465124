"""`robust train`: a checkpoint and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options, threats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robust.diffusion_training import TrainedDiffusion
    from robust.training_defense import TrainingDefense

DEFENSE = "Defense"


def train(
    model: Annotated[str | None, typer.Option(help="A name from `robust victims`.")] = None,
    diffusion: Annotated[str | None, typer.Option(help="No victim, but a diffusion model: waveform or mel.")] = None,
    data: options.Data = "events",
    root: options.Root = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint; checkpoints/MODEL-DATA.safetensors if absent.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from `embedded` weights or a checkpoint; random if absent.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most optimiser steps.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Most minutes of training.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Mixup alpha; 0 for none.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better validation score.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 32,
    clip_seconds: Annotated[float | None, typer.Option(help="Length of a clip; 1 s if absent.")] = None,
    config: options.Settings = None,
    clips: Annotated[int | None, typer.Option(help="Generated training clips (events).")] = None,
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    half: Annotated[bool, typer.Option("--half", help="Store matrices as float16.")] = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    augment: Annotated[
        list[str] | None, typer.Option(help="gaussian:SIGMA; diffusion[:PATH] mixes generated clips in; repeatable.")
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            help="none, mixup, latent-mixup, cutmix, specaugment, balanced, pgd, trades, mart, free, fast, sam, asam, "
            "gaussian, noise, margin; several: pgd+mixup. If absent, the model's usual recipe.",
            rich_help_panel=DEFENSE,
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="What adversaries attack: audio, video, both.", rich_help_panel=DEFENSE)
    ] = None,
    norm: Annotated[str, typer.Option(help="Of their budget: linf, l2.", rich_help_panel=DEFENSE)] = "linf",
    eps: Annotated[
        str | None, typer.Option(help="Its radius in --unit, or audio=0.001,video=0.01.", rich_help_panel=DEFENSE)
    ] = None,
    unit: Annotated[
        str, typer.Option(help="amplitude, dbfs, lsb16, snr_db, pixel255.", rich_help_panel=DEFENSE)
    ] = "amplitude",
    stop_on: Annotated[
        str | None,
        typer.Option(
            help="Validation score that stops: clean, or robust (under PGD), the usual one of adversaries.",
            rich_help_panel=DEFENSE,
        ),
    ] = None,
    defense_option: Annotated[
        list[str] | None,
        typer.Option(
            help="steps=7 (of pgd, trades, mart), beta=6, replays=4 (of free), rho=0.05, sigma=0.05, channel=room, "
            "margin_weight=1; repeatable.",
            rich_help_panel=DEFENSE,
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Of every mixup.", rich_help_panel=DEFENSE)] = None,
    mix_layer: Annotated[
        str | None,
        typer.Option(help="Of latent-mixup: input, unimodal, audio, video, fused.", rich_help_panel=DEFENSE),
    ] = None,
    coupling: Annotated[
        str | None, typer.Option(help="Of latent-mixup: same, independent, audio, video.", rich_help_panel=DEFENSE)
    ] = None,
    pairing: Annotated[
        str | None, typer.Option(help="Of every mixup: random or same-class.", rich_help_panel=DEFENSE)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    logger: Annotated[
        list[str] | None, typer.Option(help="csv, tensorboard, wandb, mlflow, none; repeatable. csv and tensorboard.")
    ] = None,
    trainer_option: Annotated[
        list[str] | None,
        typer.Option(help="For lightning.Trainer: devices=2, strategy=ddp, num_nodes=4, ...; repeatable."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one step, one epoch.")] = False,
    as_json: options.Json = False,
) -> None:
    """Trains a registered model, shows its score on the test split, writes a checkpoint and its card."""
    from robust import diffusion_training, training

    if (model is None) == (diffusion is None):
        raise typer.BadParameter("give --model, a victim to train, or --diffusion waveform or mel")
    limits: dict[str, Any] = {
        "epochs": 1 if check else epochs,
        "max_steps": 1 if check else max_steps,
        "max_minutes": max_minutes,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "mixup_alpha": mixup,
        "patience": patience,
        "seed": seed,
    }
    told_data = options.data_options(fold, data_option)
    if diffusion is not None:
        if mixup or augment or defense or resume or logger or trainer_option:
            raise typer.BadParameter(
                "--mixup, --augment, --defense, --resume, --logger and --trainer-option are for victims"
            )
        _show_diffusion(
            diffusion_training.train_diffusion(
                diffusion,
                data,
                root=root,
                out=out or Path("checkpoints") / f"diffusion-{diffusion}-{data}.safetensors",
                recipe=training.with_limits(diffusion_training.diffusion_recipe(), **limits),
                config=options.settings(config),
                init=init,
                clip_seconds=1.0 if clip_seconds is None else clip_seconds,
                batch_size=batch_size,
                device=device,
                precision=precision,
                half=half,
                clips=clips,
                **told_data,
            ),
            data,
            as_json,
        )
        return
    assert model is not None
    recipe = training.with_limits(training.default_recipe(model), **limits)
    options_of = {
        **options.settings(defense_option, "--defense-option", "beta=6"),
        "alpha": alpha,
        "mix_layer": mix_layer,
        "coupling": coupling,
        "pairing": pairing,
    }
    chosen = _defense(defense, modality, norm, eps, unit, stop_on, options_of)
    if chosen is not None and mixup is not None:
        raise typer.BadParameter("with --defense, mixup is one of its names: --defense mixup --alpha 0.2")
    loggers = [name for name in (logger or ("csv", "tensorboard")) if name != "none"]
    done = training.train(
        model,
        data,
        root=root,
        out=out or Path("checkpoints") / f"{options.file_name(model, data)}.safetensors",
        recipe=recipe,
        config={**options.settings(config), **({} if clip_seconds is None else {"clip_seconds": clip_seconds})},
        init=init,
        batch_size=batch_size,
        device=device,
        half=half,
        clips=clips,
        augment=augment or (),
        defense=chosen,
        precision=precision,
        resume=resume,
        loggers=() if check else loggers,
        trainer_options=options.settings(trainer_option, "--trainer-option", "devices=2"),
        **told_data,
    )
    if as_json:
        print(json.dumps({"checkpoint": str(done.path), **done.card}, indent=2))
        return
    told = done.card["training"]
    print(f"trained  {model} on {data}: {told['epochs']} epochs, {told['steps']} steps, {told['minutes']:.1f} minutes")
    if done.card["init"]:
        print(f"started  from {done.card['init']['from']} weights")
    print(f"test     {done.test.metric} {done.test}")
    if "validation_robust" in done.card:
        kept = done.card["validation_robust"]
        print(f"robust   {100 * kept['score']:.1f} % of {kept['clips']} validation clips, PGD-{kept['steps']}")
    print(f"spent    {told['backwards']:,} gradients of a clip, {told['forwards']:,} passes forward")
    if overfitted := done.card.get("catastrophic_overfitting"):
        print(
            f"warning  catastrophic overfitting in epoch {overfitted['epoch']}: what one step left, PGD broke; "
            "weights are of the best epoch under PGD"
        )
    print(f"written  {done.path} and its card")


def _defense(
    name: str | None,
    modality: str | None,
    norm: str,
    eps: str | None,
    unit: str,
    stop_on: str | None,
    settings: Mapping[str, Any],
) -> TrainingDefense | None:
    """What the options of the panel say together; None where no defense is named."""
    from robust.training_defense import TrainingDefense

    given = {key: value for key, value in settings.items() if value is not None}
    if name is None:
        if given or modality or eps or stop_on:
            raise typer.BadParameter("name the defense that these settings are of, e.g. --defense pgd --eps 0.002")
        return None
    return TrainingDefense(
        name,
        modality=modality,
        norm=norm,
        eps=threats.by_modality(eps, "--eps"),
        unit=threats.words_by_modality(unit),
        stop_on=stop_on,
        options=given,
    )


def _show_diffusion(done: TrainedDiffusion, data: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"checkpoint": str(done.path), **done.card}, indent=2))
        return
    told = done.card["training"]
    counts = f"{told['epochs']} epochs, {told['steps']} steps, {told['minutes']:.1f} minutes"
    print(f"trained  {done.model.domain} diffusion on {data}: {counts}")
    print(f"error    {-done.card['validation']:.4f} of what is asked, on validation clips")
    for sigma, gain_db in done.card["snr_gain_db"].items():
        print(f"gain     {gain_db:.1f} dB of SNR at sigma {sigma}, in one shot, on test clips")
    print(f"written  {done.path} and its card")
