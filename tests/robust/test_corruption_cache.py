"""Corrupted clips on disk: shared by victims of one rate and length, rebuilt when damaged, bounded."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pandas.testing import assert_frame_equal

from attacks.errors import ThreatModelError
from robust.corruption_run import noise
from robust.corruptions import CORRUPTIONS, Corruption
from robust.corruptions import rendering as rendering_module
from robust.corruptions.augmenting import augmentation_corruption
from robust.corruptions.base import on_clips
from robust.corruptions.cache import GIB, CorruptionCache, clip_bytes, key_of, make_room, packed, read
from robust.corruptions.condition import Corrupted
from robust.corruptions.rendering import pack, unpack
from robust.data.subset import Subset
from robust.evaluation import corruption_cells
from robust.evaluation.engine import AlignedData
from robust.types import Batch, VictimSpec
from tests.robust.corruption_clips import clips, everywhere, rendered
from tests.robust.toys import ToyData, victim


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corruptions"


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the corruptions that were computed, a piece each."""
    done: list[str] = []
    real = rendering_module.render

    def counted(corruption, *rest):
        done.append(corruption.name)
        return real(corruption, *rest)

    monkeypatch.setattr(corruption_cells, "render", counted)
    return done


class TestSharing:
    def test_the_next_victim_finds_what_the_first_made(self, renders, cache):
        data = ToyData(12, victim())
        first = noise(victim(), data, "white,low-pass", (1, 5))
        assert renders.count("white") == 2
        assert first.summary["cache"] | {"estimate_gib": 0} == {
            "used": True, "estimate_gib": 0, "limit_gib": 4.0, "found": 0, "made": 4
        }  # fmt: skip
        second = noise(victim(seed=3), data, "low-pass,white", (1, 5))
        assert len(renders) == 4
        assert second.summary["cache"]["found"] == 4
        heard = [run.records[["id", "corruption", "severity", "snr_db", "realised"]] for run in (first, second)]
        columns = ["corruption", "severity", "id"]
        assert_frame_equal(*(one.sort_values(columns, ignore_index=True) for one in heard))

    def test_a_cache_changes_no_result(self, renders):
        data = ToyData(10, victim())
        asked = "white,hum,low-pass,quantise"
        runs = [noise(victim(), data, asked, (4,), cache_gib=bound) for bound in (1.0, 1.0, 0.0)]
        for run in runs[1:]:
            assert run.records["logits"].map(list).tolist() == runs[0].records["logits"].map(list).tolist()
        assert runs[2].summary["cache"]["used"] is False

    def test_studies_hear_the_same(self):
        data, model = ToyData(9, victim()), victim()
        run = noise(model, data, "pink", (3,), cache_gib=0)
        batch = AlignedData(data, model.spec).batch(range(5))
        outcome = Corrupted("pink", 3).apply(model, batch, torch.empty(0), 0)
        told = run.records[run.records["corruption"] == "pink"].head(5)
        np.testing.assert_array_equal(outcome.columns["snr_db"], told["snr_db"])
        with torch.no_grad():
            np.testing.assert_allclose(model(outcome.inputs), np.stack(told["logits"].tolist()), atol=1e-4)

    def test_what_is_heard_decides_the_key_and_not_who_hears(self):
        def key(data="d 0", ids=("a", "b"), severity=1, name="white", **spec):
            settings = {"name": "one", "labels": ("x",), **spec}
            return key_of(CORRUPTIONS[name], severity, VictimSpec(**settings), ids, data)

        assert key() == key(name="white", labels=("y", "z"))
        others = [
            key(data="d 1"), key(ids=("b", "a")), key(severity=2), key(name="pink"), key(sample_rate=8000),
            key(clip_seconds=2.0),
        ]  # fmt: skip
        assert len({key(), *others}) == len(others) + 1

    def test_audio_of_an_audio_visual_victim_is_shared_too(self):
        heard = VictimSpec("a", ("x",))
        seen = VictimSpec("b", ("x",), modalities=("audio", "video"), shapes={"video": (8, 3, 32, 32)})
        assert key_of(CORRUPTIONS["hum"], 1, heard, ("a",), "d") == key_of(CORRUPTIONS["hum"], 1, seen, ("a",), "d")
        with_sight = VictimSpec("b", ("x",), modalities=("audio", "video"), shapes={"video": (8, 3, 64, 64)})
        rain = CORRUPTIONS["av-rain"]
        assert key_of(rain, 1, seen, ("a",), "d") != key_of(rain, 1, with_sight, ("a",), "d")


