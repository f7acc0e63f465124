"""A run of camera stickers as a table: how often the class is taken for another, beside random dots; and the sheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.formats import NOTHING, Shown, difference_words, number, p_value, shown
from robust.report.reading import Run
from robust.report.sound import data_address

VIEWS = {"jittered": "Camera moves, blurs, brightens", "still": "Still camera"}


@dataclass(frozen=True)
class Row:
    """What the clips are taken for in one sort of view: the stickers' rate, that of random dots, and their difference.

    `clean` is the accuracy through a bare lens in the same views.
    """

    view: str
    aim: str
    clean: Shown
    rate: Shown
    random: Shown
    difference: str


@dataclass(frozen=True)
class StickerView:
    """What the section shows; `sheet` is the picture of the sheet as an address, empty where it is missing."""

    rows: list[Row]
    sheet: str
    dots: list[tuple[str, str, str]]
    facts: list[tuple[str, str]]


def sticker_view(run: Run) -> StickerView | None:
    """The section of a run of stickers; None of another kind."""
    if run.kind != "stickers":
        return None
    told = run.summary
    path = run.cell.folder / "sheet.png"
    sheet = data_address("image/png", path.read_bytes()) if path.is_file() else ""
    return StickerView(_rows(told), sheet, _dots(told.get("stickers") or {}), _facts(told.get("config") or {}))


def _rows(told: Mapping[str, Any]) -> list[Row]:
    rows = []
    for view, words in VIEWS.items():
        seen = told.get(view) or {}
        for aim in ("targeted", "untargeted"):
            if aim in seen:
                what = f"taken for {told.get('target')}" if aim == "targeted" else "taken for anything else"
                rows.append(_row(words, what, seen, seen[aim]))
    return rows


def _row(view: str, aim: str, seen: Mapping[str, Any], found: Mapping[str, Any]) -> Row:
    paired = found.get("difference") or {}
    words = difference_words(paired) or NOTHING
    test = f"; {p_value(paired['p'])} ({paired.get('test', 'paired test')})" if paired.get("p") is not None else ""
    scores = shown("clean", seen.get("clean") or {}), shown("robust", found["rate"]), shown("random", found["random"])
    return Row(view, aim, *scores, words + test)


def _dots(sheet: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Colour as `rgb(...)`, its name, and where it sits in per cent of the picture: from the left, from the top."""
    names = sheet.get("colour_names") or []
    places = zip(sheet.get("centres") or [], sheet.get("colours") or [], strict=False)
    found = []
    for number_of, (centre, colour) in enumerate(places):
        inks = " ".join(f"{255 * min(1.0, max(0.0, float(value))):.0f}" for value in colour)
        name = str(names[number_of]) if number_of < len(names) else ""
        found.append((f"rgb({inks})", name, f"{100 * centre[1]:.0f}\u00a0%, {100 * centre[0]:.0f}\u00a0%"))
    return found


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    views = config.get("views") or {}
    named = {
        "Radius of a dot": (config.get("radius"), "of the picture's shorter side"),
        "Opacity in its middle": (config.get("alpha_max"), ""),
        "The sheet may be off by": (views.get("jitter_pixels"), "pixels of 224"),
        "Blur at most": (views.get("blur_pixels"), "pixels of 224"),
        "Brighter or darker by": (views.get("brightness"), "of the brightness"),
    }
    return [
        (name, f"{number(float(value), 3)} {unit}".strip())
        for name, (value, unit) in named.items()
        if value is not None
    ]
