"""Data sets over audio files: what is in a split, under which name, and what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from robust.data import UNLABELLED, Recording, Recordings, Subset, list_data, load_data, single_file
from robust.data.splits import hash_fold
from robust.errors import DataError
from robust.types import Batch, Dataset, VictimSpec

SPEC = VictimSpec("toy", labels=("a", "b"), sample_rate=8_000, clip_seconds=0.02)  # 160 samples


def write(path: Path, frames: int = 80, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, frames), 8_000)
    return path


def tree(root: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        write(root / name, seed=seed)
    return root


def ids(data: Dataset) -> list[str]:
    return [data.clip(index, SPEC).id for index in range(len(data))]


@pytest.fixture
def fsdd_root(tmp_path: Path) -> Path:
    """Ten digits of one speaker at indices on both sides of every border."""
    names = [f"recordings/{digit}_ann_{index}.wav" for digit in range(10) for index in (0, 4, 5, 7, 8, 49)]
    return tree(tmp_path / "fsdd", names)


@pytest.fixture
def class_root(tmp_path: Path) -> Path:
    """Two classes of 40 files without fold in their names."""
    return tree(tmp_path / "own", [f"{label}/take{index}.wav" for label in ("cat", "dog") for index in range(40)])


class TestRecordings:
    def test_clip_is_padded_masked_and_labelled(self, tmp_path: Path) -> None:
        short, long = write(tmp_path / "short.wav", 100), write(tmp_path / "long.wav", 400)
        data = Recordings(
            [Recording("short.wav", short, 1), Recording("long.wav", long, 0)], name="own", split="test", labels="ab"
        )

        batch = Batch.collate([data.clip(0, SPEC), data.clip(1, SPEC)])

        assert batch.inputs["audio"].shape == (2, 160)
        assert batch.inputs["audio"].dtype == torch.float32
        assert batch.labels.tolist() == [1, 0]
        assert batch.valid["audio"].sum(1).tolist() == [100, 160]
        assert batch.valid["audio"][0, :100].all()
        assert not batch.inputs["audio"][0, 100:].any()
        expected, _ = soundfile.read(long, dtype="float32")
        np.testing.assert_array_equal(batch.inputs["audio"][1].numpy(), expected[:160])

    def test_a_clip_kept_in_memory_cannot_be_spoilt(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav")
        data = Recordings([Recording("a.wav", path, 0)], name="own", split="test", labels="ab")
        first = data.clip(0, SPEC).inputs["audio"]
        kept = first.clone()
        first.zero_()
        path.unlink()  # so the second can only come from memory

        torch.testing.assert_close(data.clip(0, SPEC).inputs["audio"], kept, rtol=0, atol=0)

    def test_the_memory_is_bounded(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"{name}.wav", seed=seed) for seed, name in enumerate("ab")]
        recordings = [Recording(path.name, path, 0) for path in paths]
        data = Recordings(recordings, name="own", split="test", labels="ab", cache_bytes=80 * 4)  # one clip
        for index in (0, 1):
            data.clip(index, SPEC)
            paths[index].unlink()

        data.clip(0, SPEC)
        with pytest.raises(DataError, match=r"b\.wav does not exist"):
            data.clip(1, SPEC)

    def test_another_rate_and_length_is_another_clip(self, tmp_path: Path) -> None:
        data = Recordings(
            [Recording("a.wav", write(tmp_path / "a.wav", 800), 0)], name="own", split="test", labels="ab"
        )
        other = VictimSpec("toy", labels=("a", "b"), sample_rate=16_000, clip_seconds=0.05)

        assert data.clip(0, SPEC).inputs["audio"].shape == (160,)
        assert data.clip(0, other).inputs["audio"].shape == (800,)

    def test_no_video_in_recordings(self, fsdd_root: Path) -> None:
        spec = VictimSpec("av", labels=("a", "b"), modalities=("audio", "video"), shapes={"video": (8, 3, 32, 32)})

        with pytest.raises(DataError, match=r"'av' takes audio, video; the recordings of 'fsdd' hold audio alone"):
            load_data("fsdd", root=fsdd_root).clip(0, spec)

    def test_fingerprint_follows_content_names_and_labels_but_not_the_place(self, class_root: Path) -> None:
        original = load_data("folder", root=class_root, split="all").fingerprint()
        moved = shutil.copytree(class_root, class_root.parent / "elsewhere")
        assert load_data("folder", root=moved, split="all").fingerprint() == original
        assert load_data("folder", root=moved, split="test").fingerprint() != original

        content = bytearray((moved / "cat/take7.wav").read_bytes())
        content[-1] ^= 1
        (moved / "cat/take7.wav").write_bytes(content)
        changed = load_data("folder", root=moved, split="all").fingerprint()
        (moved / "cat").rename(moved / "bat")
        renamed = load_data("folder", root=moved, split="all").fingerprint()

        assert len({original, changed, renamed}) == 3

    def test_fingerprint_follows_a_label_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav")
        sets = [Recordings([Recording("a.wav", path, n)], name="own", split="test", labels="ab") for n in (0, 1)]
        assert sets[0].fingerprint() != sets[1].fingerprint()


class TestLimit:
    @pytest.mark.parametrize("limit", [1, 7, 20, 33])
    def test_a_limit_is_the_beginning_of_a_larger_one_and_balanced(self, fsdd_root: Path, limit: int) -> None:
        small = load_data("fsdd", root=fsdd_root, split="all", limit=limit)
        large = load_data("fsdd", root=fsdd_root, split="all", limit=60)

        assert ids(small) == ids(large)[:limit]
        counts = Counter(int(small.clip(index, SPEC).label) for index in range(limit))
        assert max(counts.values()) - min(counts[digit] for digit in range(10)) <= 1
        assert len(set(ids(large))) == 60

    def test_classes_that_run_out_leave_the_others(self, tmp_path: Path) -> None:
        names = ["cat/0.wav", *(f"dog/{index}.wav" for index in range(5))]
        data = load_data("folder", root=tree(tmp_path, names), split="all", limit=6)

        assert isinstance(data, Subset)
        assert sorted(data.targets[:2]) == [0, 1]
        assert data.targets[2:] == (1, 1, 1, 1)

    def test_fingerprint_of_a_part_is_not_that_of_the_whole(self, fsdd_root: Path) -> None:
        whole, part, smaller = (load_data("fsdd", root=fsdd_root, limit=limit) for limit in (None, 20, 19))
        assert len({whole.fingerprint(), part.fingerprint(), smaller.fingerprint()}) == 3

    def test_a_set_that_hides_its_classes_is_shuffled(self, fsdd_root: Path) -> None:
        class Hidden(Dataset):
            name, split, labels = "hidden", "test", ("a",)

            def __len__(self) -> int:
                return 50

            def clip(self, index: int, spec: VictimSpec) -> None:
                raise AssertionError("a limit must not read clips")

            def fingerprint(self) -> str:
                return "0"

        order = Subset(Hidden(), 50).indices
        assert sorted(order) == list(range(50))
        assert order != tuple(range(50))
        assert Subset(Hidden(), 9).indices == order[:9]

    def test_fewer_clips_than_asked(self, fsdd_root: Path) -> None:
        with pytest.raises(
            DataError, match=r"Fewer clips than asked: 21 asked, 20 there in the split 'test' of 'fsdd'"
        ):
            load_data("fsdd", root=fsdd_root, limit=21)

    @pytest.mark.parametrize("limit", [0, -3])
    def test_no_clip_asked(self, fsdd_root: Path, limit: int) -> None:
        with pytest.raises(DataError, match=f"limit={limit} asks for no clip"):
            load_data("fsdd", root=fsdd_root, limit=limit)


class TestLoadData:
    def test_registered(self) -> None:
        assert {"folder", "fsdd"} <= {entry.name for entry in list_data()}

    def test_unknown_name(self) -> None:
        with pytest.raises(DataError, match=r"Unknown data set 'fsd'. Did you mean 'fsdd'?"):
            load_data("fsd")

    def test_no_root(self) -> None:
        with pytest.raises(DataError, match=r"'fsdd' lies on disk; pass its folder with --root DIR"):
            load_data("fsdd")

    def test_root_that_is_not_there_or_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"does not exist"):
            load_data("fsdd", root=tmp_path / "none")
        with pytest.raises(DataError, match=r"is a file, not a folder"):
            load_data("fsdd", root=write(tmp_path / "a.wav"))

    def test_unknown_option(self, fsdd_root: Path, class_root: Path) -> None:
        with pytest.raises(DataError, match=r"'fsdd' takes no options; 'fold' was given"):
            load_data("fsdd", root=fsdd_root, fold=1)
        with pytest.raises(DataError, match=r"Unknown option of folder 'fol'. Did you mean 'fold'?"):
            load_data("folder", root=class_root, fol=1)


class TestFsdd:
    def test_splits(self, fsdd_root: Path) -> None:
        expected = {"test": (0, 4), "validation": (5, 7), "train": (8, 49), "all": (0, 4, 5, 7, 8, 49)}
        for split, indices in expected.items():
            data = load_data("fsdd", root=fsdd_root, split=split)
            assert set(ids(data)) == {f"{digit}_ann_{index}.wav" for digit in range(10) for index in indices}
            assert all(data.labels[data.clip(i, SPEC).label] == data.clip(i, SPEC).id[0] for i in range(len(data)))

    def test_the_recordings_folder_itself_is_the_same_set(self, fsdd_root: Path) -> None:
        outer, inner = (load_data("fsdd", root=root) for root in (fsdd_root, fsdd_root / "recordings"))
        assert ids(outer) == ids(inner)
        assert outer.fingerprint() == inner.fingerprint()

    def test_wrong_tree(self, tmp_path: Path, class_root: Path) -> None:
        for root in (tmp_path, class_root):
            with pytest.raises(DataError, match=r"holds no recording of the data set of fsdd.*Expected recordings/"):
                load_data("fsdd", root=root)

    def test_partial_tree(self, fsdd_root: Path) -> None:
        for path in fsdd_root.glob("recordings/[37]_ann_4?.wav"):
            path.unlink()
        for path in fsdd_root.glob("recordings/3_ann_8.wav"):
            path.unlink()
        with pytest.raises(DataError, match=r"a part of fsdd only: the split 'train' lacks the digits 3"):
            load_data("fsdd", root=fsdd_root, split="train")
        for path in fsdd_root.glob("recordings/7_*"):
            path.unlink()
        with pytest.raises(DataError, match=r"a part of fsdd only: the data set lacks the digits 7"):
            load_data("fsdd", root=fsdd_root, split="test")

    def test_unknown_split(self, fsdd_root: Path) -> None:
        with pytest.raises(DataError, match=r"Unknown split of fsdd 'tset'. Did you mean 'test'?"):
            load_data("fsdd", root=fsdd_root, split="tset")


class TestFolder:
    @staticmethod
    def splits(root: Path, **options: int) -> dict[str, set[str]]:
        return {
            split: set(ids(load_data("folder", root=root, split=split, **options)))
            for split in ("train", "validation", "test", "all")
        }

    def test_splits_divide_the_set(self, class_root: Path) -> None:
        parts = self.splits(class_root)

        assert parts["train"] | parts["validation"] | parts["test"] == parts["all"]
        assert sum(len(parts[name]) for name in ("train", "validation", "test")) == len(parts["all"]) == 80
        for name in ("validation", "test"):
            classes = Counter(id.split("/")[0] for id in parts[name])
            assert classes["cat"] == classes["dog"] > 0  # takes of one name stay together

    def test_folds_are_every_file_once(self, class_root: Path) -> None:
        tests = [self.splits(class_root, fold=fold)["test"] for fold in range(1, 6)]

        assert sum(map(len, tests)) == 80
        assert len(set.union(*tests)) == 80
        assert self.splits(class_root, seed=1)["test"] != tests[0]
        expected = {f"cat/take{i}.wav" for i in range(40) if hash_fold(f"take{i}", folds=3, seed=0) == 2}
        assert {id for id in self.splits(class_root, fold=2, folds=3)["test"] if id[0] == "c"} == expected

    def test_a_new_file_moves_no_other_into_the_test_split(self, class_root: Path) -> None:
        before = self.splits(class_root)["test"]
        write(class_root / "cat/another.wav")

        assert self.splits(class_root)["test"] - {"cat/another.wav"} == before

    def test_esc_names_bring_their_folds_and_sources_stay_together(self, tmp_path: Path) -> None:
        names = [
            f"00{label} - {name}/{fold}-{label}{source}-{take}.wav"
            for label, name in ((1, "Dog bark"), (2, "Rain"))
            for fold in (1, 2, 3)
            for source in range(10 * fold, 10 * fold + 5)
            for take in "ABC"
        ]
        root = tree(tmp_path / "esc", names)

        data = load_data("folder", root=root)
        parts = self.splits(root, fold=2)

        assert data.labels == ("Dog bark", "Rain")
        assert all("/1-" in id for id in ids(data))
        assert all("/2-" in id for id in parts["test"])
        assert len(parts["test"]) == 30
        sources = {name: {id.split("-")[-2] for id in members} for name, members in parts.items()}
        assert not sources["train"] & sources["validation"]
        assert Counter(id[:3] for id in parts["validation"]) == {"001": 3, "002": 3}
        with pytest.raises(DataError, match=r"Unknown fold 4.*Allowed: 1, 2, 3"):
            load_data("folder", root=root, fold=4)
        with pytest.raises(DataError, match=r"folds=5, but the file names .* carry 3 folds"):
            load_data("folder", root=root, folds=5)

    @pytest.mark.parametrize("validation", [None, "validation", "val"])
    def test_train_and_test_folders_are_taken_as_they_stand(self, tmp_path: Path, validation: str | None) -> None:
        tops = ["train", "test", *([validation] if validation else [])]
        names = [f"{top}/{label}/{index}.wav" for top in tops for label in ("cat", "dog") for index in range(10)]
        root = tree(tmp_path / "own", names)

        parts = self.splits(root)

        assert load_data("folder", root=root).labels == ("cat", "dog")
        assert parts["test"] == {name for name in names if name.startswith("test/")}
        assert parts["all"] == set(names)
        if validation:
            assert parts["validation"] == {name for name in names if name.startswith("val")}
            assert len(parts["train"]) == 20
        else:
            assert Counter(id.split("/")[1] for id in parts["validation"]) == {"cat": 1, "dog": 1}
            assert parts["train"] | parts["validation"] == {name for name in names if name.startswith("train/")}
        with pytest.raises(DataError, match=r"has train and test folders, so there are no folds"):
            load_data("folder", root=root, fold=1)

    def test_classes_called_train_and_test(self, tmp_path: Path) -> None:
        root = tree(tmp_path, [f"{label}/{index}.wav" for label in ("train", "test", "tram") for index in range(9)])
        assert load_data("folder", root=root, split="all").labels == ("test", "train", "tram")

    def test_a_test_class_never_trained_on(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["train/cat/0.wav", "train/dog/0.wav", "test/cats/0.wav"])
        with pytest.raises(DataError, match=r"Unknown class 'cats'. Did you mean 'cat'?"):
            load_data("folder", root=root)

    def test_notes_and_hidden_files_are_left_aside_and_deeper_files_found(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["cat/ann/0.wav", "cat/1.WAV", "dog/0.flac", ".git/x/0.wav", "dog/.old/1.wav"])
        for name in ("README.md", "cat/notes.txt", "dog/.hidden.wav"):
            (root / name).write_text("not audio")

        assert ids(load_data("folder", root=root, split="all")) == ["cat/1.WAV", "cat/ann/0.wav", "dog/0.flac"]

    def test_numbers_stay_where_names_would_clash(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["1 - bell/0.wav", "2 - bell/0.wav"])
        assert load_data("folder", root=root, split="all").labels == ("1 - bell", "2 - bell")

    @pytest.mark.parametrize(
        ("names", "pattern"),
        [
            ([], "holds 0 class folders; two or more are needed. Expected ROOT/{class}"),
            (["a.wav", "b.wav"], "holds 0 class folders"),
            (["cat/a.wav"], "holds 1 class folders"),
        ],
    )
    def test_too_few_classes(self, tmp_path: Path, names: list[str], pattern: str) -> None:
        with pytest.raises(DataError, match=pattern):
            load_data("folder", root=tree(tmp_path, names))

    def test_an_empty_class(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["cat/a.wav", "dog/a.wav"])
        (root / "bird").mkdir()
        with pytest.raises(DataError, match=r"class folder .*bird holds no audio file, but nothing"):
            load_data("folder", root=root)
        (root / "bird/song.mid").touch()
        with pytest.raises(DataError, match=r"class folder .*bird holds no audio file, but 1 other files"):
            load_data("folder", root=root)

    def test_too_few_files_to_divide(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["cat/a.wav", "dog/a.wav"])
        fold = hash_fold("a", folds=5, seed=0)
        assert len(load_data("folder", root=root, fold=fold)) == 2
        with pytest.raises(DataError, match=r"split 'train' .* is empty"):
            load_data("folder", root=root, fold=fold, split="train")
        with pytest.raises(DataError, match=r"split 'test' .* is empty: too few files to divide.*'all'"):
            load_data("folder", root=root, fold=fold % 5 + 1)

    def test_a_class_wholly_in_the_test_fold(self, tmp_path: Path) -> None:
        root = tree(tmp_path, ["cat/a.wav", *(f"dog/{index}.wav" for index in range(30))])
        with pytest.raises(DataError, match=r"No file of cat is left to train on"):
            load_data("folder", root=root, fold=hash_fold("a", folds=5, seed=0), split="train")

    @pytest.mark.parametrize("options", [{"fold": 6}, {"fold": 0}, {"fold": 4, "folds": 3}, {"folds": 1}])
    def test_folds_that_cannot_be(self, class_root: Path, options: dict[str, int]) -> None:
        with pytest.raises(DataError, match=r"Unknown fold|two or more are needed"):
            load_data("folder", root=class_root, **options)


class TestSingleFile:
    def test_labelled_and_not(self, tmp_path: Path) -> None:
        path = write(tmp_path / "bark.wav")

        assert int(single_file(path, "dog", ("cat", "dog")).clip(0, SPEC).label) == 1
        clip = single_file(path, None, ("cat", "dog")).clip(0, SPEC)
        assert (clip.id, int(clip.label)) == ("bark.wav", UNLABELLED)

    def test_unknown_class(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"Unknown class 'dgo'. Did you mean 'dog'?"):
            single_file(write(tmp_path / "a.wav"), "dgo", ("cat", "dog"))

    def test_bad_file_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"does not exist"):
            single_file(tmp_path / "none.wav", None, ("cat", "dog"))


@pytest.mark.data
class TestRealRecordings:
    def test_fsdd(self, real_data: Path) -> None:
        counts = {split: len(load_data("fsdd", root=real_data / "fsdd", split=split)) for split in ("train", "test")}
        validation = load_data("fsdd", root=real_data / "fsdd", split="validation")

        assert counts == {"train": 2520, "test": 300}
        assert len(validation) == 180
        clip = validation.clip(0, VictimSpec("toy", validation.labels))
        assert 0.01 < float(clip.inputs["audio"].abs().max()) <= 1.0

    def test_esc10(self, real_data: Path) -> None:
        root = real_data / "esc10"
        parts = {split: load_data("folder", root=root, split=split) for split in ("train", "validation", "test", "all")}

        assert [len(parts[name]) for name in ("all", "test")] == [398, 79]
        assert parts["test"].labels[:2] == ("Dog bark", "Rain")
        assert len(parts["test"].labels) == 10
        assert len(parts["train"]) + len(parts["validation"]) == 398 - 79
        names = {split: set(map(source, ids(data))) for split, data in parts.items()}
        assert not names["train"] & names["validation"]
        assert not names["test"] & (names["train"] | names["validation"])


def source(id: str) -> str:
    """The Freesound id in an ESC name."""
    return id.split("/")[1].split("-")[1]
