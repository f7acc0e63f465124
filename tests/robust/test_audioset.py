"""AudioSet from segment lists and recordings, and from HDF5 features: what is read, what is missing, what is kept."""

from __future__ import annotations

import csv
import pickle
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from robust.data import Recordings, load_data
from robust.data.audioset import MissingClipsWarning
from robust.data.audioset_features import Features
from robust.data.splits import hash_fold
from robust.errors import DataError
from robust.evaluation.engine import AlignedData
from robust.types import Dataset, VictimSpec

CLASSES = 527
NAMES = tuple(f"Sound {(5 * index) % CLASSES}, of a kind" for index in range(CLASSES))  # commas, and no alphabet
Damage = Callable[[Path], object]

EVAL = {
    "--4gqARaEJE": (0.0, (0, 300)),
    "Y_BfvyPmVM1": (30.0, (526,)),
    "abc_def-gh_": (7.5, (1, 2, 3)),
    "-0123456789": (120.0, (4,)),
}


def mid(index: int) -> str:
    return f"/m/{index:05d}" if index % 2 else f"/t/dd{index:05d}"


def write_classes(root: Path) -> None:
    with (root / "class_labels_indices.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows((index, mid(index), name) for index, name in enumerate(NAMES))


def write_segments(path: Path, segments: Mapping[str, tuple[float, Sequence[int]]]) -> None:
    lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=4, num_segs=4", "# YTID, start, end, mids"]
    for video, (start, heard) in segments.items():
        mids = ",".join(map(mid, heard))
        lines.append(f'{video}, {start:.3f}, {start + 10:.3f}, "{mids}"')
    path.write_text("\n".join(lines) + "\n")


def write(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 80), 8_000)


def audio_spec(data: Dataset, labels: Sequence[str] | None = None) -> VictimSpec:
    return VictimSpec("toy", tuple(labels or data.labels), "multilabel", sample_rate=8_000, clip_seconds=0.01)