class TestFiles:
    @pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
    def test_a_damaged_file_is_made_anew(self, renders, cache, damage):
        data = ToyData(8, victim())
        before = noise(victim(), data, "white", (2,))
        (file,) = cache.glob("*.npz")
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 0xFF
        file.write_bytes(
            {"cut": content[: len(content) // 2], "emptied": b"", "foreign": b"no archive"}.get(damage, content)
        )
        after = noise(victim(), data, "white", (2,))
        assert renders == ["white", "white"]
        assert after.records["logits"].map(list).tolist() == before.records["logits"].map(list).tolist()
        assert read(file, 8) is not None

    def test_a_folder_that_cannot_be_written_is_a_warning(self, cache, tmp_path):
        cache.parent.mkdir()
        cache.write_text("in the way")
        with pytest.warns(UserWarning, match="not cached"):
            run = noise(victim(), ToyData(4, victim()), "white", (2,))
        assert run.summary["cache"]["used"] is False

    def test_what_is_packed_is_what_is_read(self, tmp_path):
        inputs = clips(2)
        found = rendered(CORRUPTIONS["av-rain"], 3, inputs)
        (tmp_path / "file.npz").write_bytes(packed(found))
        again = read(tmp_path / "file.npz", 2)
        assert again is not None
        for name in ("audio", "video"):
            assert torch.equal(again.inputs(inputs)[name], found.inputs(inputs)[name])
        assert read(tmp_path / "file.npz", 3) is None

    def test_16_bits_of_the_peak_and_exact_where_they_can_be(self):
        quiet = {"audio": 1e-3 * torch.randn(2, 400, generator=torch.Generator().manual_seed(0))}
        exact = {"audio": (quiet["audio"] * 32768).round() / 32768}
        clean = {"audio": torch.zeros(2, 400)}
        assert torch.equal(unpack(pack(clean, exact), clean)["audio"], exact["audio"])
        off = (unpack(pack(clean, quiet), clean)["audio"] - quiet["audio"]).abs().amax(dim=1)
        assert (off <= quiet["audio"].abs().amax(dim=1) / 65_000).all()

    def test_a_folder_that_others_own_is_read_all_the_same(self, tmp_path, monkeypatch):
        (tmp_path / "file.npz").write_bytes(packed(rendered(CORRUPTIONS["white"], 3, clips(1))))

        def refused(path):
            raise PermissionError(13, "not yours")

        monkeypatch.setattr(os, "utime", refused)
        assert read(tmp_path / "file.npz", 1) is not None

    @pytest.mark.parametrize(("place", "byte"), [(10, 99), (8, 1)])
    def test_flags_of_methods_and_passwords_are_damage_too(self, tmp_path, place, byte):
        content = bytearray(packed(rendered(CORRUPTIONS["white"], 3, clips(1))))
        content[content.index(b"PK\x01\x02") + place] = byte
        (tmp_path / "file.npz").write_bytes(content)
        assert read(tmp_path / "file.npz", 1) is None


def louder(gain: float) -> Corruption:
    """A corruption of one's own, always under the same name."""

    def make(value, sample_rate):
        return on_clips(lambda clip, generator: gain * value * clip)

    return Corruption("mine", "device", "audio", "gain", (1.0, 2.0, 3.0, 4.0, 5.0), make)


class TestOnesOwn:
    def test_other_code_under_the_same_name_is_not_what_was_cached(self, cache):
        data = ToyData(4, victim())
        first, second = (noise(victim(), data, [louder(gain)], (1,)) for gain in (0.5, 1.0))
        assert first.records["snr_db"].dropna().median() < 10
        assert np.isposinf(second.records["snr_db"].dropna()).all()
        assert not list(cache.glob("*.npz"))

    def test_a_transform_that_reads_files_is_not_cached(self, cache, tmp_path):
        soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
        assert not augmentation_corruption("AddBackgroundNoise", {"sounds_path": str(tmp_path)}).lasting
        assert augmentation_corruption("AddGaussianNoise", {"max_amplitude": 0.5}).lasting
        assert CORRUPTIONS["white"].lasting

    def test_a_name_that_is_taken_is_refused(self):
        with pytest.raises(ThreatModelError, match="another corruption called 'white'"):
            noise(victim(), ToyData(4, victim()), [replace(louder(1.0), name="white")])


class TestBound:
    def test_what_would_not_fit_is_computed_and_said(self, renders, cache):
        with pytest.warns(UserWarning, match="Raise --cache-gib"):
            run = noise(victim(), ToyData(8, victim()), "white", (1, 2), cache_gib=1e-6)
        assert run.summary["cache"]["used"] is False
        assert not cache.exists()
        with pytest.raises(ThreatModelError, match="GiB from 0"):
            noise(victim(), ToyData(8, victim()), "white", cache_gib=-1)

    def test_no_cache_is_no_warning(self, cache, recwarn):
        noise(victim(), ToyData(4, victim()), "white", (1,), cache_gib=0)
        assert not [one for one in recwarn if "cache" in str(one.message)]
        assert not cache.exists()

    def test_the_oldest_make_room(self, tmp_path):
        for age, name in enumerate(("new", "middle", "old")):
            (tmp_path / f"{name}.npz").write_bytes(bytes(100))
            os.utime(tmp_path / f"{name}.npz", (1e9 - age, 1e9 - age))
        make_room(tmp_path, 250)
        assert sorted(path.stem for path in tmp_path.glob("*")) == ["middle", "new"]
        make_room(tmp_path / "absent", 0)

    def test_what_was_used_longest_ago_goes_first_and_the_runs_own_stay(self, cache):
        data, model = ToyData(16, victim()), victim()
        bound = 3.5 * 16 * (clip_bytes(CORRUPTIONS["white"], model.spec) + 120) / GIB
        noise(model, data, "white", (1, 2), cache_gib=bound)
        for file in cache.glob("*.npz"):
            os.utime(file, (1e9, 1e9))
        noise(model, data, "hum", (1, 2, 3), cache_gib=bound)
        assert len(list(cache.glob("*hum*"))) == 3
        assert len(list(cache.glob("*.npz"))) == 3
        again = noise(model, data, "hum", (1, 2, 3), cache_gib=bound)
        assert again.summary["cache"]["found"] == 3

    def test_the_estimate_is_what_files_take(self, cache):
        data, model = ToyData(16, victim()), victim()
        noise(model, data, "white", (1, 2, 3))
        taken = sum(file.stat().st_size for file in cache.glob("*.npz"))
        estimate = 3 * 16 * clip_bytes(CORRUPTIONS["white"], model.spec)
        assert abs(taken - estimate) < 3 * 3000  # headers
        told = CorruptionCache.open([(CORRUPTIONS["white"], 1)], model.spec, 16, "d", 0, 1.0).told
        assert told["estimate_gib"] == round(16 * clip_bytes(CORRUPTIONS["white"], model.spec) / GIB, 3)


class TestCondition:
    def test_settings_that_cannot_be(self):
        with pytest.raises(ThreatModelError, match="Did you mean 'white'"):
            Corrupted("whte", 1)
        with pytest.raises(ThreatModelError, match="given 6"):
            Corrupted("white", 6)
        batch = Batch(("a",), {"video": clips(1)["video"]}, torch.zeros(1), everywhere(clips(1)))
        with pytest.raises(ThreatModelError, match="Unknown modality 'audio'"):
            Corrupted("white", 1).apply(victim(), batch, torch.empty(0), 0)
        heard = Batch(("a",), {"audio": clips(1)["audio"]}, torch.zeros(1), everywhere(clips(1)))
        with pytest.raises(ThreatModelError, match="must know the victim's sample rate"):
            Corrupted("white", 1).apply(lambda inputs: inputs["audio"], heard, torch.empty(0), 0)

    def test_it_says_all_that_decides_the_result(self):
        told = Corrupted("mp3", 2).describe()
        assert told["condition"] == "corruption-mp3-2"
        assert told["value"] == 32.0
        assert told["version"] == rendering_module.VERSION

    def test_a_subset_is_another_data_set(self, renders):
        data = ToyData(8, victim())
        noise(victim(), data, "white", (1,))
        noise(victim(), Subset(data, 4), "white", (1,))
        assert len(renders) == 2
