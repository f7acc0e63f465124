"""The weights that are shipped: what their cards say is so, and `events` is as hard as it is meant to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust.data import load_data
from robust.scoring import score
from robust.victims import list_victims, load_victim
from robust.victims.checkpoints import read_card
from robust.victims.loading import embedded_weights

NAMES = [entry.name for entry in list_victims() if embedded_weights(entry.name).is_file()]


@pytest.mark.parametrize("name", NAMES)
def test_card_tells_the_truth(name: str) -> None:
    path = embedded_weights(name)
    card = read_card(path)
    assert path.stat().st_size <= 2_000_000
    assert {"data", "seed", "command", "clean", "git_revision"} <= card.keys()
    assert "/tmp" not in Path(path.with_suffix(".json")).read_text()
    data = card["data"]["name"]
    found = score(load_victim(name), load_data(data, split="test"))
    assert found.clips == {"events": 400, "events-wake": 600}[data]
    assert abs(found.score - card["clean"]["score"]) <= 1.5 / found.clips  # float16 matrices, another processor


def test_events_is_calibrated() -> None:
    """Hearing alone and sight alone each leave something to win (the accuracies of the shipped victims)."""
    assert 0.88 <= read_card(embedded_weights("ast"))["clean"]["score"] <= 0.97
    assert 0.75 <= read_card(embedded_weights("frames"))["clean"]["score"] <= 0.92
