"""Noise as a channel: its SNR, its colours, its folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from attacks.channel import Span
from attacks.errors import ThreatModelError
from robust.channels.backgrounds import KINDS, Noise
from robust.channels.levels import active_regions, frame_samples
from robust.channels.noise import COLOURS, active_region, at_snr, coloured_noise, snr_db_of
from robust.channels.recorded import load_recorded
from robust.data import read_audio
from robust.errors import DataError
from tests.robust.channel_contract import check_contract, frequency_of, generators, gradient_is_exact, voices

RATE = 8000
TONES_HZ = (500.0, 900.0, 1300.0, 1700.0, 2100.0)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings, each of one tone at a level and a rate of its own; one in a folder below, two channels."""
    folder = tmp_path_factory.mktemp("tones")
    (folder / "below").mkdir()
    for place, frequency in enumerate(TONES_HZ):
        rate = (8000, 16_000, 44_100)[place % 3]
        time = np.arange(round((0.3 + 0.2 * place) * rate)) / rate
        tone = 0.5 * 0.3**place * np.sin(2 * np.pi * frequency * time)
        name = f"below/{place}.flac" if place == 4 else f"{place}.wav"
        soundfile.write(folder / name, np.stack([tone, tone], axis=1) if place == 4 else tone, rate)
    (folder / "notes.txt").write_text("no sound")
    return folder


def made(kind: str, snr_db: Span, tones: Path, rate: int = RATE) -> Noise:
    if kind == "band":
        return Noise(rate, kind, snr_db, low_hz=50, high_hz=300)
    if kind in ("folder", "babble"):
        return Noise(rate, kind, snr_db, folder=tones)
    return Noise(rate, kind, snr_db)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_to_the_contract(kind: str, tones: Path) -> None:
    check_contract(made(kind, (0, 20), tones), voices(3, RATE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0, 45.0])
def test_snr_is_what_was_asked_over_the_active_region(kind: str, snr_db: float, tones: Path) -> None:
    channel, clips = made(kind, snr_db, tones), voices(4, RATE)
    clips[0, 1000:] = 0  # most of it is no part of the signal
    valid = torch.ones_like(clips, dtype=torch.bool)
    valid[1, 2500:] = False
    clips = torch.where(valid, clips, 0.0)
    drawn = channel.draw(clips, generators(4))
    heard = channel(clips, drawn, valid)
    measured = channel.measure(clips, heard, drawn, valid)["snr_db"]
    for row in range(4):
        active = active_region(clips[row], valid[row], frame_samples(RATE))  # clip by clip, as conditions do it
        assert snr_db_of(clips[row], heard[row], active) == pytest.approx(snr_db, abs=0.05)
        assert float(measured[row]) == pytest.approx(snr_db, abs=0.05)
    assert float((heard - clips)[0, 3000:].abs().max()) > 0, "noise goes on where the clip is silent at 8000 Hz"


def test_spans_are_drawn_for_each_clip_and_held_to_what_passes() -> None:
    channel, clips = Noise(RATE, "white", (5, 25)), voices(16, RATE)
    drawn = channel.draw(clips, generators(16))
    assert len(set(drawn["snr_db"].tolist())) == 16
    assert 5 <= float(drawn["snr_db"].min()) < 12 < 18 < float(drawn["snr_db"].max()) <= 25
    valid = torch.ones_like(clips, dtype=torch.bool)
    for version in (clips, 0.1 * clips, clips.flip(1)):  # one draw, several versions of a clip
        measured = channel.measure(version, channel(version, drawn, None), drawn, valid)["snr_db"]
        assert torch.allclose(measured, drawn["snr_db"].double(), atol=0.05)


def test_batched_levels_are_those_of_single_clips() -> None:
    clips = voices(3, RATE, 0.513)
    clips[1, :2000] = 0
    valid = torch.ones_like(clips, dtype=torch.bool)
    valid[2, 3001:] = False
    frame = frame_samples(RATE)
    together = active_regions(clips, valid, frame)
    channel = Noise(RATE, "pink", 12.0)
    drawn = channel.draw(clips, generators(3))
    heard = channel(clips, drawn, valid)
    for row in range(3):
        active = active_region(clips[row], valid[row], frame)
        assert torch.equal(together[row], active)
        alone = at_snr(clips[row], drawn["noise"][row], 12.0, active, valid[row])
        assert torch.allclose(heard[row], alone, atol=1e-7)


