"""Blocks of time and of frequency fall silent, in waveforms and in features."""

from __future__ import annotations

import math

import pytest
import torch

from attacks.errors import ThreatModelError
from defenses.specaugment import SpecAugment
from tests.defenses.pupil import seeded


def test_nothing_is_lost_where_nothing_is_blanked() -> None:
    audio = torch.rand(3, 1000, generator=seeded()) * 1.6 - 0.8
    torch.testing.assert_close(SpecAugment(0.0, 0.0)(audio, seeded()), audio, rtol=0, atol=1e-5)


def test_blocks_of_time_are_silent_and_the_rest_is_not() -> None:
    audio = torch.rand(20, 6400, generator=seeded()) * 1.6 - 0.8
    heard = SpecAugment(time_share=0.3, frequency_share=0.0)(audio, seeded(1))
    silent = (heard.abs() < 1e-5).float().mean(dim=1)
    same = ((heard - audio).abs() < 1e-5).float().mean(dim=1)
    assert float(silent.mean()) == pytest.approx(1 - (1 - 0.15) ** 2, abs=0.1)  # two stripes of 0 to 0.3
    assert float((silent + same).min()) > 0.9  # edges of blocks are neither
    assert len(silent.unique()) > 10


def test_bands_are_silent() -> None:
    """Tones all over the spectrum: some vanish for as long as the clip lasts, others stay."""
    time = torch.arange(6400) / 6400
    tones = torch.stack([0.5 * torch.sin(2 * math.pi * 50 * (band + 0.5) * time) for band in range(64)])
    power = torch.stack(
        [
            SpecAugment(0.0, 0.4, stripes=1)(tone[None], seeded(3)).square().mean() / tone.square().mean()
            for tone in tones
        ]
    )
    gone = power < 0.1
    assert 3 < int(gone.sum()) < 30
    assert int(gone.int().diff().abs().sum()) <= 2  # one band
    assert int((power > 0.9).sum()) > 30


def test_features_fall_to_the_lowest_of_their_clip() -> None:
    features = torch.randn(10, 50, 40, generator=seeded())
    found = SpecAugment()(features, seeded())
    changed = found != features
    lowest = features.flatten(1).amin(dim=1)[:, None, None].expand_as(features)
    assert torch.equal(found[changed], lowest[changed])
    assert 0.1 < float(changed.float().mean()) < 0.6
    assert torch.equal(found, SpecAugment()(features, seeded()))
    assert not torch.equal(found, SpecAugment()(features, seeded(1)))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ThreatModelError, match="waveforms"):
        SpecAugment()(torch.zeros(2, 3, 4, 5), seeded())
