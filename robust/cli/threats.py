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


def support(window: str | None, band: str | None, mels: str | None, sample_rate: int) -> Support | None:
    """What --window, --band and --mels allow together; None for everything."""
    from attacks.supports import Both, FrequencyBand, MelBand, TimeWindow

    parts: list[Support] = []
    if window is not None:
        parts.append(TimeWindow(*_ends(window, "--window")))
    if band is not None:
        parts.append(FrequencyBand(*_ends(band, "--band"), sample_rate))
    if mels is not None:
        first, last = _ends(mels, "--mels")
        parts.append(MelBand(int(first), int(last)))
    return parts[0] if len(parts) == 1 else Both(tuple(parts)) if parts else None


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
