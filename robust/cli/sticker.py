"""`robust sticker`: dots on the lens that make a camera take one class for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from robust.cli import options


def sticker(
    model: options.Model = "av-video",
    source: Annotated[str, typer.Option(help="Class of the clips.")] = "siren",
    target: Annotated[str | None, typer.Option(help="Class the attacker wants; any wrong one if absent.")] = None,
    dots: Annotated[int, typer.Option(min=1, help="How many stickers.")] = 6,
    radius: Annotated[float, typer.Option(help="Of a dot, as a share of the picture's shorter side.")] = 0.1,
    alpha: Annotated[float, typer.Option(help="Opacity in the middle of a dot, above 0 up to 1.")] = 0.6,
    beta: Annotated[float, typer.Option(help="How steeply a dot ends.")] = 2.0,
    grid: Annotated[int, typer.Option(min=1, help="The greedy search tries so many rows and columns.")] = 7,
    sweeps: Annotated[int, typer.Option(min=1, help="Times the greedy search goes over all dots.")] = 1,
    steps: Annotated[int, typer.Option(min=0, help="Of Adam, after the greedy search.")] = 100,
    jitter: Annotated[float, typer.Option(help="Pixels of a picture of 224 by which the sheet may be off.")] = 2.0,
    blur: Annotated[float, typer.Option(help="Largest blur of the camera, in the same pixels.")] = 4.0,
    brightness: Annotated[float, typer.Option(help="Share by which pictures are brighter or darker.")] = 0.2,
    weights: options.Weights = None,
    data: options.Data = "events",
    root: options.Root = None,
    fold: options.Fold = None,
    data_option: options.DataOptions = None,
    fit_split: Annotated[str, typer.Option(help="Split it is fitted to.")] = "train",
    fit_limit: Annotated[int | None, typer.Option(help="Clips of the class it is fitted to; all if absent.")] = None,
    split: Annotated[str, typer.Option(help="Split it is scored on.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Clips of the class it is scored on; all if absent.")] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; nothing is kept if absent.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Smoke run: few clips, places and steps.")] = False,
    as_json: options.Json = False,
) -> None:
    """Translucent dots on the lens, the same for every clip of a class, scored on clips they never saw."""
    from attacks.sticker import Views
    from attacks.sticker_search import StickerSearch
    from robust import stickers as home
    from robust.data import load_data
    from robust.victims import load_victim

    config = StickerSearch(
        dots=dots,
        radius=radius,
        alpha_max=alpha,
        beta=beta,
        grid=2 if check else grid,
        sweeps=1 if check else sweeps,
        steps=2 if check else steps,
        views=Views(jitter, blur, brightness),
    )
    victim = load_victim(model, weights=weights, device=device)
    told = options.data_options(fold, data_option)
    opened = {name: load_data(data, split=name, root=root, **told) for name in {fit_split, split}}
    run = home.sticker(
        victim,
        opened[fit_split],
        opened[split],
        source=source,
        target=target,
        config=config,
        fit_clips=_fewer(fit_limit, check),
        clips=_fewer(limit, check),
        seed=seed,
        out=out,
    )
    if as_json:
        print(json.dumps(run.summary, indent=2))
        return
    _tell(run.summary, out)


def _fewer(limit: int | None, check: bool) -> int | None:
    return min(limit or 8, 8) if check else limit


def _tell(told: dict[str, Any], out: Path | None) -> None:
    from robust.metrics.classification import Score

    print(f"victim   {told['victim']}")
    fitted, clips = told["fitted_on"], f"clips of {told['source']}"
    print(f"fitted   on {fitted['clips']} {clips} in {fitted['split']}")
    print(f"scored   on {told['clips']} {clips} in {told['data']['split']}")
    print(f"dots     {len(told['stickers']['centres'])}: {', '.join(told['stickers']['colour_names'])}")
    for view in ("still", "jittered"):
        print(f"{view:9}clean accuracy {Score(**told[view]['clean'])}")
        for kind in ("targeted", "untargeted"):
            if kind in told[view]:
                aim = f"taken for {told['target']}" if kind == "targeted" else "taken for something else"
                found, control = (Score(**told[view][kind][name]) for name in ("rate", "random"))
                print(f"         {aim}: {found}; random dots {control}")
    if out is not None:
        print(f"pictures {out}/sheet.png, {out}/video")
