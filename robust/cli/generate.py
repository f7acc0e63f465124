"""`robust generate`: clips out of a diffusion model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robust.cli import options


def generate(
    diffusion: Annotated[
        str, typer.Option(help="mel or waveform (embedded, trained on events), or a checkpoint.")
    ] = "mel",
    label: Annotated[list[str] | None, typer.Option(help="Class to ask for, repeatable; all if absent.")] = None,
    count: Annotated[int, typer.Option(help="Clips of each class.")] = 8,
    guidance: Annotated[
        float, typer.Option(help="How far a class is exaggerated: 1 not at all, 0 asks for no class.")
    ] = 2.0,
    steps: Annotated[int, typer.Option(help="Steps walked from noise to sound, of the model's 200.")] = 50,
    eta: Annotated[float, typer.Option(help="Noise drawn on the way: 0 none (DDIM), 1 as DDPM.")] = 0.0,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder, new or empty; nothing is kept if absent.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: one clip of each class, in one step.")] = False,
    as_json: options.Json = False,
) -> None:
    """Generates clips of classes; OUT/LABEL/000.wav and a manifest, which `--data folder --root OUT` reads."""
    from robust.generation import generate as run

    done = run(
        diffusion,
        label or None,
        count=1 if check else count,
        guidance=guidance,
        steps=1 if check else steps,
        eta=eta,
        seed=seed,
        out=out,
        device=device,
    )
    if as_json:
        print(json.dumps({"folder": None if out is None else str(out), **done.manifest}, indent=2))
        return
    told = done.manifest
    seconds = told["samples"] / told["sample_rate"]
    print(f"model    {told['source']}, {told['model']['domain']}, {seconds:g} s at {told['sample_rate']} Hz")
    print(f"walked   {told['steps']} of {told['model']['schedule']['steps']} steps, guidance {told['guidance']:g}")
    for name, clips in done.clips.items():
        level_db = 10 * clips.square().mean().clamp_min(1e-12).log10()
        print(f"{name:<16} {len(clips)} clips, {float(level_db):.1f} dBFS on average")
    print(f"written  {out}" if out is not None else "written  nothing; give --out DIR to keep them")
