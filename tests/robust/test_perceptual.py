"""Perceptual figures against closed forms and against the libraries themselves."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from robust.errors import DataError
from robust.metrics import perceptual_extra
from robust.metrics.perceptual import COLUMNS, SEGMENT_RANGE_DB, loudness_lufs, perceptual_table
from robust.metrics.perceptual_extra import EXTRAS, available, extras_told

RATE = 16_000


def noise(count: int, samples: int = RATE, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(count, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tone(hz: float, amplitude: float, samples: int = RATE) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz / RATE * torch.arange(samples, dtype=torch.float64))[None]


def test_a_clip_plus_a_fraction_of_itself_has_figures_in_closed_form() -> None:
    clean = noise(3)
    found = perceptual_table(clean, 1.1 * clean, None, RATE)
    louder = 20 * math.log10(1.1)
    assert found["snr_db"] == pytest.approx([20.0] * 3, abs=1e-9)
    assert found["segmental_snr_db"] == pytest.approx([20.0] * 3, abs=1e-9)
    assert found["loudness_difference_lu"] == pytest.approx([louder] * 3, abs=1e-6)
    assert found["perturbation_loudness_lu"] == pytest.approx([-20.0] * 3, abs=1e-6)
    assert found["log_spectral_distance_db"] == pytest.approx([louder] * 3, abs=1e-6)


def test_segmental_snr_is_the_mean_over_frames_within_its_range() -> None:
    size = round(0.032 * RATE)
    clean = torch.ones(1, 4 * size, dtype=torch.float64)
    changed = clean.clone()
    changed[0, :size] += 0.1  # 20 dB
    changed[0, size : 2 * size] += 10.0  # -20 dB, counts as -10
    changed[0, 2 * size : 3 * size] += 0.01  # 40 dB
    expected = (20 - 10 + 40 + SEGMENT_RANGE_DB[1]) / 4  # the last frame is unchanged
    assert perceptual_table(clean, changed, None, RATE)["segmental_snr_db"] == pytest.approx([expected])
    silent = torch.cat([clean, torch.zeros(1, size)], dim=1)  # silent in both: left out
    told = perceptual_table(silent, torch.cat([changed, torch.zeros(1, size)], dim=1), None, RATE)
    assert told["segmental_snr_db"] == pytest.approx([expected])


def test_loudness_is_that_of_the_standard() -> None:
    # ITU-R BS.1770: a sine of 997 Hz at full scale in one channel has -3.01 LUFS.
    for rate in (8000, 16_000, 44_100, 48_000):
        sine = np.sin(2 * np.pi * 997 / rate * np.arange(3 * rate))
        assert loudness_lufs(sine, rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness_lufs(tone(997, 1.0)[0, : RATE // 4].numpy(), RATE) is None  # shorter than a block
    assert loudness_lufs(np.full(RATE, 1e-9), RATE) is None  # below the gate


def test_masking_knows_what_hides() -> None:
    fade = torch.sin(torch.linspace(0, math.pi, RATE, dtype=torch.float64)).square()  # no clicks at the ends
    loud = fade * tone(1000, 0.5)
    hidden = perceptual_table(loud, loud + fade * tone(1020, 0.002), None, RATE)
    heard = perceptual_table(loud, loud + fade * tone(5000, 0.002), None, RATE)
    assert hidden["snr_db"] == pytest.approx(heard["snr_db"], abs=1e-6)
    assert hidden["masking_audible"] == [0.0] == hidden["masking_mean_db"]
    assert heard["masking_audible"][0] > 0
    assert heard["masking_mean_db"][0] > 0


def test_silence_and_no_change_are_none_where_undefined_and_never_nan() -> None:
    silent, clean = torch.zeros(1, RATE), noise(1).float()
    cases = {
        "unchanged": perceptual_table(clean, clean, None, RATE, extras=None),
        "silent": perceptual_table(silent, silent, None, RATE, extras=None),
        "from silence": perceptual_table(silent, silent + clean, None, RATE, extras=None),
        "to silence": perceptual_table(clean, silent, None, RATE, extras=None),
        "short": perceptual_table(clean[:, :50], clean[:, :50] + 0.01, None, RATE, extras=None),
        "all padding": perceptual_table(clean, clean + 0.1, torch.zeros(1, RATE, dtype=torch.bool), RATE, extras=None),
    }
    for told in cases.values():
        assert set(told) >= set(COLUMNS)
        for column in told.values():
            assert all(value is None or math.isfinite(value) for value in column)
    assert cases["unchanged"]["snr_db"] == [None]
    assert cases["unchanged"]["loudness_difference_lu"] == [0.0]
    assert cases["unchanged"]["log_spectral_distance_db"] == [0.0]
    assert cases["silent"]["segmental_snr_db"] == [None]
    assert cases["from silence"]["segmental_snr_db"] == [-10.0]
    assert cases["short"]["loudness_difference_lu"] == [None]
    assert set(map(type, (column[0] for column in cases["all padding"].values()))) == {type(None)}


def test_padding_and_company_do_not_count() -> None:
    clean, changed = noise(3), noise(3) + noise(3, seed=1, level=0.01)
    valid = torch.ones(3, RATE, dtype=torch.bool)
    valid[1, 9000:] = False
    together = perceptual_table(clean, changed, valid, RATE)
    for row, end in ((0, RATE), (1, 9000), (2, RATE)):
        alone = perceptual_table(clean[row : row + 1, :end], changed[row : row + 1, :end], None, RATE)
        for name in COLUMNS:
            assert alone[name] == pytest.approx([together[name][row]], rel=1e-9)


def test_more_noise_is_worse_by_every_figure() -> None:
    clean, added = noise(1), noise(1, seed=1)
    levels = [perceptual_table(clean, clean + level * added, None, RATE, extras=None) for level in (0.01, 0.1, 1.0)]
    better_high = {"snr_db", "segmental_snr_db", *EXTRAS}
    for name in levels[0]:
        if name != "loudness_difference_lu":
            values = [level[name][0] for level in levels]
            assert values == sorted(values, reverse=name in better_high), name


def test_a_second_takes_milliseconds() -> None:
    clean, changed = noise(8).float(), noise(8).float() + 0.001
    perceptual_table(clean, changed, None, RATE)
    started = time.process_time()
    perceptual_table(clean, changed, None, RATE)
    assert (time.process_time() - started) / 8 < 0.05  # 6 ms on an idle core; the machine may be busy


@pytest.mark.skipif("stoi" not in available(), reason="pystoi is not installed")
def test_stoi_is_that_of_its_library() -> None:
    from pystoi import stoi

    clean, changed = noise(2), noise(2) + noise(2, seed=1)
    found = perceptual_table(clean, changed, None, RATE, extras=("stoi",))
    expected = [float(stoi(one.numpy(), other.numpy(), RATE)) for one, other in zip(clean, changed, strict=True)]
    assert found["stoi"] == pytest.approx(expected)
    assert "pesq" not in found


@pytest.mark.skipif("pesq" not in available(), reason="pesq is not installed")
def test_pesq_is_that_of_its_library() -> None:
    from pesq import pesq

    clean = noise(1) * (torch.arange(RATE) % 4000 < 2000)
    changed = clean + noise(1, seed=1, level=0.03)
    found = perceptual_table(clean, changed, None, RATE, extras=("pesq",))
    assert found["pesq"] == pytest.approx([pesq(RATE, clean[0].float().numpy(), changed[0].float().numpy(), "wb")])


def test_extras_that_cannot_be_had_are_absent_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = noise(1)
    assert available(22_050) == ()
    assert set(perceptual_table(clean, clean, None, 22_050, extras=None)) == set(COLUMNS)
    with monkeypatch.context() as installed:
        installed.setattr(perceptual_extra.importlib.util, "find_spec", lambda name: name)
        with pytest.raises(DataError, match="defined at 8000 and 16000 Hz"):
            perceptual_table(clean, clean, None, 22_050, extras=("stoi",))
    with pytest.raises(DataError, match="Did you mean 'stoi'"):
        perceptual_table(clean, clean, None, RATE, extras=("stoy",))
    monkeypatch.setattr(perceptual_extra.importlib.util, "find_spec", lambda name: None)
    assert available() == ()
    assert all(told.startswith("absent: pip install") for told in extras_told().values())
    assert set(perceptual_table(clean, clean, None, RATE, extras=None)) == set(COLUMNS)
    with pytest.raises(DataError, match="pip install pystoi"):
        perceptual_table(clean, clean, None, RATE, extras=("stoi",))


@pytest.mark.parametrize(
    ("clean", "changed", "said"),
    [
        (torch.zeros(5), torch.zeros(5), "waveforms"),
        (torch.zeros(2, 5), torch.zeros(2, 6), "waveforms"),
        (torch.zeros(1, 5), torch.full((1, 5), math.nan), "not finite"),
    ],
)
def test_bad_input(clean: torch.Tensor, changed: torch.Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        perceptual_table(clean, changed, None, RATE)
