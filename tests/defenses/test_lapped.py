"""The lapped transform: nothing lost, white noise stays white, tones in few coefficients."""

from __future__ import annotations

import math

import pytest
import torch

from defenses.lapped import LappedTransform


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("size", "length"), [(8, 64), (8, 61), (32, 1000), (2, 5), (16, 3)])
def test_nothing_is_lost(size: int, length: int) -> None:
    transform, clips = LappedTransform(size).double(), noise(3, length)
    coefficients = transform.analyse(clips)
    assert coefficients.shape == (3, size, math.ceil(length / size) + 1)
    torch.testing.assert_close(transform.synthesise(coefficients, length), clips, rtol=0, atol=1e-6)


def test_it_is_orthonormal() -> None:
    """As a matrix its rows are of length one and at right angles, so that white noise stays white."""
    matrix = LappedTransform(8).double().analyse(torch.eye(40, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(noise(4, 40).square().sum(), (noise(4, 40) @ matrix).square().sum())


def test_coefficients_are_those_of_the_textbook() -> None:
    """X[k] = sum of window(n) x(n) cos(pi / N (n + 1/2 + N/2) (k + 1/2)), scaled to be orthonormal."""
    size, clip = 6, noise(1, 24)
    found = LappedTransform(size).double().analyse(clip)
    for frame in (1, 2):
        for k in (0, 3, 5):
            expected = math.fsum(
                math.sqrt(2 / size)
                * math.sin(math.pi * (n + 0.5) / (2 * size))
                * float(clip[0, (frame - 1) * size + n])
                * math.cos(math.pi / size * (n + 0.5 + size / 2) * (k + 0.5))
                for n in range(2 * size)
            )
            assert float(found[0, k, frame]) == pytest.approx(expected, abs=1e-6)


def test_a_tone_stands_in_few_coefficients() -> None:
    size = 32
    tone = torch.sin(math.pi / size * 10.5 * torch.arange(640, dtype=torch.float64))[None]
    power = LappedTransform(size).double().analyse(tone)[0, :, 2:-2].square().sum(dim=1)
    assert int(power.argmax()) == 10
    assert float(power[9:12].sum() / power.sum()) > 0.95
