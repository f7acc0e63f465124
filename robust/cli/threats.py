"""Threat models as options: radii by modality, windows and bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from attacks.supports import Support

Eps = Annotated[
    str | None, typer.Option(help="Radius in --unit, or audio=0.001,video=0.01; a usual one for the norm if absent.")
]
Unit = Annotated[str, typer.Option(help="amplitude, dbfs, lsb16, snr_db, pixel255; or audio=dbfs,video=pixel255.")]
Modality = Annotated[
    str | None,
    typer.Option(
        help="Which input: audio, video, both (a budget each), joint (one ball), logmel; the model's first if absent."
    ),
]
Window = Annotated[
    str | None, typer.Option(help="Perturb this part of the clip alone, in shares: 0:0.5 is the first half.")
]
Band = Annotated[str | None, typer.Option(help="Perturb these frequencies alone, in Hz: 500:2000.")]
Mels = Annotated[str | None, typer.Option(help="Perturb these mel bands alone, first:last, of --modality logmel.")]


def by_modality(text: str | None, option: str) -> float | dict[str, float] | None:
    """`0.002`, or `audio=0.002,video=0.01`."""
    if text is None:
        return None
    pairs = words_by_modality(text)
    if isinstance(pairs, str):
        return _number(pairs, option)
    return {name: _number(value, option) for name, value in pairs.items()}


def words_by_modality(text: str) -> str | dict[str, str]:
    """`dbfs`, or `audio=dbfs,video=pixel255`."""
    if "=" not in text:
        return text
    return dict(pair.partition("=")[::2] for pair in text.split(","))


def levels(text: str, option: str) -> list[float]:
    """`1e-4:1e-1:20` (evenly in the logarithm upwards, in equal steps downwards) or `0.1,0.2,0.5`."""
    from robust.evaluation.curve_summary import level_range

    parts = text.split(":")
    if len(parts) == 1:
        return [_number(part, option) for part in text.split(",")]
    if len(parts) != 3 or not parts[2].isdigit() or int(parts[2]) < 1:
        raise typer.BadParameter(f"{option} takes first:last:count, e.g. 1e-4:1e-1:20, or a,b,c; given {text!r}")
    return level_range(_number(parts[0], option), _number(parts[1], option), int(parts[2]))


def support(window: str | None, band: str | None, mels: str | None, sample_rate: int) -> Support | None:
    """What --window, --band and --mels allow together; None for everything."""
    from robust.threats import make_support

    return make_support(
        sample_rate,
        window=None if window is None else _ends(window, "--window"),
        band=None if band is None else _ends(band, "--band"),
        mels=None if mels is None else _ends(mels, "--mels"),
    )


def _ends(text: str, option: str) -> tuple[float, float]:
    first, sign, last = text.partition(":")
    if not sign:
        raise typer.BadParameter(f"{option} takes two numbers with a colon between, e.g. 0:0.5; given {text!r}")
    return _number(first, option), _number(last, option)


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{option} takes a number; given {text!r}") from None
