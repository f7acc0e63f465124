"""The occlusion battery: exact masks of the author's 400 frames, every length, and what fills the gaps."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import torch

from attacks.errors import ThreatModelError
from robust.evaluation.engine import AlignedData, evaluate
from robust.evaluation.occlusion import PATTERNS, Occlusion, WhiteNoise, battery
from robust.evaluation.store import Store
from robust.types import Batch
from tests.robust.av_toys import SAMPLES, SIGHT, SOUND, clips, linear

# Hidden frames of 400 (10 s, 40 frames a second), by hand from methods.md 3.1.
SECOND = [(40, 80), (120, 160), (200, 240), (280, 320), (360, 400)]
AUTHOR = {
    "alternate-5th": [(80, 160), (240, 320)],
    "first-half": [(0, 200)],
    "middle-half": [(100, 300)],
    "last-half": [(200, 400)],
    "alternate-10th": SECOND,
    "alternate-20th": [(start, start + 20) for start in range(20, 400, 40)],
    "alternate-40th": [(start, start + 10) for start in range(10, 400, 20)],
    "alternate-80th": [(start, start + 5) for start in range(5, 400, 10)],
}
SECONDS_HIDDEN = {"alternate-5th": 4.0}


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apply(condition: Occlusion | WhiteNoise, value: torch.Tensor, valid: torch.Tensor | None = None, seed: int = 0):
    name = condition.modality
    count = len(value)
    mask = torch.ones_like(value, dtype=torch.bool) if valid is None else valid
    batch = Batch(tuple(f"c/{n}" for n in range(count)), {name: value}, torch.zeros(count).long(), {name: mask})
    return condition.apply(linear(SOUND), batch, torch.zeros(count, 3), seed)


@pytest.mark.parametrize("name", AUTHOR)
def test_masks_of_the_authors_clips(name: str) -> None:
    expected = sorted(chain.from_iterable(range(*stretch) for stretch in AUTHOR[name]))
    assert PATTERNS[name].mask(400).nonzero()[:, 0].tolist() == expected
    assert len(expected) / 40 == SECONDS_HIDDEN.get(name, 5.0)


@pytest.mark.parametrize("name", AUTHOR)
def test_hidden_frames_are_the_clips_minimum_and_others_as_they_were(name: str) -> None:
    value = features(3, 400, 64)
    found = apply(Occlusion("logmel", name), value)
    mask = PATTERNS[name].mask(400)
    changed = found.inputs["logmel"]
    for clip in range(3):
        assert (changed[clip, mask] == value[clip].min()).all()
    assert torch.equal(changed[:, ~mask], value[:, ~mask])
    assert found.columns["hidden_share"] == pytest.approx([float(mask.double().mean())] * 3)


@pytest.mark.parametrize("blocks", [10, 20, 40, 80])
def test_concat_keeps_the_same_content_in_one_piece(blocks: int) -> None:
    value = features(2, 400, 64)
    moved = apply(Occlusion("logmel", f"concat-{blocks}th"), value).inputs["logmel"]
    mask = PATTERNS[f"alternate-{blocks}th"].mask(400)
    assert torch.equal(moved[:, :200], value[:, ~mask])
    assert (moved[:, 200:] == value.amin(dim=(1, 2), keepdim=True)).all()
    # The first block stays where it was, the second kept block follows it at once.
    size = 400 // blocks
    assert torch.equal(moved[:, size : 2 * size], value[:, 2 * size : 3 * size])


@pytest.mark.parametrize("length", [80, 81, 400, 998, 1024, 16_000, 44_107])
@pytest.mark.parametrize("name", PATTERNS)
def test_any_length_is_hidden_in_the_same_shares(name: str, length: int) -> None:
    pattern = PATTERNS[name]
    mask = pattern.mask(length)
    share = 0.4 if name == "alternate-5th" else 0.5
    assert float(mask.double().mean()) == pytest.approx(share, abs=pattern.blocks / length)
    runs = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int)).eq(1).sum()
    assert int(runs) == (1 if name.endswith("half") else pattern.blocks // 2)
    value = features(1, length)
    assert apply(Occlusion("audio", name), value).inputs["audio"].shape == value.shape


def test_waveforms_fall_silent_and_pictures_black() -> None:
    sound = apply(Occlusion("audio", "first-half"), features(2, 100)).inputs["audio"]
    assert (sound[:, :50] == 0).all()
    assert (sound[:, 50:] != 0).all()
    sight = apply(Occlusion("video", "alternate-5th"), 0.5 + 0.0 * features(2, 10, 3, 4, 4)).inputs["video"]
    assert sight[:, :, 0, 0, 0].tolist() == [[0.5, 0.5, 0, 0, 0.5, 0.5, 0, 0, 0.5, 0.5]] * 2


def test_padding_does_not_set_the_fill() -> None:
    value, valid = features(1, 100, 4), torch.ones(1, 100, 1, dtype=torch.bool)
    valid[:, 80:] = False
    value[:, 80:] = -50
    found = apply(Occlusion("logmel", "first-half"), value, valid).inputs["logmel"]
    assert (found[:, :50] == value[:, :80].min()).all()


def test_noise_has_its_level_and_spares_padding() -> None:
    value, valid = features(4, 4000), torch.ones(4, 4000, dtype=torch.bool)
    valid[1, 1000:] = False
    found = apply(WhiteNoise("audio", 0.1), value, valid)
    noise = found.inputs["audio"] - value
    assert noise[0].std().item() == pytest.approx(0.1, rel=0.05)
    assert noise[0].mean().item() == pytest.approx(0.0, abs=0.01)
    assert (noise[1, 1000:] == 0).all()
    expected = 20 * torch.log10(value[0].norm() / noise[0].norm())
    assert found.columns["noise_snr_db"][0] == pytest.approx(float(expected), abs=1e-3)
    assert found.columns["noise_snr_db"][0] == pytest.approx(20.0, abs=0.5)
    assert len({round(float(row.norm()), 4) for row in noise}) == 4  # each clip its own
    louder = apply(WhiteNoise("audio", 0.2), value, valid).inputs["audio"] - value
    torch.testing.assert_close(louder, 2 * noise, rtol=1e-4, atol=1e-6)
    assert (apply(WhiteNoise("audio", 0.1), value, valid, seed=1).inputs["audio"] != found.inputs["audio"]).any()


def test_battery_is_that_of_the_paper() -> None:
    names = [condition.name for condition in battery("logmel")]
    assert len(names) == len(set(names)) == 13
    assert names[0] == "occlusion-logmel-alternate-5th"
    assert names[-1] == "noise-logmel-0.1"
    described = [str(condition.describe()) for condition in battery("logmel")]
    assert len(set(described)) == 13


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("condition", [Occlusion("audio", "concat-10th"), WhiteNoise("audio", 0.3)], ids=str)
def test_records_do_not_depend_on_batch_size(tmp_path: Path, condition, batch_size: int) -> None:
    data, victim = clips(20), linear(SOUND, SIGHT)
    found: list[pd.DataFrame] = []
    for size in (16, batch_size):
        store = Store.open(tmp_path / str(size), condition.describe())
        evaluate(victim, AlignedData(data, victim.spec), condition, store, batch_size=size)
        found.append(store.records())
    pd.testing.assert_frame_equal(*found, check_exact=True)
    assert (found[0]["margin"] != found[0]["clean_margin"]).all()


def test_bad_patterns_are_refused() -> None:
    with pytest.raises(ThreatModelError, match="Did you mean 'first-half'"):
        Occlusion("audio", "frist-half")
    with pytest.raises(ThreatModelError, match="40 steps"):
        apply(Occlusion("audio", "alternate-80th"), features(1, SAMPLES))
    with pytest.raises(ThreatModelError, match="above 0"):
        WhiteNoise("audio", 0.0)
    batch = Batch(("a",), {"audio": features(1, 80)}, torch.zeros(1).long(), {})
    for condition in (Occlusion("logmel", "first-half"), WhiteNoise("logmel")):
        with pytest.raises(ThreatModelError, match="Unknown modality 'logmel'"):
            condition.apply(linear(SOUND), batch, torch.zeros(1, 3), 0)
