"""Real codecs: in their place, at their bit rate, with the gradient that is stated."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from robust.channels import coding
from robust.channels.codecs import Codec
from tests.robust.channel_contract import check_contract, generators, level_db, voices

KBPS = {"mp3": 32.0, "opus": 24.0, "aac": 32.0}
CODECS = tuple(KBPS)


def heard_by(channel: Codec, clips: Tensor, valid: Tensor | None = None) -> Tensor:
    return channel(clips, channel.draw(clips, generators(len(clips))), valid)


def lateness(clip: Tensor, heard: Tensor) -> int:
    """Samples by which `heard` is late, by the largest cross-correlation."""
    length = 2 * len(clip)
    likeness = torch.fft.irfft(torch.fft.rfft(heard, length) * torch.fft.rfft(clip, length).conj(), length)
    late = int(likeness.argmax())
    return late if late < len(clip) else late - length


@pytest.mark.parametrize("codec", CODECS)
def test_keeps_to_the_contract(codec: str) -> None:
    check_contract(Codec(8000, codec, KBPS[codec]), voices(3, 8000, 0.2))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("sample_rate", [8000, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("loud", [1.0, 2.0])
def test_comes_out_where_and_as_it_went_in(codec: str, sample_rate: int, loud: float) -> None:
    clips = voices(1, sample_rate)
    clips = loud * clips / clips.abs().max() * 0.5
    heard = heard_by(Codec(sample_rate, codec, KBPS[codec] * 2), clips)
    assert heard.shape == clips.shape
    # The modes of Opus, between which it goes by what it hears, differ by up to 0.07 ms.
    assert abs(lateness(clips[0], heard[0])) <= (round(7e-5 * sample_rate) if codec == "opus" else 0)
    assert level_db(heard - clips) < level_db(clips) - 10
    assert level_db(heard) == pytest.approx(level_db(clips), abs=1)


@pytest.mark.parametrize("codec", CODECS)
def test_an_end_that_sounds_is_not_lost(codec: str) -> None:
    clips = torch.zeros(1, 8000)
    clips[0, 7200:] = voices(1, 16_000, 0.05)[0] + 0.2 * torch.sin(torch.arange(800) * 0.2)
    heard = heard_by(Codec(16_000, codec, 48), clips)
    assert level_db(heard[:, 7200:]) == pytest.approx(level_db(clips[:, 7200:]), abs=1.5)
    assert lateness(clips[0], heard[0]) in (-1, 0, 1)


@pytest.mark.parametrize("codec", CODECS)
def test_fewer_bits_more_noise(codec: str) -> None:
    clips, told = voices(2, 16_000), []
    for kbps in (8, 16, 32, 64, 96):
        channel = Codec(16_000, codec, kbps)
        drawn = channel.draw(clips, generators(2))
        heard = channel(clips, drawn)
        told.append(channel.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool)))
    noise = [float(one["snr_db"].mean()) for one in told]
    assert noise[-1] > noise[0] + 6
    rates = [float(one["kbps"].mean()) for one in told]
    assert rates == sorted(rates)
    assert rates[2] == pytest.approx(32, rel=0.25)


def test_constant_bit_rate_of_mp3_is_realised_exactly() -> None:
    channel, clips = Codec(16_000, "mp3", (16, 24, 48)), voices(16, 16_000, 0.2)
    drawn = channel.draw(clips, generators(16))
    assert set(drawn["kbps"].tolist()) == {16, 24, 48}
    told = channel.measure(clips, clips, drawn, torch.ones_like(clips, dtype=torch.bool))["kbps"]
    assert torch.allclose(told, drawn["kbps"].double(), rtol=0.02)


def test_mp3_is_near_that_of_another_program() -> None:
    """libsndfile decodes LAME as well; the same codec at a like rate leaves a like distortion."""
    clip = voices(1, 16_000, 1.0)
    file = io.BytesIO()
    soundfile.write(file, clip[0].numpy(), 16_000, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9)
    kbps = len(file.getvalue()) * 8 / 1000
    file.seek(0)
    other = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
    ours = heard_by(Codec(16_000, "mp3", max(8.0, kbps)), clip)[0]
    late = lateness(clip[0], other[: clip.shape[1]])
    assert lateness(clip[0], ours) == 0
    other = other[late : late + 12_000]
    noise = [level_db(one[1000:11_000] - clip[0, 1000:11_000]) for one in (ours, other)]
    assert noise[0] == pytest.approx(noise[1], abs=8)


@pytest.mark.parametrize("codec", CODECS)
def test_gradient_is_the_identity(codec: str) -> None:
    clips = voices(2, 8000, 0.1).requires_grad_()
    weights = torch.arange(1600.0).view(2, 800)
    (slope,) = torch.autograd.grad((heard_by(Codec(8000, codec, KBPS[codec]), clips) * weights).sum(), clips)
    assert torch.equal(slope, weights)


def test_gradient_of_the_band() -> None:
    channel = Codec(16_000, "mp3", 16, surrogate="band")
    end_hz = coding.bandwidth_hz(channel.coding, 16_000, 16.0)
    assert 2000 < end_hz < 5500, "LAME cuts at some 4 kHz"
    clips = voices(1, 16_000, 0.25).requires_grad_()
    heard = heard_by(channel, clips)
    assert torch.equal(heard.detach(), heard_by(Codec(16_000, "mp3", 16), clips.detach()))
    time = torch.arange(4000) / 16_000
    for frequency, passes in ((end_hz / 2, 1.0), (end_hz * 1.5, 0.0)):
        weights = torch.sin(2 * torch.pi * frequency * time)[None]
        (slope,) = torch.autograd.grad((heard * weights).sum(), clips, retain_graph=True)
        assert torch.allclose(slope[:, 500:-500], passes * weights[:, 500:-500], atol=0.02)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("samples", [1, 160, 801])
def test_short_clips(codec: str, samples: int) -> None:
    clips = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    heard = heard_by(Codec(8000, codec, 16), clips)
    assert heard.shape == clips.shape
    assert bool(torch.isfinite(heard).all())


@pytest.mark.parametrize("codec", CODECS)
def test_silence_stays_inaudible_and_padding_is_not_encoded(codec: str) -> None:
    channel, clips = Codec(16_000, codec, 16), torch.zeros(2, 3200)
    assert float(heard_by(channel, clips).abs().max()) < 1e-3
    valid = torch.zeros_like(clips, dtype=torch.bool)
    drawn = channel.draw(clips, generators(2))
    assert torch.equal(channel(clips + 0.5, drawn, valid), clips + 0.5)
    assert bool(channel.measure(clips, clips, drawn, valid)["kbps"].isnan().all())


def test_equal_clips_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from robust.channels import codecs

    calls, real = [], codecs.round_trip
    monkeypatch.setattr(codecs, "round_trip", lambda *given: calls.append(1) or real(*given))
    clips = voices(2, 8000, 0.1)[torch.tensor([0, 1, 1, 1])]
    channel = Codec(8000, "mp3", 16)
    channel(clips, channel.draw(clips, generators(4)))
    assert len(calls) == 2


def test_delay_is_found_by_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of FFmpeg that drops less of what the codec puts in front is heard in place, too."""
    real = coding._decoded
    late = np.zeros(700, dtype=np.float32)
    monkeypatch.setattr(coding, "_decoded", lambda *given: np.concatenate([late, real(*given)]))
    coding._delay.cache_clear()
    try:
        clips = voices(1, 16_000)
        assert lateness(clips[0], heard_by(Codec(16_000, "mp3", 64), clips)[0]) == 0
    finally:
        coding._delay.cache_clear()