@pytest.mark.parametrize(("colour", "power"), COLOURS.items())
def test_slopes_of_colours(colour: str, power: float) -> None:
    noise = Noise(16_000, colour, 0.0).draw(torch.zeros(8, 32_000), generators(8))["noise"]
    spectrum = torch.fft.rfft(noise.double()).abs().square().mean(dim=0)
    frequency = torch.fft.rfftfreq(32_000, 1 / 16_000)
    octaves = [(frequency >= low) & (frequency < 2 * low) for low in (125, 250, 500, 1000, 2000, 4000)]
    levels = [float(10 * torch.log10(spectrum[octave].mean())) for octave in octaves]
    slope = float(np.polyfit(range(6), levels, 1)[0])
    assert slope == pytest.approx(20 * math.log10(2) * power, abs=0.2)


def test_batched_colours_are_those_of_single_clips() -> None:
    noise = Noise(RATE, "pink", 3.0).draw(torch.zeros(3, 4001), generators(3))["noise"]
    for row, generator in zip(noise, generators(3), strict=True):
        torch.rand((), generator=generator, dtype=torch.float64)  # the SNR is drawn first
        assert torch.allclose(row, coloured_noise(4001, "pink", RATE, generator), atol=1e-6)


def test_band_has_nothing_outside() -> None:
    noise = Noise(RATE, "band", 0.0, low_hz=1000, high_hz=2000).draw(torch.zeros(2, 8000), generators(2))["noise"]
    spectrum = torch.fft.rfft(noise.double()).abs()
    frequency = torch.fft.rfftfreq(8000, 1 / RATE)
    inside = (frequency >= 1000) & (frequency <= 2000)
    assert float(spectrum[:, ~inside].max()) < 1e-3 * float(spectrum[:, inside].mean())
    high = Noise(RATE, "band", 0.0, low_hz=3000).draw(torch.zeros(1, 8000), generators(1))["noise"]
    assert frequency_of(high[0], RATE) > 3000


def test_folder_noise_is_its_recordings(tones: Path) -> None:
    channel = Noise(RATE, "folder", 0.0, folder=tones)
    assert len(channel.recorded or ()) == len(TONES_HZ)
    drawn = channel.draw(torch.zeros(24, 8000), generators(24))  # longer than the recordings: they are looped
    names = channel.recorded.names if channel.recorded else ()
    for noise, number in zip(drawn["noise"], drawn["recording"].tolist(), strict=True):
        tone = TONES_HZ[int(Path(names[number]).stem)]
        assert frequency_of(noise[:2000], RATE) == pytest.approx(tone, rel=0.01)
        assert float(noise.square().mean()) == pytest.approx(1, rel=0.05)
    assert len(set(drawn["recording"].tolist())) == len(TONES_HZ)


def test_babble_is_several_at_one_level(tones: Path) -> None:
    channel = Noise(RATE, "babble", 0.0, folder=tones, talkers=(2, 3))
    drawn = channel.draw(torch.zeros(8, 8000), generators(8))
    assert set(drawn["talkers"].tolist()) == {2, 3}
    for noise, talkers in zip(drawn["noise"], drawn["talkers"].tolist(), strict=True):
        levels = sorted(tone_power(noise, frequency) for frequency in TONES_HZ)
        assert min(levels[-talkers:]) > 0.3 * max(levels), "different recordings, all alike loud"
        assert max(levels[:-talkers]) < 0.05 * max(levels)
    crowd = Noise(RATE, "babble", 0.0, folder=tones, talkers=13).draw(torch.zeros(1, 8000), generators(1))
    assert crowd["talkers"].tolist() == [13], "more talkers than recordings"


def tone_power(sound: Tensor, frequency: float) -> float:
    """Power within 20 Hz of a frequency."""
    spectrum = torch.fft.rfft(sound.double()).abs().square()
    near = (torch.fft.rfftfreq(len(sound), 1 / RATE) - frequency).abs() < 20
    return float(spectrum[near].sum())


def test_splits_of_a_folder_share_no_file(tones: Path) -> None:
    train, held_out = (load_recorded(tones, RATE, split=split, held_out=0.4) for split in ("train", "held-out"))
    assert len(train) == 3
    assert len(held_out) == 2
    assert not set(train.names) & set(held_out.names)
    assert set(train.names) | set(held_out.names) == set(load_recorded(tones, RATE).names)
    other = load_recorded(tones, RATE, split="held-out", held_out=0.4, seed=3)
    assert set(other.names) != set(held_out.names)
    assert train.fingerprint != held_out.fingerprint


def test_no_recording_is_on_both_sides_under_two_names(tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(4000)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE)
    with pytest.raises(DataError, match="are the same recording"):
        load_recorded(tmp_path, RATE, split="train")
    soundfile.write(tmp_path / "b.wav", sound[::-1], RATE)  # of one size, but another
    assert len(load_recorded(tmp_path, RATE, split="train")) == 1


