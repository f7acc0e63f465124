"""`robust train`: a checkpoint and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust.cli import options

if TYPE_CHECKING:
    from robust.diffusion_training import TrainedDiffusion


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
    precision: Annotated[str, typer.Option(help="fp32 or bf16, of diffusion models.")] = "fp32",
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
        if mixup or augment:
            raise typer.BadParameter("--mixup and --augment are for victims, not for --diffusion")
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
    done = training.train(
        model,
        data,
        root=root,
        out=out or Path("checkpoints") / f"{model}-{data}.safetensors",
        recipe=recipe,
        config={**options.settings(config), **({} if clip_seconds is None else {"clip_seconds": clip_seconds})},
        init=init,
        batch_size=batch_size,
        device=device,
        half=half,
        clips=clips,
        augment=augment or (),
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
    print(f"written  {done.path} and its card")


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
