"""n* by a validation curve."""

from __future__ import annotations

import pytest

from attacks.errors import ThreatModelError
from robust import purifier_choice
from robust.data import load_data
from robust.purifier_choice import automatic, choose_steps
from robust.victims import load_victim


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("waveform:auto", ("waveform", "")),
        ("mel:auto:ddim", ("mel", ":ddim")),
        ("a/b.safetensors:auto", ("a/b.safetensors", "")),
        ("waveform:3", None),
        ("gate", None),
    ],
)
def test_auto_stands_for_the_steps(text: str, found: tuple[str, str] | None) -> None:
    assert automatic(text) == found


def test_the_best_is_chosen_and_of_two_alike_the_shallower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A median over n* samples stands in for a sampler: the deeper, the more it takes."""
    asked, real = [], purifier_choice.attack_purified

    def medians(victim: object, data: object, *, purifier: str, **settings: object) -> object:
        asked.append(purifier)
        return real(victim, data, purifier=purifier.replace("mel", "median"), **settings)

    monkeypatch.setattr(purifier_choice, "attack_purified", medians)
    victim, data = load_victim("m3"), load_data("events", split="validation", limit=8)
    choice = choose_steps(
        victim, data, source="mel", candidates=(5, 3, 31), attacks=["transfer"], eps=0.002, steps=5, seed=0
    )
    assert asked == ["mel:5", "mel:3", "mel:31"]
    best = max(row["robust"] for row in choice.table)
    assert choice.steps == min(row["steps"] for row in choice.table if row["robust"] == best)
    assert choice.purifier == f"mel:{choice.steps}"
    assert all("non-adaptive" in row["label"] for row in choice.table)


def test_no_candidates() -> None:
    with pytest.raises(ThreatModelError, match="candidate"):
        choose_steps(load_victim("m3"), load_data("events", limit=1), candidates=())
