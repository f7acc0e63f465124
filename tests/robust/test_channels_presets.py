"""Situations by name, and channels from files."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from attacks.errors import ThreatModelError
from robust.channels import bank
from robust.channels.chain import Chain
from robust.channels.condition import heard_through
from robust.channels.presets import PRESETS, load_channel
from robust.data import read_audio
from robust.errors import DataError
from tests.robust.channel_contract import check_contract, generators, voices

ROOMS = 3


@pytest.fixture(scope="module", autouse=True)
def _few_rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Banks of a few rooms, in a cache of their own."""
    real = bank.load_bank

    def few(*given: Any, train: int = 1, held_out: int = 1, **options: Any) -> bank.RoomBank:
        return real(*given, train=min(train, ROOMS) or 1, held_out=min(held_out, ROOMS), workers=1, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(bank, "load_bank", few)
        yield


def heard_by(channel: Chain, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    drawn = channel.draw(clips, generators(len(clips)))
    heard = heard_through(channel, clips, drawn, None)
    return heard, channel.measure(clips, heard, drawn, torch.ones_like(clips, dtype=torch.bool))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("sample_rate", [8000, 16_000])
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_every_preset_is_heard(name: str, sample_rate: int, split: str) -> None:
    channel, clips = load_channel(name, sample_rate=sample_rate, split=split), voices(3, sample_rate)
    assert channel.name == name
    heard, measured = heard_by(channel, clips)
    assert bool(torch.isfinite(heard).all())
    assert not torch.allclose(heard, clips, atol=1e-2)
    assert all(not bool(value.isnan().any()) for value in measured.values())
    for place, part in enumerate(channel.parts):
        if part.name == "noise":
            drawn = channel.draw(clips, generators(3))[f"{place}_noise_snr_db"].double()
            assert torch.allclose(measured[f"{place}_noise_snr_db"], drawn, atol=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_keeps_to_the_contract(name: str) -> None:
    check_contract(load_channel(name, sample_rate=8000), voices(3, 8000, 0.3))


@pytest.mark.data
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_on_real_recordings(name: str, real_data: Path) -> None:
    digits = sorted((real_data / "fsdd" / "recordings").glob("*.wav"))[::100][:4]
    for sample_rate in (8000, 16_000):
        clips = torch.zeros(4, sample_rate // 2)
        for row, path in enumerate(digits):
            sound = torch.from_numpy(read_audio(path, sample_rate))[: sample_rate // 2]
            clips[row, : len(sound)] = sound
        heard, _ = heard_by(load_channel(name, sample_rate=sample_rate), clips)
        assert bool(torch.isfinite(heard).all())
        likeness = torch.nn.functional.cosine_similarity(torch.fft.rfft(heard).abs(), torch.fft.rfft(clips).abs())
        assert float(likeness.min()) > 0.3, "the clip is still in there"


def test_presets_are_what_lies_in_the_package() -> None:
    folder = importlib.resources.files("robust.channels").joinpath("presets")
    there = {Path(one.name).stem for one in folder.iterdir() if one.name.endswith(".yaml")}
    assert there == set(PRESETS)
    for name in PRESETS:
        text = folder.joinpath(f"{name}.yaml").read_text()
        content = yaml.safe_load(text)
        assert content["name"] == name
        assert content["summary"].endswith(".")
        assert name == "room" or text.count("#") >= len(content["channels"]), "each part says why it is there"


def test_presets_fit_the_rate() -> None:
    slow, fast = ([part.name for part in load_channel("phone-call", sample_rate=rate).parts] for rate in (8000, 16_000))
    assert [name for name in fast if name != "resample"] == slow
    (band,) = (part for part in load_channel("living-room", sample_rate=8000).parts if part.name == "band")
    assert "high_hz" not in band.describe(), "8 kHz carry nothing of where a loudspeaker ends"
    (band,) = (part for part in load_channel("car", sample_rate=13_000).parts if part.name == "band")
    assert band.describe()["high_hz"] == [6000, pytest.approx(0.98 * 6500)]


def test_telephones_have_no_bass_and_no_treble() -> None:
    channel = load_channel("phone-call", sample_rate=16_000)
    noise = torch.randn(4, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    drawn = channel.draw(noise, generators(4))
    drawn["4_packet_loss_lost"] = torch.zeros_like(drawn["4_packet_loss_lost"])
    power = torch.fft.rfft(channel(noise, drawn)).abs().square().mean(dim=0)
    middle = float(power[500:3000].mean())
    assert float(power[20:150].mean()) < 0.01 * middle
    assert float(power[4200:].mean()) < 0.01 * middle


def test_held_out_rooms_are_others() -> None:
    train, held_out = (load_channel("room", sample_rate=8000, split=split) for split in ("train", "held-out"))
    assert len(train.parts) == 1
    rooms = [channel.parts[0].responses.samples for channel in (train, held_out)]
    assert not any(torch.equal(one, other) for one in rooms[0] for other in rooms[1] if one.shape == other.shape)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


EVERYTHING = """
summary: everything there is
channels:
  - {kind: room, rooms: {name: hut, x_m: [3, 4], y_m: [3, 4], z_m: [2, 3], absorption: 0.3}, train: 2, held_out: 1}
  - {kind: noise, sound: folder, folder: hum, snr_db: [0, 10]}
  - {kind: noise, sound: babble, folder: hum, talkers: [2, 3], snr_db: 20, held_out: 0.4, seed: 2}
  - {kind: noise, sound: band, low_hz: 100, high_hz: 900, snr_db: 30}
  - {kind: noise, snr_db: 40}
  - {kind: band, low_hz: 50, high_hz: [3000, 3500], order: 2}
  - {kind: soft-clip, drive_db: 3}
  - {kind: gain, gain_db: [-3, 3]}
  - {kind: offset, offset: 0.01}
  - {kind: drift, ppm: [-50, 50]}
  - {kind: shift, delay_s: [0, 1e-2], fractional: true}
  - {kind: quantise, bits: [8, 16]}
  - {kind: mu-law, levels: 64}
  - {kind: codec, codec: opus, kbps: [12, 24], surrogate: band}
  - {kind: packet-loss, rate: 0.1, packet_s: 0.03, mode: repeat}
  - {kind: resample, rate_hz: 4000}
"""


@pytest.fixture
def hum(tmp_path: Path) -> Path:
    (tmp_path / "hum").mkdir()
    for place in range(5):
        time = np.arange(4000) / 8000
        soundfile.write(tmp_path / "hum" / f"{place}.wav", 0.3 * np.sin(600 * (1 + place) * time), 8000)
    return tmp_path


def test_a_file_may_ask_for_everything(hum: Path) -> None:
    path = written(hum, EVERYTHING)
    channel = load_channel(path, sample_rate=8000)
    assert channel.name == "mine"
    kinds = [one["kind"] for one in yaml.safe_load(EVERYTHING)["channels"]]
    assert [part.name for part in channel.parts] == kinds
    heard, _ = heard_by(channel, voices(2, 8000))
    assert bool(torch.isfinite(heard).all())
    told = channel.describe()["parts"]
    assert told[1]["recordings"]["count"] == 4
    assert told[2]["recordings"]["count"] == 3
    assert told[11]["bits"] == [8, 16]
    assert told[13]["kbps"] == [12, 24]
    held_out = load_channel(str(path), sample_rate=8000, split="held-out")
    names = [set(one.parts[1].recorded.names) for one in (channel, held_out)]
    assert not names[0] & names[1]


def test_measured_rooms_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "responses").mkdir()
    for place in range(4):
        decay = np.random.default_rng(place).standard_normal(3000) * np.exp(-np.arange(3000) / (200 + 100 * place))
        decay[0] = 5
        soundfile.write(tmp_path / "responses" / f"{place}.wav", 0.1 * decay, 8000, subtype="FLOAT")
    path = written(
        tmp_path, "channels:\n  - {kind: measured-room, folder: responses, held_out: 0.25, normalise: energy}"
    )
    clips = voices(2, 8000)
    for split, count in (("train", 3), ("held-out", 1)):
        channel = load_channel(path, sample_rate=8000, split=split)
        assert len(channel.parts[0].bank.split(split)) == count
        assert bool(torch.isfinite(heard_by(channel, clips)[0]).all())


def test_an_empty_file_of_channels_is_the_identity(tmp_path: Path) -> None:
    clips = voices(2, 8000)
    heard, _ = heard_by(load_channel(written(tmp_path, "channels: []"), sample_rate=8000), clips)
    assert torch.equal(heard, clips)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{kind: bend, low_hz: 3}", "Unknown kind of channel 'bend'. Did you mean 'band'"),
        ("{gain_db: 3}", "this channel has no kind"),
        ("{kind: gain, gain: 3, gain_db: 1}", r"in channels.1 \(gain\): Unknown key 'gain'. Did you mean 'gain_db'"),
        ("{kind: gain}", r"\(gain\) the key 'gain_db' is missing"),
        ("{kind: offset}", r"\(offset\) the key 'offset' is missing"),
        ("{kind: gain, gain_db: loud}", "channels.1.gain_db: .*number.*given 'loud'"),
        ("{kind: gain, gain_db: [1, 2, 3]}", r"channels.1.gain_db: .*2 items.*given \[1, 2, 3\]"),
        ("{kind: gain, gain_db: .nan}", "gain_db must be a number of dB"),
        ("{kind: noise, snr_db: .inf}", "snr_db must be a number of dB"),
        ("{kind: packet-loss, rate: 0.1, mode: repeats}", "Did you mean 'repeat'"),
        ("{kind: band, high_hz: 5000}", "high_hz must be below half"),
        ("{kind: resample, rate_hz: 8000}", "rate_hz must be below"),
        ("{kind: room, rooms: hall}", "Unknown set of rooms 'hall'"),
        ("{kind: room, rooms: {name: a, x_m: [2, 3], y_m: [2, 3], z: [2, 3]}}", "Unknown key 'z'. Did you mean 'z_m'"),
        ("{kind: room, rooms: {name: a, x_m: [2, 3], y_m: [2, 3], z_m: 3}}", "channels.1.rooms.z_m: .*given 3"),
        ("{kind: room, rooms: {name: a, x_m: [-2, 3], y_m: [2, 3], z_m: [2, 3], absorption: 0.2}}", "x_m of the rooms"),
        ("3", "channels.1: .*given 3"),
    ],
)
def test_mistakes_of_channels_are_told_by_line(entry: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"channels:\n  - {{kind: mu-law}}\n  # the next is wrong\n  - {entry}\n")
    with pytest.raises(ThreatModelError, match=rf"mine\.yaml:4: .*{says}"):
        load_channel(path, sample_rate=8000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("channels: []\nchanels: []", "mine.yaml:2: in the file: Unknown key 'chanels'. Did you mean 'channels'"),
        ("name: mine", "mine.yaml:1: in the file the key 'channels' is missing"),
        ("name: 3\nchannels: []", "mine.yaml:1: name: .*string; given 3"),
        ("channels: 3", "mine.yaml:1: channels: .*list; given 3"),
        ("- 1", "mine.yaml: a channel is a mapping"),
        ("channels: [}", "mine.yaml:1: this is not YAML"),
        ("channels: []\nchannels: []", "mine.yaml:2: the key 'channels' is there already, on line 1"),
    ],
)
def test_mistakes_of_files(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ThreatModelError, match=says):
        load_channel(written(tmp_path, text), sample_rate=8000)


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ThreatModelError, match=r"Unknown channel 'living room'. Did you mean 'living-room'.*YAML file"):
        load_channel("living room", sample_rate=8000)
    with pytest.raises(ThreatModelError, match="Unknown split 'test'"):
        load_channel("car", sample_rate=8000, split="test")
    with pytest.raises(ThreatModelError, match="sample rate"):
        load_channel("car", sample_rate=0)
    with pytest.raises(ThreatModelError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_channel(tmp_path / "nowhere.yaml", sample_rate=8000)
    path = written(tmp_path, "channels:\n  - {kind: noise, sound: folder, folder: attic, snr_db: 3}")
    with pytest.raises(DataError, match=r"mine\.yaml:2: The folder of noise .*attic does not exist"):
        load_channel(path, sample_rate=8000)