def test_silence_within_recordings_is_cut_out(tmp_path: Path) -> None:
    click = np.zeros(8000)
    click[4000:4160] = 0.5
    soundfile.write(tmp_path / "click.wav", click, RATE)
    channel, clips = Noise(RATE, "folder", 10.0, folder=tmp_path), voices(3, RATE)
    drawn = channel.draw(clips, generators(3))
    measured = channel.measure(clips, channel(clips, drawn, None), drawn, torch.ones_like(clips, dtype=torch.bool))
    assert torch.allclose(measured["snr_db"], torch.tensor(10.0).double(), atol=0.05)


def test_silent_clips_stay_and_are_told() -> None:
    channel, clips = Noise(RATE, "white", 10.0), voices(2, RATE)
    clips[1] = 1e-6
    drawn = channel.draw(clips, generators(2))
    heard = channel(clips, drawn, None)
    assert torch.equal(heard[1], clips[1])
    measured = channel.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool))["snr_db"]
    assert math.isnan(measured[1])
    assert not math.isnan(measured[0])


@pytest.mark.parametrize("kind", ["white", "pink", "band"])
def test_gradient_through_the_level(kind: str, tones: Path) -> None:
    clips = 0.1 * torch.randn(2, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clips[1, 20:] = 0
    assert gradient_is_exact(made(kind, 6.0, tones, rate=1000), clips)


@pytest.mark.data
def test_real_recordings_behind_real_recordings(real_data: Path) -> None:
    digits = sorted((real_data / "fsdd" / "recordings").glob("*.wav"))[:6]
    clips = torch.zeros(6, 4000)
    for row, path in enumerate(digits):
        sound = torch.from_numpy(read_audio(path, RATE))[:4000]
        clips[row, : len(sound)] = sound
    rain = next(folder for folder in sorted((real_data / "esc10").iterdir()) if folder.name.endswith("Rain"))
    channel = Noise(RATE, "folder", (0, 10), folder=rain)
    drawn = channel.draw(clips, generators(6))
    measured = channel.measure(clips, channel(clips, drawn, None), drawn, torch.ones_like(clips, dtype=torch.bool))
    assert torch.allclose(measured["snr_db"], drawn["snr_db"].double(), atol=0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"snr_db": math.nan}, "snr_db must be a number of dB"),
        ({"snr_db": math.inf}, "from -200 to 200"),
        ({"snr_db": (20, 10)}, "range"),
        ({"kind": "pinkish"}, "Did you mean 'pink'"),
        ({"kind": "band"}, "low_hz, high_hz or both"),
        ({"kind": "band", "high_hz": 4000}, "half the sample rate, 4000 Hz"),
        ({"kind": "band", "low_hz": 300, "high_hz": 200}, "low_hz must be below"),
        ({"kind": "white", "low_hz": 300}, "low_hz is for band noise"),
        ({"kind": "white", "folder": "."}, "folder is for folder and babble"),
        ({"kind": "folder"}, "give folder="),
        ({"kind": "babble", "folder": ".", "talkers": 0}, "talkers must be"),
        ({"kind": "babble", "folder": ".", "talkers": 2.5}, "whole"),
        ({"kind": "folder", "folder": ".", "split": "test"}, "split of recordings"),
        ({"kind": "folder", "folder": ".", "held_out": 1.0}, "share between 0 and 1"),
    ],
)
def test_refused_settings(options: dict[str, object], says: str) -> None:
    with pytest.raises(ThreatModelError, match=says):
        Noise(RATE, **options)


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Noise(RATE, "folder", folder=tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no audio file"):
        Noise(RATE, "folder", folder=tmp_path)
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
    with pytest.raises(DataError, match=r"silent\.wav is silent at 8000 Hz"):
        Noise(RATE, "folder", folder=tmp_path)
    with pytest.raises(DataError, match="two or more to hold one out"):
        Noise(RATE, "folder", folder=tmp_path, split="train")
    (tmp_path / "silent.wav").write_bytes(b"RIFF....")
    with pytest.raises(DataError, match=r"silent\.wav"):
        Noise(RATE, "folder", folder=tmp_path)
    with pytest.raises(DataError, match="is a file"):
        Noise(RATE, "folder", folder=tmp_path / "silent.wav")
    (tmp_path / "silent.wav").unlink()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(DataError, match=r"gone\.wav cannot be read: No such file"):
        Noise(RATE, "folder", folder=tmp_path)


def test_clips_too_short_for_a_band() -> None:
    with pytest.raises(ThreatModelError, match="too short"):
        Noise(RATE, "band", low_hz=110, high_hz=190).draw(torch.zeros(1, 80), generators(1))
