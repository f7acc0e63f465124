"""`events`: the same clips everywhere and always, whatever was asked for, however they were cached."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from robust.data import events_shards
from robust.data.cache import cache_dir
from robust.data.events import events
from robust.data.events_clip import labels_of, render
from robust.data.events_plan import Plan, draw_plan
from robust.data.events_settings import FRAMES, LABELS, LOOK_ALIKE, RECORDING, RHYTHM, SIDE, SOUND, SOUND_ALIKE
from robust.data.events_sight import sight
from robust.data.events_sound import TIMES_S, pulse_range, sound
from robust.data.registry import data_entry
from robust.errors import DataError
from robust.types import VictimSpec

BOTH = VictimSpec("probe", LABELS, modalities=("audio", "video"))
ONE_OF_EACH = len(LABELS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> (audio (4, SAMPLES), video (4, ...)), four clips of each class."""
    by_label = {}
    for label, name in enumerate(LABELS):
        clips = [render(3, "train", 4 * label + take, label) for take in range(4)]
        by_label[name] = (np.stack([audio for audio, _ in clips]), np.stack([video for _, video in clips]))
    return by_label


PINNED = {
    "church_bell": (0, 3122277, [-703, -67, 49], 2067514, [53, 52, 178, 61]),
    "glass_chime": (1, 6842926, [316, -467, 589], 2925201, [202, 201, 155, 218]),
    "guitar": (2, 5408023, [-556, -311, -218], 4306260, [114, 192, 202, 139]),
    "helicopter": (3, 4299636, [-10, -154, 160], 3519284, [190, 200, 200, 102]),
    "bird": (4, 19935695, [-521, 6430, 337], 1379310, [91, 117, 103, 88]),
    "frying": (5, 894207, [73, -57, -103], 3121635, [74, 78, 81, 90]),
    "footsteps": (6, 677701, [-103, -262, 8], 3308330, [255, 255, 176, 79]),
    "cat": (7, 23125471, [-2861, -6392, -74], 3716931, [104, 117, 98, 65]),
    "rain": (8, 10188982, [-328, 1050, -1641], 4100124, [180, 168, 164, 165]),
    "drill": (9, 1623334, [-8, 80, -46], 3475932, [197, 204, 174, 183]),
    "speech": (10, 7070626, [-110, 1096, -1297], 3971634, [141, 65, 70, 98]),
    "car": (11, 16434526, [770, -728, -586], 3265542, [199, 203, 210, 205]),
    "siren": (12, 45992315, [5921, 4716, -4880], 2940792, [101, 47, 75, 89]),
    "applause": (13, 13473527, [-352, 850, -1001], 2802179, [121, 156, 155, 158]),
    "dog": (14, 11304770, [29, -55, 3], 3265299, [175, 132, 168, 101]),
    "clock": (15, 604714, [-10, 123, 14], 2901162, [139, 121, 115, 150]),
}
"""Label -> (index in the test split, sum of |audio|, audio[4000::4000], sum of video, video[::2, 1, 16, 16])."""


@pytest.mark.parametrize("name", PINNED)
def test_clips_are_the_same_on_every_machine(name: str) -> None:
    index, loudness, samples, light, pixels = PINNED[name]
    label = int(labels_of(0, "test", index + 1)[index])
    assert LABELS[label] == name
    audio, video = render(0, "test", index, label)
    assert audio[4000::4000].tolist() == samples
    assert int(np.abs(audio.astype(np.int64)).sum()) == loudness
    assert video[::2, 1, 16, 16].tolist() == pixels
    assert int(video.astype(np.int64).sum()) == light


def test_a_clip_does_not_depend_on_how_many_were_asked_for_or_in_which_order() -> None:
    many, few = events(split="train", clips=9), events(split="train", clips=4, seed=0)
    for index in (3, 0, 2):
        first, second = many.clip(index, BOTH), few.clip(index, BOTH)
        assert first.id == second.id
        assert int(first.label) == int(second.label)
        assert torch.equal(first.inputs["audio"], second.inputs["audio"])
        assert torch.equal(first.inputs["video"], second.inputs["video"])