def test_a_build_without_the_codec_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(coding.CODINGS, "opus", replace(coding.CODINGS["opus"], encoder="libnothing"))
    with pytest.raises(ThreatModelError, match=r"PyAV .* has no encoder 'libnothing', which opus needs"):
        Codec(16_000, "opus")
    monkeypatch.setitem(coding.CODINGS, "aac", replace(coding.CODINGS["aac"], decoders=("nothing", "less")))
    with pytest.raises(ThreatModelError, match="no decoder 'nothing'"):
        Codec(16_000, "aac")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "mp4"}, "Did you mean 'mp3'"),
        ({"kbps": 4}, "kbps of mp3 must be a number of kbit/s from 8 to 320"),
        ({"codec": "opus", "kbps": float("nan")}, "kbps of opus"),
        ({"codec": "aac", "kbps": ()}, "kbps of aac"),
        ({"codec": "opus", "kbps": 257}, "from 6 to 256"),
        ({"surrogate": "bands"}, "Did you mean 'band'"),
    ],
)
def test_refused_settings(options: dict[str, object], says: str) -> None:
    with pytest.raises(ThreatModelError, match=says):
        Codec(16_000, **options)


@pytest.mark.parametrize("codec", list(coding.CODINGS))
def test_all_rates_that_are_allowed_work(codec: str) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    for kbps in coding.CODINGS[codec].kbps:
        heard = coding.round_trip(sound, 16_000, coding.CODINGS[codec], kbps)
        assert heard.shape == sound.shape
        assert np.isfinite(heard).all()


def test_a_sound_too_short_for_a_packet_has_no_rate() -> None:
    one = np.full(1, 0.1, dtype=np.float32)  # none of it is left at 48 kHz
    assert np.isnan(coding.realised_kbps(one, 192_000, coding.CODINGS["mp3"], 64))
