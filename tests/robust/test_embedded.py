"""The weights that are shipped: what their cards say is so, and `events` is as hard as it is meant to be."""

from __future__ import annotations

from pathlib import Path

import pytest

import robust
from robust.data import load_data
from robust.scoring import score
from robust.victims import list_victims, load_victim
from robust.victims.checkpoints import read_card
from robust.victims.loading import EMBEDDED, embedded_weights
from tests.robust import test_embedded_av

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


@pytest.mark.parametrize("name", [entry.name for entry in list_victims()])
def test_every_victim_has_weights_that_know_its_data(name: str) -> None:
    """Weights are missing? `robust train --model NAME --data events --half --out robust/weights/NAME`."""
    path = embedded_weights(name)
    assert path.is_file()
    card = read_card(path)
    assert card["model"] == name
    assert card["data"]["name"] == ("events-wake" if name == "wakeword" else "events")
    assert card["clean"]["score"] >= 0.75


def test_all_weights_together_are_small() -> None:
    """With those of the diffusion models; a checkout and a wheel carry them."""
    assert sum(path.stat().st_size for path in EMBEDDED.glob("*.safetensors")) < 40_000_000


@pytest.mark.parametrize("name", [name for name in NAMES if name not in test_embedded_av.NAMES])
def test_twenty_steps_lower_its_score(name: str) -> None:
    """Of the audio-visual family in its own file; louder than there, where raw-waveform networks break sooner."""
    victim, data = load_victim(name), read_card(embedded_weights(name))["data"]["name"]
    (modality,) = victim.spec.modalities
    run = robust.attack(
        victim,
        load_data(data, limit=8),
        modality=modality,
        eps=0.01 if modality == "audio" else None,
        steps=20,
        checks=False,
        stop_when_broken=True,
    )
    assert run.robust.score <= run.clean.score - 0.3
    assert run.summary["audit"]["violations"] == 0


def test_events_is_calibrated() -> None:
    """Hearing alone and sight alone each leave something to win (the accuracies of the shipped victims)."""
    assert 0.88 <= read_card(embedded_weights("ast"))["clean"]["score"] <= 0.97
    assert 0.75 <= read_card(embedded_weights("frames"))["clean"]["score"] <= 0.92
