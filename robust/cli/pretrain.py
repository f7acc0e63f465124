"""`robust pretrain`: an encoder that learns from sound without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robust.cli import options


def pretrain(
    data: options.Data = "events",
    root: options.Root = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint; checkpoints/pretrained-DATA if absent.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from a checkpoint of this command, or from a published .pth.")
    ] = None,
    mask_ratio: Annotated[float, typer.Option(help="Share of the patches that is hidden.")] = 0.8,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most optimiser steps.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Most minutes of training.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 32,
    config: options.Settings = None,
    clips: Annotated[int | None, typer.Option(help="Generated training clips (events).")] = None,
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    half: Annotated[bool, typer.Option("--half", help="Store matrices as float16.")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one step, one epoch.")] = False,
    as_json: options.Json = False,
) -> None:
    """Pre-trains audio-mae on patches that are hidden; `robust train --model audio-mae --init OUT` takes it up."""
    from robust import pretraining, training

    recipe = training.with_limits(
        pretraining.pretraining_recipe(),
        epochs=1 if check else epochs,
        max_steps=1 if check else max_steps,
        max_minutes=max_minutes,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
    )
    done = pretraining.pretrain(
        data,
        root=root,
        out=out or Path("checkpoints") / f"pretrained-{data}.safetensors",
        recipe=recipe,
        mask_ratio=mask_ratio,
        config=options.settings(config, example="layers=12"),
        init=init,
        batch_size=batch_size,
        device=device,
        precision=precision,
        half=half,
        clips=clips,
        **options.data_options(fold, data_option),
    )
    if as_json:
        print(json.dumps({"checkpoint": str(done.path), **done.card}, indent=2))
        return
    told = done.card["training"]
    counts = f"{told['epochs']} epochs, {told['steps']} steps, {told['minutes']:.1f} minutes"
    print(f"learnt   from {data}, without labels: {counts}")
    print(f"error    {done.card['masked_error']:.4f} on the {mask_ratio:.0%} of validation patches that were hidden")
    print(f"written  {done.path} and its card; next: robust train --model audio-mae --init {done.path}")
