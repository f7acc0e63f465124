"""Options that commands share, each with its help."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attacks.inaudible import Inaudible

Model = Annotated[str, typer.Option(help="A name from `robust victims`, or FILE.py:FACTORY for your own.")]
Weights = Annotated[str | None, typer.Option(help="Checkpoint, folder or hub id; the embedded weights if absent.")]
Data = Annotated[str, typer.Option(help="A name from `robust data`.")]
Root = Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")]
Limit = Annotated[int | None, typer.Option(help="Number of clips, balanced over the classes.")]
Fold = Annotated[int | None, typer.Option(help="Test fold of a data set in folds.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")]
Seed = Annotated[int, typer.Option(help="All randomness is derived from it.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE of the model's configuration, as often as needed.")
]
DataOptions = Annotated[
    list[str] | None, typer.Option("--data-option", help="NAME=VALUE of the data set, as often as needed: esc10=true.")
]
Hiding = Annotated[
    int, typer.Option(min=0, help="Steps of a second stage that hides what broke a clip under what it masks.")
]
Speech = Annotated[bool, typer.Option("--speech", help="PESQ and STOI, too, where installed.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def named_models(models: list[str], weights: list[str] | None) -> dict[str, tuple[str, str | None]]:
    """Name of each line -> model and weights; the same model with two weights is two lines."""
    given = weights or ["embedded"] * len(models)
    if len(given) != len(models):
        raise typer.BadParameter(f"--weights once for each --model; given {len(given)} for {len(models)}")
    found: dict[str, tuple[str, str | None]] = {}
    for model, path in zip(models, given, strict=True):
        own = None if path == "embedded" else path
        name = Path(model.rpartition("/")[2]).name.replace(":", "-")
        name = name if name not in found else f"{name}-{Path(path).stem}"
        if name in found or (model, own) in found.values():
            raise typer.BadParameter(f"--model {model} is given twice with the same weights")
        found[name] = (model, own)
    return found


def file_name(*words: str) -> str:
    """Words joined to one part of a path: of `hf:lab/model` or `hear:module:/a/file.pt` no folders are made."""
    return re.sub(r"[^\w.+-]+", "-", "-".join(words))


def new_run(*words: str) -> Path:
    """Where a run goes unless told: runs/TIME-WORDS, numbered where the second has one of that name already."""
    name = file_name(f"{datetime.datetime.now():%Y%m%d-%H%M%S}", *words)
    folder, others = Path("runs") / name, 1
    while folder.exists():
        others += 1
        folder = folder.with_name(f"{name}-{others}")
    return folder


def hiding(steps: int, check: bool) -> Inaudible | None:
    """The second stage of an attack, of so many steps; none with 0."""
    from attacks.inaudible import Inaudible

    return Inaudible(steps=1 if check else steps) if steps else None


def data_options(fold: int | None, given: list[str] | None = None) -> dict[str, Any]:
    """Options of data sets that were given."""
    return {**settings(given, "--data-option", "esc10=true"), **({} if fold is None else {"fold": fold})}


def settings(given: list[str] | None, option: str = "--set", example: str = "pooling=linear") -> dict[str, Any]:
    """`NAME=VALUE` pairs with values read as JSON where they are (numbers, true, null), as text where not."""
    found: dict[str, Any] = {}
    for pair in given or []:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{option} takes NAME=VALUE, e.g. {option} {example}; given {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