def test_shards_and_workers_change_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    whole = events(split="train", clips=14)
    monkeypatch.setenv("ROBUST_CACHE", str(cache / "other"))
    monkeypatch.setattr(events_shards, "SHARD_CLIPS", 6)
    monkeypatch.setattr(events_shards, "_PIECE_CLIPS", 2)
    monkeypatch.setattr(events_shards, "_cores", lambda: 2)
    shards = events_shards.load_shards(0, "train", 14)
    assert [len(audio) for audio, _ in shards] == [6, 6, 2]
    clips = [whole.clip(index, BOTH) for index in range(14)]
    audio = np.concatenate([audio for audio, _ in shards])
    video = np.concatenate([video for _, video in shards])
    assert np.array_equal(audio, np.stack([clip.inputs["audio"].numpy() * 32768 for clip in clips]))
    assert np.array_equal(video / np.float32(255), np.stack([clip.inputs["video"].numpy() for clip in clips]))


def test_more_clips_later_generate_only_the_shards_that_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_shards, "SHARD_CLIPS", 2)
    events_shards.load_shards(0, "train", 4)
    starts = []
    generate = events_shards._generate

    def spy(seed: int, split: str, start: int, *rest: object) -> object:
        starts.append(start)
        return generate(seed, split, start, *rest)

    monkeypatch.setattr(events_shards, "_generate", spy)
    events_shards.load_shards(0, "train", 3)
    assert starts == []
    events_shards.load_shards(0, "train", 7)
    assert starts == [4, 6]


def test_splits_and_seeds_are_disjoint() -> None:
    audio = [render(seed, split, 0, 4)[0] for seed in (0, 1) for split in ("train", "validation", "test")]
    for first in range(len(audio)):
        for second in range(first):
            assert abs(np.corrcoef(audio[first], audio[second])[0, 1]) < 0.5
    ids = {events(split=split, clips=1, seed=seed).clip(0, BOTH).id for seed in (0, 1) for split in ("train", "test")}
    assert len(ids) == 4


