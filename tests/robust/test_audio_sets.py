"""Published audio data sets, read from small trees in their own layout: what is in a split, and what is refused."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from robust.data import Recording, Recordings, Subset, load_data, read_audio
from robust.data.speechcommands import COMMANDS
from robust.errors import DataError
from robust.evaluation.engine import AlignedData
from robust.types import Dataset, VictimSpec

RATE, SAMPLES = 8_000, 80
SPLITS = ("train", "validation", "test")
Damage = Callable[[Path], object]


def write(path: Path, seed: int, rate: int = RATE, frames: int = SAMPLES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, frames), rate)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def spec_of(data: Dataset, labels: Sequence[str] | None = None, **changes: Any) -> VictimSpec:
    values = {"task": data.task, "sample_rate": RATE, "clip_seconds": SAMPLES / RATE} | changes
    return VictimSpec("toy", labels=tuple(labels or data.labels), **values)


def ids(data: Dataset) -> list[str]:
    return [data.clip(index, spec_of(data)).id for index in range(len(data))]


def names_of(data: Dataset) -> dict[str, str]:
    """Clip id -> name of its class, as a victim that knows the classes in another order is fed."""
    aligned = AlignedData(data, spec_of(data, sorted(data.labels, reverse=True)))
    batch = aligned.batch(range(len(data)))
    return {id: aligned.spec.labels[int(label)] for id, label in zip(batch.ids, batch.labels, strict=True)}


def parts(name: str, root: Path, **options: Any) -> dict[str, set[str]]:
    """Split -> ids, checked to be disjoint, to lose nothing and to be the same when opened again."""
    found = {split: ids(load_data(name, root=root, split=split, **options)) for split in (*SPLITS, "all")}
    again = {split: ids(load_data(name, root=root, split=split, **options)) for split in found}
    assert found == again
    assert sum(len(found[split]) for split in SPLITS) == len(found["all"]) == len(set(found["all"]))
    assert set.union(*(set(found[split]) for split in SPLITS)) == set(found["all"])
    return {split: set(members) for split, members in found.items()}


CATEGORIES = [f"class_{(7 * target) % 50:02d}" for target in range(50)]  # not in the order of the alphabet
ESC10 = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ESC-50 with one clip for every class and fold; not to be written to."""
    root = tmp_path_factory.mktemp("ESC-50-master")
    rows = []
    for fold in range(1, 6):
        for target in range(50):
            name = f"{fold}-{1000 * fold + target}-A-{target}.wav"
            write(root / "audio" / name, seed=100 * fold + target)
            rows.append(
                {
                    "filename": name,
                    "fold": fold,
                    "target": target,
                    "category": CATEGORIES[target],
                    "esc10": target in ESC10,
                    "src_file": 1000 * fold + target,
                    "take": "A",
                }
            )
    write_table(root / "meta/esc50.csv", rows)
    return root


