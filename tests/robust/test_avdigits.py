"""Spoken and handwritten digits: who is paired with whom, and what a victim gets to see."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from robust.data import DataError, Subset, load_data
from robust.data.avdigits import VIDEO_SHAPE, AVDigits, images_of
from robust.types import Batch, VictimSpec

DIGITS = tuple("0123456789")
SPLITS = ("train", "validation", "test")


def spec(*modalities: str, shape: tuple[int, ...] | None = None) -> VictimSpec:
    shapes = {} if shape is None else {"video": shape}
    return VictimSpec("v", DIGITS, modalities=modalities, clip_seconds=0.25, shapes=shapes)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """FSDD in small: one speaker, twelve takes of every digit; digit d is a tone of 200 + 100 d Hz."""
    folder = tmp_path_factory.mktemp("fsdd")
    (folder / "recordings").mkdir()
    now = np.arange(800) / 8000
    for digit in range(10):
        for take in range(12):
            tone = 0.5 * np.sin(2 * np.pi * (200 + 100 * digit) * now)
            soundfile.write(folder / "recordings" / f"{digit}_kim_{take}.wav", tone, 8000)
    return folder


def opened(root: Path, split: str = "test", **options) -> AVDigits:
    data = load_data("avdigits", split=split, root=root, **options)
    assert isinstance(data, AVDigits)
    return data


class TestPairing:
    @pytest.mark.parametrize("split", SPLITS)
    def test_same_digit_and_own_split(self, root, split):
        data, speech = opened(root, split), load_data("fsdd", split=split, root=root)
        assert data.targets == list(speech.targets)
        written = load_digits().target
        assert [int(written[image]) for image in data.images] == data.targets
        others = {row for part in SPLITS if part != split for digit in range(10) for row in images_of(part, digit)}
        assert not others & set(data.images)

    def test_every_image_is_of_one_split(self):
        rows = [row for part in SPLITS for digit in range(10) for row in images_of(part, digit)]
        assert sorted(rows) == list(range(1797))
        shares = [sum(len(images_of(part, digit)) for digit in range(10)) / 1797 for part in SPLITS]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.005)

    def test_no_image_twice_before_all_of_its_digit(self, root):
        for split in SPLITS:
            assert len(set(opened(root, split).images)) == len(opened(root, split))

    def test_a_clip_of_all_is_that_of_its_split(self, root):
        whole = opened(root, "all")
        pairs = {whole.clip(index, spec("audio")).id for index in range(len(whole))}
        parts = [opened(root, split) for split in SPLITS]
        assert pairs == {data.clip(index, spec("audio")).id for data in parts for index in range(len(data))}
        assert len(pairs) == 120

    def test_seed(self, root):
        first, again, other = opened(root), opened(root, seed=0), opened(root, seed=1)
        assert first.images == again.images
        assert first.images != other.images
        assert first.fingerprint() == again.fingerprint() != other.fingerprint()
        assert first.clip(0, spec("video")).id != other.clip(0, spec("video")).id


class TestClip:
    def test_both(self, root):
        data = opened(root)
        clip = data.clip(31, spec("audio", "video"))
        alone = load_data("fsdd", split="test", root=root).clip(31, spec("audio"))
        assert torch.equal(clip.inputs["audio"], alone.inputs["audio"])
        assert torch.equal(clip.valid["audio"], alone.valid["audio"])
        assert int(clip.label) == int(alone.label) == data.targets[31]
        assert clip.inputs["video"].shape == VIDEO_SHAPE
        assert clip.inputs["video"].dtype == torch.float32

    @pytest.mark.parametrize("modalities", [("audio",), ("video",), ("video", "audio")])
    def test_only_what_is_asked(self, root, modalities):
        clip = opened(root).clip(0, spec(*modalities))
        assert tuple(clip.inputs) == modalities
        assert clip.valid.keys() <= set(modalities)

    def test_video_is_the_image_held_still(self, root):
        data = opened(root)
        video = data.clip(7, spec("video")).inputs["video"]
        assert torch.equal(video, video[:1, :1].expand(VIDEO_SHAPE)), "the same in every frame and channel"
        assert video.is_contiguous()
        small = data.clip(7, spec("video", shape=(2, 3, 8, 8))).inputs["video"]
        wanted = load_digits().images[data.images[7]] / 16
        assert small[1, 2].numpy() == pytest.approx(wanted)
        # Bilinear by four, half-pixel centres: means of four pixels in the middle of four are means of the image.
        assert video[0, 0, 2:-2, 2:-2].mean().item() == pytest.approx(wanted.mean(), abs=0.1)

    def test_bilinear_values(self, root):
        """Between two pixel centres the value is the line between them."""
        data = opened(root)
        image = load_digits().images[data.images[7]] / 16
        double = data.clip(7, spec("video", shape=(1, 3, 16, 16))).inputs["video"][0, 0].numpy()
        rows = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
        across = np.array([np.interp(rows, np.arange(8), line) for line in image])
        wanted = np.array([np.interp(rows, np.arange(8), column) for column in across.T]).T
        assert double == pytest.approx(wanted, abs=1e-6)

    def test_range_over_the_set(self, root):
        data = opened(root, "all")
        videos = torch.stack([data.clip(index, spec("video")).inputs["video"] for index in range(len(data))])
        assert videos.min() == 0
        assert 0.9 < videos.max() <= 1

    def test_batches_and_subsets(self, root):
        data = Subset(opened(root), 20)
        batch = Batch.collate([data.clip(index, spec("audio", "video")) for index in range(20)])
        assert sorted(batch.labels.tolist()) == sorted(list(range(10)) * 2)
        assert len(set(batch.ids)) == 20
        assert batch.valid["video"].all()


class TestRefused:
    def test_unknown_names(self, root):
        with pytest.raises(DataError, match="split of avdigits"):
            opened(root, "tests")
        with pytest.raises(DataError, match="modality of avdigits"):
            opened(root).clip(0, spec("audio", "vidoe"))
        with pytest.raises(DataError, match="option of avdigits"):
            opened(root, sede=1)

    @pytest.mark.parametrize("seed", [1.5, "0", True, None])
    def test_seed_is_a_whole_number(self, root, seed):
        with pytest.raises(DataError, match="seed="):
            opened(root, seed=seed)

    @pytest.mark.parametrize("shape", [(3, 32, 32), (8, 1, 32, 32), (0, 3, 32, 32), (8, 3, 32, 0)])
    def test_impossible_shapes(self, root, shape):
        with pytest.raises(DataError, match=r"\(frames, 3, height, width\)"):
            opened(root).clip(0, spec("video", shape=shape))

    def test_no_root_or_a_wrong_one(self, tmp_path):
        with pytest.raises(DataError, match="--root"):
            load_data("avdigits")
        with pytest.raises(DataError, match="holds no recording"):
            load_data("avdigits", root=tmp_path)


@pytest.mark.data
class TestReal:
    def test_sizes_and_distinct_images(self, real_data):
        sizes = {split: len(opened(real_data / "fsdd", split)) for split in SPLITS}
        assert sizes == {"train": 2520, "validation": 180, "test": 300}
        assert len(set(opened(real_data / "fsdd", "test").images)) == 300

    def test_the_images_tell_the_digits(self, real_data):
        """Learned on the images of training, known again on those of test."""
        seen = {}
        for split in ("train", "test"):
            data = opened(real_data / "fsdd", split)
            clips = [data.clip(index, spec("video", shape=(1, 3, 8, 8))) for index in range(len(data))]
            seen[split] = np.stack([clip.inputs["video"][0, 0].flatten().numpy() for clip in clips]), data.targets
        found = LogisticRegression(max_iter=500).fit(*seen["train"]).score(*seen["test"])
        assert found > 0.85

    def test_an_epoch_takes_less_than_two_seconds(self, real_data):
        data = opened(real_data / "fsdd", "train")
        victim = VictimSpec("v", DIGITS, modalities=("audio", "video"))
        for index in range(len(data)):
            data.clip(index, victim)
        started = time.process_time()
        for index in range(len(data)):
            data.clip(index, victim)
        assert time.process_time() - started < 2