@pytest.mark.parametrize(("split", "count"), [("train", 4000), ("validation", 400), ("test", 400)])
def test_classes_are_balanced_in_every_prefix(split: str, count: int) -> None:
    labels = labels_of(0, split, count)
    assert len(LABELS) >= 12
    assert np.bincount(labels, minlength=len(LABELS)).tolist() == [count // len(LABELS)] * len(LABELS)
    for prefix in (50, 100, 333):
        counts = np.bincount(labels[:prefix], minlength=len(LABELS))
        assert counts.max() - counts.min() <= 1
        assert np.array_equal(labels[:prefix], labels_of(0, split, prefix))
    assert not np.array_equal(labels[:ONE_OF_EACH], labels[ONE_OF_EACH : 2 * ONE_OF_EACH])


def test_clips_have_the_shapes_types_and_ranges_of_the_contract() -> None:
    clip = events(split="validation", clips=2).clip(1, BOTH)
    audio, video = clip.inputs["audio"], clip.inputs["video"]
    assert audio.shape == (16_000,)
    assert audio.dtype == torch.float32
    assert audio.abs().max() < 1
    assert clip.valid["audio"].all()
    assert video.shape == (8, 3, 32, 32)
    assert video.dtype == torch.float32
    assert 0 <= video.min() < video.max() <= 1
    assert clip.label.dtype == torch.int64
    assert clip.label.shape == ()


@pytest.mark.parametrize("name", LABELS)
def test_every_class_is_heard_and_seen_to_move(name: str, rendered: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    audio, video = rendered[name]
    assert audio.dtype == np.int16
    assert video.dtype == np.uint8
    peaks_dbfs = 20 * np.log10(np.abs(audio.astype(np.float64)).max(axis=1) / 32767)
    low, high = RECORDING.peak_dbfs
    assert (peaks_dbfs > low - 0.1).all()
    assert (peaks_dbfs < high + 0.1).all()
    assert abs(audio.mean(axis=1)).max() < 600
    frames = audio.reshape(4, 100, 160)
    assert (np.abs(frames).max(axis=2) > 0).all()  # the background is never digital silence
    assert video.std(axis=(1, 2, 3, 4)).min() > 2
    assert np.abs(np.diff(video.astype(np.int64), axis=1)).mean(axis=(1, 2, 3, 4)).min() > 0.5


def test_the_tables_name_the_same_classes() -> None:
    assert set(RHYTHM) == set(SOUND) == set(LABELS)
    for groups in (SOUND_ALIKE, LOOK_ALIKE):
        members = [name for group in groups for name in group]
        assert len(members) == len(set(members))
        assert set(members) <= set(LABELS)
    sounds = {frozenset(group) for group in SOUND_ALIKE}
    assert not sounds & {frozenset(group) for group in LOOK_ALIKE}  # one sense at least tells any two apart


@pytest.mark.parametrize("name", ["church_bell", "glass_chime", "guitar", "footsteps", "clock", "dog", "cat", "bird"])
def test_nothing_is_heard_before_the_first_onset(name: str) -> None:
    plan = draw_plan(name, pulse_range(name), np.random.default_rng(5))
    audio = sound(plan, np.random.default_rng(6))
    since = TIMES_S - plan.onsets_s[0]
    before = audio[since < -0.001]
    after = audio[(since >= 0) & (since < 0.15)]
    before_power = np.mean((before - np.median(audio)) ** 2) if len(before) else 0.0
    assert before_power < 0.01 * np.mean(after**2)


def test_the_picture_follows_the_plan_of_the_sound() -> None:
    """A mouth opens only while there is speech: later speech, later difference between the pictures."""
    early = Plan("speech", np.array([0.1]), np.array([0.3]), np.array([1.0]), 0.3)
    late = Plan("speech", np.array([0.6]), np.array([0.3]), np.array([1.0]), 0.3)
    difference = np.abs(
        sight(early, np.random.default_rng(1)).astype(int) - sight(late, np.random.default_rng(1)).astype(int)
    )
    changed = difference.sum(axis=(1, 2, 3))
    times_s = (np.arange(FRAMES) + 0.5) / FRAMES
    speaking = (early.active(times_s, 0.08) > 0) | (late.active(times_s, 0.08) > 0)
    assert (changed[speaking] > 0).all()
    assert (changed[~speaking] == 0).all()


def test_phase_counts_events_and_extrapolates() -> None:
    plan = Plan("clock", np.array([0.2, 0.5, 0.7]), np.full(3, 0.1), np.ones(3), 0.25)
    times_s = np.array([-0.05, 0.2, 0.35, 0.5, 0.7, 0.95])
    assert plan.phase(times_s) == pytest.approx([-1, 0, 0.5, 1, 2, 3])


def test_cached_clips_are_read_back_not_made_again(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = events(split="test", clips=3)
    assert sorted(path.suffix for path in cache.rglob("*") if path.is_file()) == [".npy", ".npy"]
    monkeypatch.setattr(events_shards, "render_range", None)
    again = events(split="test", clips=3)
    for index in range(3):
        before, after = first.clip(index, BOTH), again.clip(index, BOTH)
        assert torch.equal(before.inputs["audio"], after.inputs["audio"])
        assert torch.equal(before.inputs["video"], after.inputs["video"])
    assert len(events(split="test", clips=2)) == 2
    assert first.fingerprint() == again.fingerprint() != events(split="test", clips=2).fingerprint()


@pytest.mark.parametrize("harm", ["truncated", "missing", "other shape", "left half-written"])
def test_a_harmed_cache_is_mended(cache: Path, harm: str) -> None:
    before = events(split="test", clips=2).clip(1, BOTH)
    audio, video = sorted(path for path in cache.rglob("*.npy"))
    if harm == "truncated":
        audio.write_bytes(audio.read_bytes()[:1000])
    elif harm == "missing":
        video.unlink()
    elif harm == "other shape":
        np.save(video, np.zeros((2, 3), np.uint8))
    else:
        audio.rename(audio.with_name(audio.name + "x1.part"))
    after = events(split="test", clips=2).clip(1, BOTH)
    assert torch.equal(before.inputs["audio"], after.inputs["audio"])
    assert torch.equal(before.inputs["video"], after.inputs["video"])
    assert audio.exists()
    assert video.exists()


def test_a_failed_write_leaves_nothing_and_warns(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device.*ROBUST_CACHE"):
        dataset = events(split="test", clips=1)
    assert dataset.clip(0, BOTH).inputs["audio"].abs().max() > 0
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_cache_that_is_not_a_folder_is_a_warning(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (cache / "file").write_text("in the way")
    monkeypatch.setenv("ROBUST_CACHE", str(cache / "file"))
    with pytest.warns(UserWarning, match="ROBUST_CACHE"):
        assert len(events(split="test", clips=1)) == 1


def test_cache_dir_obeys_the_environment(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("ROBUST_CACHE")
    assert cache_dir().name == "robust"
    assert os.fspath(cache) not in os.fspath(cache_dir())


@pytest.mark.parametrize(("sample_rate", "clip_seconds"), [(8_000, 1.0), (32_000, 0.5), (16_000, 2.0)])
def test_clips_come_at_the_rate_and_length_of_the_victim(sample_rate: int, clip_seconds: float) -> None:
    dataset = events(split="test", clips=1)
    native = dataset.clip(0, BOTH).inputs["audio"].numpy()
    spec = VictimSpec("probe", LABELS, sample_rate=sample_rate, clip_seconds=clip_seconds)
    clip = dataset.clip(0, spec)
    assert list(clip.inputs) == ["audio"]
    audio, real = clip.inputs["audio"].numpy(), min(spec.clip_samples, sample_rate)
    assert audio.shape == (spec.clip_samples,)
    assert int(clip.valid["audio"].sum()) == real
    expected = native if sample_rate == 16_000 else soxr.resample(native, 16_000, sample_rate)
    assert audio[:real] == pytest.approx(expected[:real], abs=1e-6)
    assert not audio[real:].any()


def test_a_video_victim_gets_video_alone() -> None:
    spec = VictimSpec("probe", LABELS, modalities=("video",), shapes={"video": (FRAMES, 3, SIDE, SIDE)})
    assert list(events(split="test", clips=1).clip(0, spec).inputs) == ["video"]


def test_what_cannot_be_had_is_refused_with_a_reason() -> None:
    with pytest.raises(DataError, match="Did you mean 'validation'"):
        events(split="validatoin")
    for clips in (0, -4, 2.5, True):
        with pytest.raises(DataError, match="clips="):
            events(split="train", clips=clips)
    with pytest.raises(DataError, match="seed=-1"):
        events(split="train", clips=1, seed=-1)
    dataset = events(split="test", clips=1)
    with pytest.raises(IndexError):
        dataset.clip(1, BOTH)
    with pytest.raises(DataError, match="modality"):
        dataset.clip(0, VictimSpec("probe", LABELS, modalities=("logmel",), shapes={"logmel": (98, 64)}))
    with pytest.raises(DataError, match="shape"):
        dataset.clip(0, VictimSpec("probe", LABELS, modalities=("video",), shapes={"video": (8, 3, 64, 64)}))


def test_it_is_registered() -> None:
    entry = data_entry("events")
    assert not entry.needs_root
    assert len(entry.build(split="test", root=None, clips=2)) == 2
