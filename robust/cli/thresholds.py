"""`robust thresholds`: is a fused victim weaker than its parts, clip by clip?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from robust.cli import options, threats


def thresholds(
    model: options.Model = "av-mid",
    weights: options.Weights = None,
    audio_model: Annotated[str, typer.Option(help="Victim of the sound alone.")] = "av-audio",
    audio_weights: options.Weights = None,
    video_model: Annotated[str, typer.Option(help="Victim of the sight alone.")] = "av-video",
    video_weights: options.Weights = None,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    largest: Annotated[str, typer.Option(help="Largest radii tried, by modality.")] = "audio=0.01,video=0.16",
    tolerance: Annotated[float, typer.Option(help="Stop when success and failure are this factor apart.")] = 1.1,
    steps: Annotated[int, typer.Option(help="Gradient steps of each run.")] = 20,
    data: options.Data = "events",
    root: options.Root = None,
    split: Annotated[str, typer.Option(help="train, validation or test; sets on disk know all too.")] = "test",
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    limit: options.Limit = 64,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Parquet file for one row per clip.")] = None,
    as_json: options.Json = False,
) -> None:
    """The smallest radius that breaks each part, and the smallest that, in one sense alone, breaks the fused victim."""
    from robust.api import make_config
    from robust.atomic import write_atomically
    from robust.data import load_data
    from robust.evaluation.thresholds import thresholds as search
    from robust.victims import load_victim

    named = ((model, weights), (audio_model, audio_weights), (video_model, video_weights))
    fused, hearing, seeing = (load_victim(name, weights=path, device=device) for name, path in named)
    radii = threats.by_modality(largest, "--largest")
    if not isinstance(radii, dict):
        raise typer.BadParameter("--largest names modalities, e.g. --largest audio=0.01,video=0.16")
    found = search(
        fused,
        hearing,
        seeing,
        load_data(data, split=split, root=root, limit=limit, **options.data_options(fold, data_option)),
        largest=radii,
        norm=norm,
        config=make_config({"steps": steps}),
        tolerance=tolerance,
        seed=seed,
    )
    if out is not None:
        write_atomically(out, found.frame.to_parquet())
    told = found.summary()
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"victims  {told['victims']['fused']} against {hearing.spec.name} and {seeing.spec.name}, {told['norm']}")
    print(f"clips    {told['clips']} of {data} {split}")
    for name in radii:
        for group, said in (("all", "all clips"), ("agree", "parts agree"), ("disagree", "parts disagree")):
            print(f"{name:8} {said:15} {_line(told[name][group])}")


def _line(group: dict[str, Any]) -> str:
    """How often fusion is weaker, and the medians where both are right at first."""
    if not group["clips"]:
        return "no clip that the part has right"
    share, right = group["weaker"], group["both_right"]
    shown = f"fusion weaker on {100 * share['score']:.0f} % of {group['clips']}"
    if not right["clips"]:
        return shown
    medians = " and ".join(f"{_radius(right[side])} {side}" for side in ("alone", "fused"))
    return f"{shown}; medians of the {right['clips']} both have right: {medians}"


def _radius(median: dict[str, Any]) -> str:
    return "beyond the largest" if median["median"] is None else f"{median['median']:.3g}"