def clips(data: Dataset) -> dict[str, set[str]]:
    """Clip id -> names of what is heard, as a victim that knows the classes in another order is fed."""
    aligned = AlignedData(data, audio_spec(data, NAMES[::-1]))
    batch = aligned.batch(range(len(data)))
    assert batch.labels.shape == (len(data), CLASSES)
    assert batch.labels.dtype == torch.float32
    return {
        id: {NAMES[::-1][place] for place in row.nonzero().flatten().tolist()}
        for id, row in zip(batch.ids, batch.labels, strict=True)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Lists and every recording of the evaluation list, each named in another of the usual ways."""
    write_classes(tmp_path)
    write_segments(tmp_path / "eval_segments.csv", EVAL)
    write(tmp_path / "audio/eval/Y--4gqARaEJE.wav", 1)
    write(tmp_path / "audio/eval/Y_BfvyPmVM1.flac", 2)
    write(tmp_path / "audio/eval/more/abc_def-gh__7.500.ogg", 3)
    write(tmp_path / "audio/eval/Y-0123456789_120000_130000.wav", 4)
    return tmp_path


class TestAudioSet:
    def test_every_way_of_naming_is_found(self, root: Path) -> None:
        for name in ("notes.txt", "zzzzzzzzzzz.wav", "Y--4gqARaEJE.mkv", "--4gqARaEJE_extra.wav"):
            (root / "audio" / name).write_text("no recording of these")  # never opened, as its name does not fit
        data = load_data("audioset", root=root)

        assert clips(data) == {
            "--4gqARaEJE_0": {NAMES[0], NAMES[300]},
            "Y_BfvyPmVM1_30": {NAMES[526]},
            "abc_def-gh__7.5": {NAMES[1], NAMES[2], NAMES[3]},
            "-0123456789_120": {NAMES[4]},
        }
        assert data.labels == NAMES
        assert data.task == "multilabel"
        stored, _ = soundfile.read(root / "audio/eval/Y_BfvyPmVM1.flac", dtype="float32")
        np.testing.assert_array_equal(data.clip(1, audio_spec(data)).inputs["audio"].numpy(), stored)

    def test_another_start_is_another_segment(self, root: Path) -> None:
        (root / "audio/eval/more/abc_def-gh__7.500.ogg").rename(root / "audio/eval/more/abc_def-gh__8.000.ogg")
        with pytest.warns(MissingClipsWarning, match=r"^1 of the 4 .*\(abc_def-gh_\)"):
            assert len(load_data("audioset", root=root)) == 3

    def test_missing_clips_are_counted(self, root: Path) -> None:
        whole = load_data("audioset", root=root).fingerprint()
        for path in (root / "audio/eval").glob("Y*"):
            path.unlink()
        with pytest.warns(MissingClipsWarning) as told:
            data = load_data("audioset", root=root)

        assert len(told) == 1
        assert str(told[0].message).startswith("3 of the 4 segments of the split 'test' of audioset have no recording")
        assert "(--4gqARaEJE, Y_BfvyPmVM1, -0123456789); scores are of the other 1." in str(told[0].message)
        assert told[0].filename == __file__
        assert list(clips(data)) == ["abc_def-gh__7.5"]
        assert data.fingerprint() != whole

    def test_all_missing(self, root: Path) -> None:
        (root / "audio").rename(root / "sound")
        with pytest.raises(DataError, match=r"audio is missing. Expected ROOT/class_labels"):
            load_data("audioset", root=root)
        (root / "audio").mkdir()
        with pytest.raises(DataError, match=r"None of the 4 segments .* below .*audio \(--4gqARaEJE, .* and 1 more\)"):
            load_data("audioset", root=root)
        assert len(load_data("audioset", root=root, audio="sound")) == 4

    def test_two_recordings_of_one_segment(self, root: Path) -> None:
        write(root / "audio/again/--4gqARaEJE.flac")
        with pytest.raises(DataError, match=r"--4gqARaEJE_0 has 2 recordings: .*again.*Keep one"):
            load_data("audioset", root=root)
        assert len(load_data("audioset", root=root, audio="audio/eval")) == 4

    def test_training_lists_and_validation(self, root: Path) -> None:
        lists = {name: {f"{name:_<5.5}{index:06d}": (1.0, (index,)) for index in range(60)} for name in ("bal", "unb")}
        for name, segments in zip(("balanced", "unbalanced"), lists.values(), strict=True):
            write_segments(root / f"{name}_train_segments.csv", segments)
            for video in segments:
                write(root / f"audio/{name}/{video}.wav")

        for train, chosen in (("balanced", ["bal"]), ("unbalanced", ["unb"]), ("full", ["bal", "unb"])):
            found = {
                split: {
                    id.removesuffix("_1") for id in clips(load_data("audioset", root=root, split=split, train=train))
                }
                for split in ("train", "validation")
            }
            expected = {video for name in chosen for video in lists[name]}
            assert found["train"] | found["validation"] == expected
            assert found["validation"] == {video for video in expected if hash_fold(video, folds=10, seed=0) == 1}
            assert 0 < len(found["validation"]) < len(expected) / 4
            assert len(load_data("audioset", root=root, split="all", train=train)) == len(expected) + 4
        with pytest.raises(
            DataError, match=r"Unknown training list of audioset 'balanced_train'. Did you mean 'balanced'"
        ):
            load_data("audioset", root=root, train="balanced_train")

    @pytest.mark.parametrize(
        ("damage", "pattern"),
        [
            (lambda root: (root / "eval_segments.csv").unlink(), r"eval_segments.csv is missing. Expected ROOT/class_"),
            (lambda root: (root / "class_labels_indices.csv").unlink(), r"class_labels_indices.csv is missing. Expect"),
            (lambda root: edit(root, "class_labels_indices.csv", "\n7,", "\n8,"), r"line 10: index 8 .* contradicts"),
            (lambda root: edit(root, "class_labels_indices.csv", "\n526,", "\n600,"), r"must number its classes 0"),
            (lambda root: edit(root, "class_labels_indices.csv", ",display_name", ",name"), r"lacks the columns displ"),
            (lambda root: edit(root, "eval_segments.csv", mid(526), "/m/new"), r"line 5: the class '/m/new' is not"),
            (lambda root: edit(root, "eval_segments.csv", " 30.000, 40.000,", " 30.000,"), r"line 5: .* not of the"),
            (lambda root: edit(root, "eval_segments.csv", " 30.000,", " half,"), r"line 5: .* not of the form YTID,"),
            (lambda root: edit(root, "eval_segments.csv", "-0123456789, 120", "--4gqARaEJE, 0"), r"--4gqARaEJE_0"),
            (lambda root: (root / "eval_segments.csv").write_text("# nothing\n"), r"name no segment of this split"),
        ],
    )  # fmt: skip
    def test_wrong_trees(self, root: Path, damage: Damage, pattern: str) -> None:
        damage(root)
        with pytest.raises(DataError, match=pattern):
            load_data("audioset", root=root)

    def test_recordings_are_read_when_asked_for(self, root: Path) -> None:
        (root / "audio/eval/Y--4gqARaEJE.wav").write_bytes(b"damaged")
        data = load_data("audioset", root=root)
        assert isinstance(data, Recordings)
        with pytest.raises(DataError, match=r"Y--4gqARaEJE.wav is not audio"):
            data.clip(0, audio_spec(data))


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


FRAMES, MELS, SECONDS, VISUAL = 400, 64, 10, 2048
FEATURE_SHAPES = {"logmel": (FRAMES, MELS), "video_features": (SECONDS, VISUAL)}


def arrays(rows: int, seed: int, keys: Sequence[str] = ("feat_a", "feat_v", "labels")) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(size=(rows, FRAMES, MELS)).astype(np.float32),
        rng.uniform(size=(rows, SECONDS, VISUAL)).astype(np.float16),
        rng.random((rows, CLASSES)) < 0.01,
    )
    return dict(zip(keys, values, strict=True))


def write_group(path: Path, group: str, content: Mapping[str, Any], **options: Any) -> None:
    with h5py.File(path, "a") as file:
        for name, values in content.items():
            file.create_dataset(f"{group}/{name}", data=values, **options)


def feature_spec(*modalities: str, labels: Sequence[str] = NAMES, **shapes: tuple[int, ...]) -> VictimSpec:
    modalities = modalities or ("logmel", "video_features")
    return VictimSpec("toy", tuple(labels), "multilabel", modalities, shapes={**FEATURE_SHAPES, **shapes})


@pytest.fixture
def features_root(tmp_path: Path) -> Path:
    """The two files of AudioSetDoneRight, small."""
    write_classes(tmp_path)
    write_group(tmp_path / "data.h5", "valid/data", arrays(3, seed=1))
    write_group(tmp_path / "data.h5", "eval/data", arrays(5, seed=2))
    for seed, group in enumerate(("10_1", "1_10", "1_2"), start=3):
        write_group(tmp_path / "data_train.h5", group, arrays(2, seed, ("audio", "video", "label")))
    return tmp_path


class TestFeatures:
    def test_every_row_is_what_the_file_holds(self, features_root: Path) -> None:
        data = load_data("audioset-features", root=features_root)
        expected = arrays(5, seed=2)
        aligned = AlignedData(data, feature_spec(labels=NAMES[::-1]))
        batch = aligned.batch(range(5))

        assert batch.ids == tuple(f"eval/{row}" for row in range(5))
        assert {name: value.dtype for name, value in batch.inputs.items()} == dict.fromkeys(
            FEATURE_SHAPES, torch.float32
        )
        np.testing.assert_array_equal(batch.inputs["logmel"].numpy(), expected["feat_a"])
        np.testing.assert_array_equal(batch.inputs["video_features"].numpy(), expected["feat_v"].astype(np.float32))
        np.testing.assert_array_equal(batch.labels.numpy(), expected["labels"][:, ::-1])
        assert data.modalities == ("logmel", "video_features")
        assert [data.clip_id(row, aligned.spec) for row in range(5)] == list(batch.ids)

    def test_splits(self, features_root: Path) -> None:
        spec, found = feature_spec("video_features"), {}
        for split in ("train", "validation", "test", "all"):
            data = load_data("audioset-features", root=features_root, split=split)
            found[split] = [data.clip(index, spec).id for index in range(len(data))]

        assert found["validation"] == ["valid/0", "valid/1", "valid/2"]
        assert found["train"] == ["1_2/0", "1_2/1", "1_10/0", "1_10/1", "10_1/0", "10_1/1"]  # in the order of training
        assert sorted(found["all"]) == sorted(found["train"] + found["validation"] + found["test"])
        assert len(set(found["all"])) == 14
        train = load_data("audioset-features", root=features_root, split="train")
        np.testing.assert_array_equal(
            train.clip(3, feature_spec()).inputs["logmel"].numpy(), arrays(2, seed=4)["feat_a"][1]
        )

    def test_a_modality_alone(self, features_root: Path) -> None:
        data = load_data("audioset-features", root=features_root)
        for name in FEATURE_SHAPES:
            assert list(data.clip(0, feature_spec(name)).inputs) == [name]

    def test_a_file_by_name_with_hashes_and_no_video(self, features_root: Path) -> None:
        content = arrays(2, seed=9)
        del content["feat_v"]
        content["hashes"] = np.array([b"--4gqARaEJE", b"--BfvyPmVMo"])
        write_group(features_root / "data_64_400.h5", "/", content, compression="gzip", chunks=True)
        data = load_data("audioset-features", root=features_root, file="data_64_400.h5", limit=2)

        assert data.modalities == ("logmel",)
        assert data.clip_id(0, feature_spec("logmel")) == data.clip(0, feature_spec("logmel")).id
        assert {data.clip(index, feature_spec("logmel")).id for index in range(2)} == {
            "data_64_400/0/--4gqARaEJE",
            "data_64_400/1/--BfvyPmVMo",
        }
        with pytest.raises(DataError, match=r"'toy' takes video_features; audioset-features holds logmel\."):
            data.clip(0, feature_spec())

    def test_normalisation(self, features_root: Path) -> None:
        mean, std = -27.248297, 37.681698
        decibels = np.full((3, 4, 2), mean, dtype=np.float32)
        decibels[1] += 2 * std
        decibels[2] /= 2
        labels = np.zeros((3, CLASSES), dtype=np.uint8)
        write_group(features_root / "flat.h5", "/", {"feat_a": decibels, "labels": labels})
        spec = feature_spec("logmel", logmel=(4, 2))

        def values(**options: Any) -> list[float]:
            data = load_data("audioset-features", root=features_root, file="flat.h5", **options)
            return [float(data.clip(index, spec).inputs["logmel"].mean()) for index in range(3)]

        assert values() == pytest.approx([mean, mean + 2 * std, mean / 2])
        assert values(normalise="20log10") == pytest.approx([0, 1, -mean / 4 / std], abs=1e-6)
        assert values(normalise="10log10")[2] == pytest.approx(0, abs=1e-6)  # half the decibels, twice the factor
        assert values(normalise="20log10", mean=0, std=0.5) == pytest.approx([mean, mean + 2 * std, mean / 2])
        with pytest.raises(DataError, match=r"Unknown normalise of audioset-features 'on'"):
            values(normalise="on")
        with pytest.raises(DataError, match=r"std=0; it must be above 0"):
            values(std=0)

    def test_fingerprint(self, features_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fingerprint(**options: Any) -> str:
            return load_data("audioset-features", root=features_root, **options).fingerprint()

        def flip(key: str, row: int) -> None:
            with h5py.File(features_root / "data.h5", "r+") as file:
                values = file[key][row]
                values.flat[-1] = 1 - values.flat[-1]
                file[key][row] = values

        before = fingerprint()
        assert before == fingerprint()
        others = {fingerprint(split="validation"), fingerprint(split="all"), fingerprint(normalise="20log10")}
        assert len({before, *others}) == 4
        flip("eval/data/feat_v", 2)
        changed = fingerprint()
        assert changed != before
        for module in ("recordings", "audioset_features"):
            monkeypatch.setattr(f"robust.data.{module}.WHOLE_BYTES", 0)
        monkeypatch.setattr("robust.data.recordings._EDGE_BYTES", 8)
        edges = fingerprint()
        flip("eval/data/labels", 2)  # labels all count, even in a file too large to hash
        assert edges.startswith("edges-")
        assert edges != fingerprint()
        assert not changed.startswith("edges-")

    def test_workers_and_copies_open_the_file_for_themselves(self, features_root: Path) -> None:
        data = load_data("audioset-features", root=features_root, split="all")
        spec = feature_spec()
        here = [data.clip(index, spec) for index in range(len(data))]  # the file is open now, and must not be inherited

        class Clips(torch.utils.data.Dataset[torch.Tensor]):
            def __len__(self) -> int:
                return len(data)

            def __getitem__(self, index: int) -> torch.Tensor:
                return data.clip(index, spec).inputs["logmel"]

        found = torch.cat(list(DataLoader(Clips(), batch_size=3, num_workers=2, multiprocessing_context="fork")))
        torch.testing.assert_close(found, torch.stack([clip.inputs["logmel"] for clip in here]), rtol=0, atol=0)
        copy = pickle.loads(pickle.dumps(data))
        torch.testing.assert_close(copy.clip(4, spec).inputs, here[4].inputs, rtol=0, atol=0)
        assert copy.fingerprint() == data.fingerprint()

    def test_memory_stays_flat(self, tmp_path: Path) -> None:
        write_classes(tmp_path)
        write_group(tmp_path / "data.h5", "eval/data", arrays(60, seed=0))
        data = load_data("audioset-features", root=tmp_path)
        spec, row_bytes = feature_spec(), 4 * (FRAMES * MELS + SECONDS * VISUAL)
        data.clip(0, spec)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for index in range(len(data)):
                data.clip(index, spec)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert after - before < row_bytes / 2
        assert peak - before < 6 * row_bytes

    @pytest.mark.parametrize(
        ("damage", "pattern"),
        [
            (lambda root: (root / "data.h5").unlink(), r"data.h5 is missing. Expected ROOT/data.h5 with the groups"),
            (lambda root: (root / "data.h5").write_bytes(b"no HDF5"), r"data.h5 cannot be opened as HDF5"),
            (lambda root: cut(root / "data.h5"), r"data.h5 cannot be opened as HDF5"),
            (lambda root: change(root, "eval", None), r"has no group 'eval/data', but valid\. Expected"),
            (lambda root: change(root, "eval/data", np.zeros(3)), r"has no group 'eval/data'"),
            (lambda root: change(root, "eval/data/labels", None), r"'eval/data' of .* lacks labels; it holds feat_a,"),
            (lambda root: change(root, "eval/data/feat_a", np.zeros((5, 64))), r"feat_a of shape \(5, 64\); 3 dimensi"),
            (lambda root: change(root, "eval/data/feat_v", np.zeros((4, 10, 8))), r"feat_a 5, feat_v 4, labels 5"),
            (lambda root: change(root, "eval/data/labels", np.zeros((5, 526))), r"labels of 526 classes, the class"),
            (lambda root: (root / "class_labels_indices.csv").unlink(), r"class_labels_indices.csv is missing"),
        ],
    )  # fmt: skip
    def test_wrong_trees(self, features_root: Path, damage: Damage, pattern: str) -> None:
        damage(features_root)
        with pytest.raises(DataError, match=pattern):
            load_data("audioset-features", root=features_root)

    def test_groups_that_differ(self, features_root: Path) -> None:
        write_group(
            features_root / "data_train.h5", "2_1", {"audio": np.zeros((2, 4, 2)), "label": np.zeros((2, CLASSES))}
        )
        with pytest.raises(DataError, match=r"The group '2_1' of .* unlike '1_2'"):
            load_data("audioset-features", root=features_root, split="train")

    @pytest.mark.parametrize(
        ("key", "value", "pattern"),
        [
            ("feat_a", np.nan, r"NaN or infinite features in eval/1"),
            ("labels", 2, r"labels other than 0 and 1 in eval/1"),
        ],
    )
    def test_bad_rows(self, features_root: Path, key: str, value: float, pattern: str) -> None:
        content = arrays(5, seed=2)
        values = content[key].astype(np.float32)
        values[1].flat[7] = value
        change(features_root, f"eval/data/{key}", values)
        data = load_data("audioset-features", root=features_root)
        data.clip(0, feature_spec())
        with pytest.raises(DataError, match=pattern):
            data.clip(1, feature_spec())

    def test_a_victim_of_other_shapes_or_inputs(self, features_root: Path) -> None:
        data = load_data("audioset-features", root=features_root)
        assert isinstance(data, Features)
        with pytest.raises(DataError, match=r"takes logmel of shape \(1024, 128\); the features have \(400, 64\)"):
            data.clip(0, feature_spec(logmel=(1024, 128)))
        with pytest.raises(DataError, match=r"takes audio; audioset-features holds logmel and video_features"):
            data.clip(0, audio_spec(data))
        with pytest.raises(IndexError):
            data.clip(5, feature_spec())


def change(root: Path, key: str, values: Any) -> None:
    with h5py.File(root / "data.h5", "a") as file:
        del file[key]
        if values is not None:
            file[key] = values


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
