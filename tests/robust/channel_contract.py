"""What every channel must keep to, and clips to try it on."""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor

from attacks.channel import Channel
from robust.channels.condition import heard_through
from robust.seeds import generators_for


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return generators_for(seed, [f"clip {place}" for place in range(count)], "test")


def voices(count: int, sample_rate: int, seconds: float = 0.5, seed: int = 0) -> Tensor:
    """(B, T) float32: harmonics of a falling tone that comes and goes, and a little noise; no two alike."""
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for place in range(count):
        phase = 2 * math.pi * (110 + 17 * place) * (time - 0.1 * time**2)
        voice = sum(torch.sin(number * phase + number) / number for number in range(1, 12))
        envelope = (0.5 - 0.5 * torch.cos(2 * math.pi * (3 + place) * time)) ** 2
        hiss = torch.randn(len(time), generator=generator, dtype=torch.float64)
        clips.append(0.2 * envelope * voice + 0.003 * hiss)
    return torch.stack(clips).float()


def check_contract(channel: Channel, clips: Tensor) -> None:
    """Draws, batches, padding, silence and types, all at once; `clips` (B, T) float32, not silent, B at least 3."""
    check_draw(channel, clips)
    check_batches(channel, clips)
    check_padding(channel, clips)
    check_silence(channel, clips)
    check_types(channel, clips)
    assert json.loads(json.dumps(channel.describe()))["channel"] == channel.name


def check_draw(channel: Channel, clips: Tensor) -> None:
    """The draw follows from the generators alone, clip by clip, and not from what the clips hold."""
    one = channel.draw(clips, generators(len(clips)))
    same = channel.draw(torch.zeros_like(clips), generators(len(clips)))
    alone = channel.draw(clips[1:2], generators(len(clips))[1:2])
    for name, value in one.items():
        assert len(value) == len(clips), name
        assert torch.equal(value, same[name]), name
        assert torch.equal(value[1:2], alone[name]), name


def check_batches(channel: Channel, clips: Tensor) -> None:
    """To the bit, a clip is heard alone as it is among others, in values and in what is measured."""
    drawn = channel.draw(clips, generators(len(clips)))
    before = clips.clone()
    many = torch.cat([clips] * 6)[: 2 * 8 + 1]
    rows = torch.arange(len(many)) % len(clips)
    together = heard_through(channel, many, {name: value[rows] for name, value in drawn.items()}, None)
    assert together.dtype == clips.dtype
    assert together.shape == many.shape
    assert torch.equal(clips, before)
    valid = torch.ones_like(clips, dtype=torch.bool)
    for row in range(len(clips)):
        own = {name: value[row : row + 1] for name, value in drawn.items()}
        alone = heard_through(channel, clips[row : row + 1], own, None)
        assert torch.equal(alone[0], together[row]), f"row {row} depends on its batch"
        measured = channel.measure(clips[row : row + 1], alone, own, valid[row : row + 1])
        all_measured = channel.measure(clips, together[: len(clips)], drawn, valid)
        for name, value in measured.items():
            assert value.dtype == torch.float64
            assert torch.equal(value.nan_to_num(), all_measured[name][row : row + 1].nan_to_num()), name


def check_padding(channel: Channel, clips: Tensor) -> None:
    """Padding stays as it was, and what it holds is heard nowhere."""
    drawn = channel.draw(clips, generators(len(clips)))
    valid = torch.ones_like(clips, dtype=torch.bool)
    valid[0, clips.shape[1] * 2 // 3 :] = False
    valid[1, clips.shape[1] // 2 :] = False
    clean = torch.where(valid, clips, 0.0)
    dirty = torch.where(valid, clips, 0.7)
    heard, heard_dirty = channel(clean, drawn, valid), channel(dirty, drawn, valid)
    assert torch.equal(heard[~valid], clean[~valid])
    assert torch.equal(heard_dirty[~valid], dirty[~valid])
    assert torch.equal(heard[valid], heard_dirty[valid])


def check_silence(channel: Channel, clips: Tensor) -> None:
    """Digital silence gives numbers, in values and gradients, alone and beside a clip that sounds."""
    mixed = torch.stack([clips[0], torch.zeros_like(clips[0])]).requires_grad_()
    drawn = channel.draw(mixed.detach(), generators(2))
    heard = channel(mixed, drawn, None)
    assert bool(torch.isfinite(heard).all())
    (slope,) = torch.autograd.grad(heard.square().sum() + heard.sum(), mixed)
    assert bool(torch.isfinite(slope).all())
    valid = torch.ones_like(mixed, dtype=torch.bool)
    for name, value in channel.measure(mixed.detach(), heard.detach(), drawn, valid).items():
        assert value.shape == (2,), name
        assert not bool(value[0].isnan()), name


def check_types(channel: Channel, clips: Tensor) -> None:
    """The same in float64, to the rounding of float32."""
    drawn = channel.draw(clips, generators(len(clips)))
    exact = channel(clips.double(), drawn, None)
    assert exact.dtype == torch.float64
    error = (exact - channel(clips, drawn, None).double()).square().mean().sqrt()
    assert float(error / exact.square().mean().sqrt()) < 1e-3


def gradient_is_exact(channel: Channel, clips: Tensor) -> bool:
    """Finite differences in float64 agree; `clips` (B, T) float64, few samples."""
    drawn = channel.draw(clips, generators(len(clips)))
    return torch.autograd.gradcheck(lambda one: channel(one, drawn, None), clips.clone().requires_grad_(), atol=1e-6)


def frequency_of(sound: Tensor, sample_rate: int) -> float:
    """Hz of the strongest sine in (T,), by a parabola through the logarithm of a windowed spectrum."""
    window = torch.hann_window(len(sound), periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(sound.double() * window, 8 * len(sound)).abs().log()
    top = int(power[1:-1].argmax()) + 1
    left, middle, right = power[top - 1 : top + 2].tolist()
    return (top + 0.5 * (left - right) / (left - 2 * middle + right)) * sample_rate / (8 * len(sound))


def level_db(sound: Tensor) -> float:
    """dB of the mean square."""
    return float(10 * torch.log10(sound.double().square().mean()))