class TestEsc50:
    @pytest.fixture
    def root(self, shared_root: Path, tmp_path: Path) -> Path:
        """A tree to damage: its table is its own, its audio that of all."""
        (tmp_path / "meta").mkdir()
        (tmp_path / "audio").mkdir()
        (tmp_path / "meta/esc50.csv").write_text((shared_root / "meta/esc50.csv").read_text())
        for path in (shared_root / "audio").iterdir():
            (tmp_path / "audio" / path.name).symlink_to(path)
        return tmp_path

    @pytest.mark.parametrize(("fold", "following"), [(1, 2), (4, 5), (5, 1)])
    def test_folds_rotate_and_are_never_divided(self, shared_root: Path, fold: int, following: int) -> None:
        folds = {name: {id[6] for id in members} for name, members in parts("esc50", shared_root, fold=fold).items()}

        assert folds["test"] == {str(fold)}
        assert folds["validation"] == {str(following)}
        assert folds["train"] == set("12345") - {str(fold), str(following)}

    def test_the_first_fold_tests_unless_told(self, shared_root: Path) -> None:
        default, first = load_data("esc50", root=shared_root), load_data("esc50", root=shared_root, fold=1)
        assert ids(default) == ids(first)
        assert default.fingerprint() == first.fingerprint()

    def test_labels_are_those_of_the_table(self, shared_root: Path) -> None:
        data = load_data("esc50", root=shared_root, fold=3)

        assert list(data.labels) == CATEGORIES
        assert len(data) == 50
        for id, name in names_of(data).items():
            assert name == CATEGORIES[int(id.rsplit("-", 1)[1].removesuffix(".wav"))]

    def test_esc10_is_renumbered(self, shared_root: Path) -> None:
        data = load_data("esc50", root=shared_root, esc10=True)

        assert list(data.labels) == [CATEGORIES[target] for target in ESC10]
        assert [int(data.clip(index, spec_of(data)).label) for index in range(len(data))] == list(range(10))
        for id, name in names_of(data).items():
            assert name == CATEGORIES[int(id.rsplit("-", 1)[1].removesuffix(".wav"))]

    def test_a_limit_is_balanced(self, shared_root: Path) -> None:
        data = load_data("esc50", root=shared_root, split="train", limit=100)
        assert isinstance(data, Subset)
        assert set(Counter(data.targets).values()) == {2}

    @pytest.mark.parametrize(
        ("damage", "pattern"),
        [
            (lambda root: (root / "meta/esc50.csv").unlink(), r"esc50\.csv is missing. Expected ROOT/meta/esc50.csv"),
            (lambda root: edit(root / "meta/esc50.csv", "target,", "goal,"), r"lacks the columns target; .*filename,"),
            (lambda root: edit(root / "meta/esc50.csv", ",1,0,", ",1,zero,"), r"line 2: .*'target' holds 'zero',"),
            (lambda root: edit(root / "meta/esc50.csv", ",1,0,", ",6,0,"), r"line 2: .*'fold' holds '6', not one of"),
            (lambda root: edit(root / "meta/esc50.csv", "class_07", "class_00"), r"line 3: target 1 .*contradicts"),
            (lambda root: edit(root / "meta/esc50.csv", "1-1001-A-1.wav", "1-1000-A-0.wav"), r"names 1 files twice"),
            (lambda root: edit(root / "meta/esc50.csv", "1-1001-A-1.wav", ""), r"line 3: the column 'filename' is"),
            (lambda root: (root / "meta/esc50.csv").write_bytes(b"filename,\xff\xfe\n"), r"cannot be read as a table"),
            (lambda root: (root / "meta/esc50.csv").write_text("filename,fold,target,category,esc10\n"), r"holds no"),
            (lambda root: (root / "audio").rename(root / "sound"), r"part of esc50 only: 250 of the 250 files .*no"),
        ],
    )  # fmt: skip
    def test_wrong_trees(self, root: Path, damage: Damage, pattern: str) -> None:
        damage(root)
        with pytest.raises(DataError, match=pattern):
            load_data("esc50", root=root)

    def test_a_partial_tree_names_what_is_missing(self, root: Path) -> None:
        for target in range(4):
            (root / f"audio/2-{2000 + target}-A-{target}.wav").unlink()
        with pytest.raises(
            DataError,
            match=r"4 of the 250 files that meta/esc50.csv names are not there \(audio/2-2000-A-0.wav, .*1 more",
        ):
            load_data("esc50", root=root, fold=5)

    def test_a_table_without_a_class_of_its_own_fold(self, root: Path) -> None:
        edit(root / "meta/esc50.csv", "1-1003-A-3.wav,1,3", "1-1003-A-3.wav,2,3")
        with pytest.raises(DataError, match=r"split 'test' of esc50 lacks 1 of the 50 classes \(class_21\)"):
            load_data("esc50", root=root)

    @pytest.mark.parametrize("fold", [0, 6, "1"])
    def test_unknown_fold(self, shared_root: Path, fold: object) -> None:
        with pytest.raises(DataError, match=r"Unknown fold of esc50 .*Allowed: 1, 2, 3, 4, 5"):
            load_data("esc50", root=shared_root, fold=fold)

    def test_unknown_split(self, shared_root: Path) -> None:
        with pytest.raises(DataError, match=r"Unknown split of esc50 'vaildation'. Did you mean 'validation'?"):
            load_data("esc50", root=shared_root, split="vaildation")


