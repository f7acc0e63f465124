"""A run over the air as tables: who succeeds where, who stands where, what EOT wins back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robust.report.formats import (
    NOTHING,
    Shown,
    count,
    difference_words,
    number,
    p_value,
    percent,
    shown,
    with_interval,
)
from robust.report.reading import Run

PLACES = {"no_channel": "No channel", "train_rooms": "Training rooms", "held_out_rooms": "Held-out rooms"}
VERSIONS = {
    "unperturbed": "Unperturbed",
    "random": "Random noise (control)",
    "plain": "Plain PGD",
    "eot": "PGD with EOT",
}
DOTS = {"unperturbed": "clean", "random": "random", "plain": "changed", "eot": "robust"}
"""Version -> the mark of its dot."""


@dataclass(frozen=True)
class Row:
    """One version of the clips: a score for each place, and in the tenth of the held-out rooms where it is lowest."""

    name: str
    scores: list[Shown]
    worst: str


@dataclass(frozen=True)
class AirView:
    """What the section shows.

    Attributes:
        places: Headings of the columns.
        success: Rows of the attacks and of random noise; pairs of clip and room counted are `clips` of a score.
        standing: Rows of all versions, unperturbed clips first.
        facts: Names and values below.
        missing: What the summary lacks.
    """

    places: list[str]
    success: list[Row]
    standing: list[Row]
    facts: list[tuple[str, str]]
    missing: list[str]


def air_view(run: Run) -> AirView | None:
    """The section of a run over the air; None of another kind."""
    if run.kind != "air":
        return None
    told = run.summary
    versions = {**told["controls"], "plain": told["plain"], "eot": told["eot"]}
    there = [name for name in VERSIONS if name in versions]
    lacking = [VERSIONS[name] for name in VERSIONS if name not in versions]
    lacking += [words for name, words in FACTS.items() if told.get(name) is None]
    return AirView(
        list(PLACES.values()),
        [_row(name, versions[name], "success") for name in there if name != "unperturbed"],
        [_row(name, versions[name], "standing") for name in there],
        [fact for fact in (_gain(told), _recovered(told), *_made(told)) if fact[1]],
        lacking,
    )


FACTS = {"gain": "the difference between the attacks", "recovered": "what EOT wins back"}
"""Entries of a summary that older runs may lack."""


def _row(name: str, told: Mapping[str, Any], what: str) -> Row:
    worst = (told.get("worst_decile") or {}).get("held_out_rooms")
    scores = [_score(name, told.get(place), what) for place in PLACES]
    return Row(VERSIONS[name], scores, NOTHING if what == "standing" else percent(worst))


def _score(name: str, place: Any, what: str) -> Shown:
    """A score of a place; one without numbers where the summary has none."""
    told = place if isinstance(place, Mapping) else {}
    return shown(DOTS[name], {**(told.get(what) or {}), "clips": told.get("pairs")})


def _gain(told: Mapping[str, Any]) -> tuple[str, str]:
    gain = told.get("gain") or {}
    words = difference_words(gain)
    test = f"; {p_value(gain.get('p'))} ({gain['test']})" if words and gain.get("test") else ""
    return "EOT over plain PGD, held-out rooms", words + test


def _recovered(told: Mapping[str, Any]) -> tuple[str, str]:
    share = told.get("recovered")
    if not isinstance(share, Mapping):
        return "", ""
    words = "the air costs nothing here" if share.get("score") is None else with_interval(share)
    return "Won back by EOT of what the air costs", words


def _made(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    steps, plain, draws = (told.get(name) for name in ("steps", "plain_steps", "draws"))
    made = []
    if steps and draws:
        kept = told.get("keep_steps") or 1
        often = "new at every step" if kept == 1 else f"kept for {kept} steps"
        made.append(("EOT attack", f"{count(steps, 'step')}, {count(draws, 'draw')} in each gradient, {often}"))
    if plain:
        made.append(("Plain attack", count(plain, "step")))
    noise = told.get("gradient_noise")
    if noise is not None:
        made.append(
            ("Spread of the gradient", f"{number(noise, 2)} of its length (standard error of the mean of draws)")
        )
    return made