class TestUrbanSound8K:
    CLASSES = (
        *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
        *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
    )

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        rows = []
        for fold in range(1, 11):
            for label in range(10):
                name = f"{10 * fold + label}-{label}-0-0.wav"
                write(tmp_path / f"audio/fold{fold}" / name, seed=10 * fold + label)
                rows.append(
                    {
                        "slice_file_name": name,
                        "fsID": 10 * fold + label,
                        "start": 0.0,
                        "end": 0.01,
                        "salience": 1,
                        "fold": fold,
                        "classID": label,
                        "class": self.CLASSES[label],
                    }
                )
        write_table(tmp_path / "metadata/UrbanSound8K.csv", rows[::-1])  # the table is not sorted by class
        return tmp_path

    def test_ten_folds(self, root: Path) -> None:
        tested: set[str] = set()
        for fold in range(1, 11):
            found = parts("urbansound8k", root, fold=fold)
            folds = {name: {id.split("/")[1] for id in members} for name, members in found.items()}
            assert folds["test"] == {f"fold{fold}"}
            assert folds["validation"] == {f"fold{fold % 10 + 1}"}
            assert len(folds["train"]) == 8
            tested |= found["test"]
        assert tested == found["all"]

    def test_labels(self, root: Path) -> None:
        data = load_data("urbansound8k", root=root, split="all")
        assert data.labels == self.CLASSES
        assert all(name == self.CLASSES[int(id.split("-")[1])] for id, name in names_of(data).items())

    def test_partial_trees(self, root: Path) -> None:
        (root / "audio/fold7/70-0-0-0.wav").unlink()
        with pytest.raises(DataError, match=r"1 of the 100 files .*\(audio/fold7/70-0-0-0.wav\)"):
            load_data("urbansound8k", root=root)
        (root / "audio/fold3").rename(root / "audio/fold3_old")
        with pytest.raises(DataError, match=r"11 of the 100 files .*There is no folder audio/fold3\."):
            load_data("urbansound8k", root=root)
        (root / "metadata").rename(root / "meta")
        with pytest.raises(DataError, match=r"metadata/UrbanSound8K.csv is missing. Expected ROOT/metadata"):
            load_data("urbansound8k", root=root)

    def test_no_way_to_mix_folds(self, root: Path) -> None:
        with pytest.raises(DataError, match=r"Unknown option of urbansound8k 'folds'"):
            load_data("urbansound8k", root=root, folds=5)


class TestSpeechCommands:
    WORDS = ("zero", "backward", "go")

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for index, word in enumerate(self.WORDS):
            for take in range(6):
                write(tmp_path / word / f"{index}ab{take}_nohash_0.wav", seed=10 * index + take)
        write(tmp_path / "_background_noise_/running_tap.wav", seed=99)
        for name, take in (("validation_list.txt", 0), ("testing_list.txt", 1)):
            lines = [f"{word}/{index}ab{take}_nohash_0.wav\n" for index, word in enumerate(self.WORDS)]
            (tmp_path / name).write_text("".join(lines))
        return tmp_path

    def test_official_split(self, root: Path) -> None:
        found = parts("speechcommands", root)

        assert {name: {id.split("/")[1][3] for id in members} for name, members in found.items()} == {
            "validation": {"0"},
            "test": {"1"},
            "train": set("2345"),
            "all": set("012345"),
        }
        assert not any("background" in id for id in found["all"])

    def test_labels(self, root: Path) -> None:
        data = load_data("speechcommands", root=root)
        assert data.labels == ("backward", "go", "zero")
        assert all(id.split("/")[0] == name for id, name in names_of(data).items())

    @pytest.mark.parametrize("words", [("zero", "backward"), "zero, backward"])
    def test_some_words(self, root: Path, words: str | tuple[str, ...]) -> None:
        data = load_data("speechcommands", root=root, split="train", words=words)
        assert data.labels == ("zero", "backward")
        assert Counter(names_of(data).values()) == {"zero": 4, "backward": 4}

    def test_words_that_cannot_be(self, root: Path) -> None:
        with pytest.raises(DataError, match=r"Unknown word of speechcommands 'gox'. Did you mean 'go'?"):
            load_data("speechcommands", root=root, words="gox,zero")
        with pytest.raises(DataError, match=r"give two different words or more"):
            load_data("speechcommands", root=root, words="go,go")
        assert len(set(COMMANDS)) == 10

    def test_wrong_trees(self, root: Path) -> None:
        (root / "go").rename(root / "_go")
        with pytest.raises(DataError, match=r"1 of the 3 word folders are missing \(go\)"):
            load_data("speechcommands", root=root)
        assert len(load_data("speechcommands", root=root, words="backward,zero")) == 2
        (root / "_go").rename(root / "go")
        (root / "zero/0ab1_nohash_0.wav").unlink()
        with pytest.raises(
            DataError, match=r"files that testing_list.txt names are not there \(zero/0ab1_nohash_0.wav\)"
        ):
            load_data("speechcommands", root=root, split="train")
        (root / "testing_list.txt").write_text("zero/0ab2_nohash_0.wav\ngo.wav\n")
        with pytest.raises(DataError, match=r"testing_list.txt names go.wav; every line must be of the form word/file"):
            load_data("speechcommands", root=root)
        (root / "testing_list.txt").write_text("zero/0ab0_nohash_0.wav\n")
        with pytest.raises(DataError, match=r"both lists name zero/0ab0_nohash_0.wav"):
            load_data("speechcommands", root=root)
        (root / "testing_list.txt").unlink()
        with pytest.raises(DataError, match=r"testing_list.txt is missing. Expected ROOT/\{word\}"):
            load_data("speechcommands", root=root)


class TestHearTask:
    LABELS = ("2", "10", "bark")  # numbers are labels too, and need not be in the order of the alphabet

    def task(self, root: Path, rates: Iterable[int] = (16_000, 44_100), **metadata: Any) -> Path:
        """A task of three clips a split, two of which are heard in a multilabel task."""
        kfold = metadata.get("split_mode", "trainvaltest") != "trainvaltest"
        splits = [f"fold{fold:02d}" for fold in range(4)] if kfold else ["train", "valid", "test"]
        many = metadata.get("prediction_type") == "multilabel"
        settings = {
            "task_name": "toy",
            "version": "v1",
            "embedding_type": "scene",
            "prediction_type": "multiclass",
            "split_mode": "trainvaltest",
            "sample_duration": 0.01,
            "evaluation": ["top1_acc"],
            "splits": splits,
        }
        root.mkdir()
        (root / "task_metadata.json").write_text(json.dumps(settings | metadata))
        rows = [{"idx": index, "label": label} for index, label in enumerate(self.LABELS)]
        write_table(root / "labelvocabulary.csv", rows[::-1])
        for place, split in enumerate(splits):
            names = {f"{split}-{index}.wav": [self.LABELS[index]] for index in range(3)}
            if many:
                names |= {f"{split}-0.wav": [], f"{split}-2.wav": ["bark", "2"]}
            (root / f"{split}.json").write_text(json.dumps(names))
            for rate in rates:
                for index, name in enumerate(names):
                    write(
                        root / str(rate) / split / name, seed=rate + 10 * place + index, rate=rate, frames=rate // 100
                    )
        return root

    def test_splits_and_labels(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy-v1-full")
        data = load_data("hear-task", root=root)

        assert {name: {id.split("/")[0] for id in members} for name, members in parts("hear-task", root).items()} == {
            "train": {"train"},
            "validation": {"valid"},
            "test": {"test"},
            "all": {"train", "valid", "test"},
        }
        assert data.labels == self.LABELS
        assert all(name == self.LABELS[int(id.split("-")[1][0])] for id, name in names_of(data).items())
        assert isinstance(load_data("hear-task", root=root, limit=2), Subset)

    def test_folds_rotate(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy", split_mode="presplit_kfold", nfolds=4)

        assert parts("hear-task", root) == parts("hear-task", root, fold=0)
        folds = {n: {id.split("/")[0] for id in ids} for n, ids in parts("hear-task", root, fold=3).items()}
        assert folds["test"] == {"fold03"}
        assert folds["validation"] == {"fold00"}
        assert folds["train"] == {"fold01", "fold02"}
        with pytest.raises(DataError, match=r"Unknown fold of .* 4.*Allowed: 0, 1, 2, 3"):
            load_data("hear-task", root=root, fold=4)

    def test_many_labels(self, tmp_path: Path) -> None:
        data = load_data("hear-task", root=self.task(tmp_path / "toy", prediction_type="multilabel"))
        aligned = AlignedData(data, spec_of(data, ("bark", "2", "10", "other")))
        batch = aligned.batch(range(3))

        assert data.task == "multilabel"
        assert data.clip(0, spec_of(data)).label.dtype == torch.float32
        assert dict(zip(batch.ids, batch.labels.tolist(), strict=True)) == {
            "test/test-0.wav": [0, 0, 0, 0],
            "test/test-1.wav": [0, 0, 1, 0],
            "test/test-2.wav": [1, 1, 0, 0],
        }
        with pytest.raises(DataError, match=r"is multilabel and the model 'toy' is multiclass"):
            AlignedData(data, spec_of(data, task="multiclass"))

    def test_a_victims_own_rate_is_read_as_it_is_and_another_from_the_highest(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy")
        data = load_data("hear-task", root=root)

        for rate, source in ((16_000, 16_000), (44_100, 44_100), (22_050, 44_100), (8_000, 44_100)):
            clip = data.clip(0, spec_of(data, sample_rate=rate, clip_seconds=0.01)).inputs["audio"].numpy()
            expected = read_audio(root / str(source) / "test/test-0.wav", rate, clip_seconds=0.01)
            np.testing.assert_array_equal(clip, expected)
        stored, _ = soundfile.read(root / "16000/test/test-0.wav", dtype="float32")
        own = data.clip(0, spec_of(data, sample_rate=16_000, clip_seconds=0.01)).inputs["audio"].numpy()
        np.testing.assert_array_equal(own, stored)

    def test_the_fingerprint_covers_every_rate(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy")
        before = load_data("hear-task", root=root).fingerprint()
        write(root / "16000/test/test-1.wav", seed=7, rate=16_000, frames=160)
        after = load_data("hear-task", root=root).fingerprint()
        assert before != after

    def test_event_tasks_are_refused(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy", embedding_type="event", prediction_type="multilabel")
        with pytest.raises(DataError, match=r"is an event task, scored by what is heard when.*Take a scene task"):
            load_data("hear-task", root=root)

    @pytest.mark.parametrize(
        ("damage", "pattern"),
        [
            (lambda root: (root / "task_metadata.json").unlink(), r"task_metadata.json is missing. Expected the folde"),
            (lambda root: (root / "task_metadata.json").write_text("{"), r"task_metadata.json cannot be read as"),
            (lambda root: (root / "task_metadata.json").write_text("[1]"), r"must hold a JSON object"),
            (lambda root: edit(root / "task_metadata.json", "scene", "scenes"), r"embedding_type 'scenes'. Did you"),
            (lambda root: edit(root / "task_metadata.json", "split_mode", "mode"), r"lacks 'split_mode', which is"),
            (lambda root: (root / "labelvocabulary.csv").unlink(), r"labelvocabulary.csv is missing"),
            (lambda root: edit(root / "labelvocabulary.csv", "1,10", "3,10"), r"must number its classes 0 to 2 in"),
            (lambda root: (root / "test.json").unlink(), r"test.json is missing"),
            (lambda root: edit(root / "test.json", '["bark"]', '["barks"]'), r"'test-2.wav': Unknown label 'barks'."),
            (lambda root: edit(root / "test.json", '["bark"]', '["bark", "2"]'), r"'test-2.wav' has 2 labels; a multi"),
            (lambda root: edit(root / "test.json", '["bark"]', '[{"label": "bark"}]'), r"must have a list of labels"),
            (lambda root: (root / "16000/test/test-2.wav").unlink(), r"1 of the 3 files that test.json .*16000/test/t"),
            (lambda root: (root / "44100/test").rename(root / "44100/old"), r"3 of the 3 .*There is no folder 44100/t"),
            (lambda root: [(root / rate).rename(root / f"{rate}Hz") for rate in ("16000", "44100")], r"no folder"),
        ],
    )  # fmt: skip
    def test_wrong_trees(self, tmp_path: Path, damage: Damage, pattern: str) -> None:
        root = self.task(tmp_path / "toy")
        damage(root)
        with pytest.raises(DataError, match=pattern):
            load_data("hear-task", root=root)

    def test_folds_of_a_task_without_any(self, tmp_path: Path) -> None:
        root = self.task(tmp_path / "toy")
        with pytest.raises(DataError, match=r"is divided into train, valid and test, so there are no folds"):
            load_data("hear-task", root=root, fold=1)


class TestMultilabelRecordings:
    @pytest.fixture
    def recordings(self, tmp_path: Path) -> list[Recording]:
        heard = [(), (0,), (2, 0), (0, 1, 2)]
        for index in range(4):
            write(tmp_path / f"{index}.wav", seed=index)
        return [Recording(f"{i}.wav", tmp_path / f"{i}.wav", heard=labels) for i, labels in enumerate(heard)]

    def make(self, recordings: Sequence[Recording], **options: Any) -> Recordings:
        described = {"name": "own", "split": "test", "labels": "abc", "task": "multilabel"}
        return Recordings(recordings, **(described | options))

    def test_multi_hot(self, recordings: list[Recording]) -> None:
        data = self.make(recordings)
        labels = torch.stack([data.clip(index, spec_of(data)).label for index in range(4)])
        assert labels.dtype == torch.float32
        assert labels.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]]
        with pytest.raises(AttributeError, match="multilabel"):
            _ = data.targets

    def test_a_limit_is_the_beginning_of_a_larger_one(self, recordings: list[Recording]) -> None:
        data = self.make(recordings)
        orders = [Subset(data, limit).indices for limit in range(1, 5)]
        assert sorted(orders[-1]) == [0, 1, 2, 3]
        assert all(order == orders[-1][: len(order)] for order in orders)
        part = Subset(data, 2)
        assert (part.task, part.clip(0, spec_of(data)).id) == ("multilabel", f"{orders[0][0]}.wav")
        recordings[orders[0][0]].path.unlink()
        assert part.clip_id(0, spec_of(data)) == f"{orders[0][0]}.wav"  # known without reading

    def test_fingerprint_follows_what_is_heard(self, recordings: list[Recording]) -> None:
        other = [*recordings[:3], Recording("3.wav", recordings[3].path, heard=(0, 1))]
        assert self.make(recordings).fingerprint() != self.make(other).fingerprint()

    @pytest.mark.parametrize(
        "change",
        [
            {"heard": (0, 3)},
            {"heard": (-1,)},
            {"heard": (1, 1)},
            {"heard": (0,), "label": 0},
        ],
    )
    def test_labels_that_cannot_be(self, recordings: list[Recording], change: dict[str, Any]) -> None:
        odd = Recording("odd.wav", recordings[0].path, **change)
        with pytest.raises(ValueError, match="different indices into labels"):
            self.make([*recordings, odd])

    def test_heard_in_a_set_of_one_label_each(self, recordings: list[Recording]) -> None:
        with pytest.raises(ValueError, match="every label must be an index"):
            self.make(recordings, task="multiclass")


class TestMemory:
    CLIPS, FRAMES = 40, 32_000  # 128 kB each as float32

    @pytest.fixture
    def recordings(self, tmp_path: Path) -> list[Recording]:
        paths = [tmp_path / f"{index}.wav" for index in range(self.CLIPS)]
        for index, path in enumerate(paths):
            write(path, seed=index, frames=self.FRAMES)
        return [Recording(path.name, path, 0) for path in paths]

    def test_reading_keeps_no_more_than_the_cache(self, recordings: list[Recording]) -> None:
        clip_bytes = 4 * self.FRAMES
        data = Recordings(recordings, name="own", split="test", labels="ab", cache_bytes=3 * clip_bytes)
        spec = spec_of(data, clip_seconds=self.FRAMES / RATE)
        data.clip(0, spec)  # imports and first-time tables are no part of the data
        tracemalloc.start()
        try:
            for index in range(5):
                data.clip(index, spec)
            after_five = tracemalloc.get_traced_memory()[0]
            for index in range(self.CLIPS):
                data.clip(index, spec)
            after_all, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert after_all - after_five < clip_bytes / 2
        assert peak < 12 * clip_bytes  # three are kept, and one is worked on in float64

    def test_hashing_reads_in_pieces(self, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
        write(recordings[0].path, seed=0, frames=50 * self.FRAMES)  # one file larger than all the others together
        total = sum(recording.path.stat().st_size for recording in recordings)
        found = []
        for whole_bytes in (total, total - 1):
            monkeypatch.setattr("robust.data.recordings.WHOLE_BYTES", whole_bytes)
            data = Recordings(recordings, name="own", split="test", labels="ab")
            tracemalloc.start()
            found.append(data.fingerprint())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < total / 4

        assert not found[0].startswith("edges-")
        assert found[1].startswith("edges-")
