"""Video: sound and frames in step whatever the container; Kinetics-Sounds and VGGSound from trees the test writes."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from robust.data import DataError, load_data, read_audio
from robust.data.kinetics_sounds import CLASSES_27, CLASSES_31
from robust.data.reading import ahead, read_batches, read_clips
from robust.data.video_io import read_video
from robust.data.video_streams import Excerpt
from robust.types import Batch, VictimSpec
from tests.robust.video_files import clock, grey, tone, write_video

RATE = 16_000
SMALL = (16, 16)


def read(path: Path, **options) -> Excerpt:
    return read_video(path, **{"clip_seconds": 1.0, "sample_rate": RATE, "frames": 8, "size": SMALL, **options})


def levels(excerpt: Excerpt) -> np.ndarray:
    assert excerpt.video is not None
    return excerpt.video.mean(axis=(1, 2, 3))


def spec(*modalities: str, frames: int = 4, seconds: float = 1.0) -> VictimSpec:
    return VictimSpec(
        "v", ("a", "b"), modalities=modalities, clip_seconds=seconds, shapes={"video": (frames, 3, 16, 16)}
    )


def every_frame(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times and levels of all frames, decoded plainly."""
    with av.open(str(path)) as container:
        zero = (container.start_time or 0) / av.time_base
        frames = list(container.decode(video=0))
        times = [frame.time - zero for frame in frames]
        return np.array(times), np.array([frame.to_ndarray(format="rgb24").mean() / 255 for frame in frames])


class TestInStep:
    FLASH = 1.24

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
    @pytest.mark.parametrize(("sound_start", "sight_start"), [(0.0, 0.0), (0.32, 0.0), (0.0, 0.32)])
    @pytest.mark.parametrize("start", [0.0, 0.8])
    def test_flash_and_click_fall_together(self, tmp_path, suffix, sound_start, sight_start, start):
        path = write_video(
            tmp_path / f"clip.{suffix}",
            seconds=2,
            picture=grey(lambda now: float(abs(now - self.FLASH) < 0.001)),
            times=[place / 25 for place in range(round(25 * sight_start), 50)],
            sound=lambda now: 0.9 * np.exp(-(((now - self.FLASH) / 0.002) ** 2)) * np.cos(3000 * (now - self.FLASH)),
            sound_start=sound_start,
        )
        excerpt = read(path, clip_seconds=1.0 if start else 2.0, start_seconds=start, frames=200)
        seconds = 1.0 if start else 2.0
        seen = np.flatnonzero(levels(excerpt) > 0.5)
        flash = start + (seen.mean() + 0.5) / 200 * seconds
        click = start + np.abs(excerpt.audio).argmax() / RATE
        assert abs(flash - click) < 0.02, "more than half a frame apart"
        assert len(seen) == pytest.approx(0.04 * 200 / seconds, abs=1), "one frame was lit"
        # Where no edit list takes the encoder's delay away, the file itself starts by that much earlier.
        assert flash == pytest.approx(self.FLASH, abs=0.02 + (1024 / 44_100 if suffix == "ts" else 0))

    @pytest.mark.parametrize("start", [0.0, 0.03, 0.31, 1.017, 1.73])
    def test_frames_are_the_nearest_by_time(self, tmp_path, start):
        """Against all frames decoded plainly; B-frames and groups of pictures of any length."""
        path = write_video(
            tmp_path / "clip.mp4", seconds=3, picture=clock(3), options={"crf": "10", "g": "40", "bf": "3"}
        )
        times, seen = every_frame(path)
        wanted = start + (np.arange(7) + 0.5) / 7
        nearest = np.abs(times[None] - wanted[:, None]).argmin(axis=1)
        found = levels(read(path, start_seconds=start, frames=7, sample_rate=None))
        assert found == pytest.approx(seen[nearest], abs=0.004)

    def test_variable_frame_rate(self, tmp_path):
        times = [0.0, 0.05, 0.1, 0.15, 0.7, 0.72, 0.74, 0.98]
        path = write_video(tmp_path / "clip.mkv", picture=clock(), times=times, options={"crf": "5"})
        found = (levels(read(path, frames=10, sample_rate=None)) - 0.1) / 0.8
        wanted = (np.arange(10) + 0.5) / 10
        nearest = [min(times, key=lambda moment: abs(moment - now)) for now in wanted]
        assert found == pytest.approx(nearest, abs=0.02)

    def test_start_is_the_same_as_cutting_afterwards(self, tmp_path):
        """A clip from the middle is that part of the whole file's sound."""
        generator = np.random.default_rng(0)
        noise = generator.uniform(-0.5, 0.5, 3 * 44_100)
        path = write_video(
            tmp_path / "clip.mov",
            seconds=3,
            picture=clock(3),
            sound=lambda now: noise[np.clip(np.round(now * 44_100).astype(int), 0, len(noise) - 1)],
            audio_codec="pcm_s16le",
        )
        whole = read(path, clip_seconds=3.0, frames=None).audio
        part = read(path, start_seconds=1.5, frames=None).audio
        assert np.abs(part - whole[24_000:40_000]).max() < 1e-4


class TestSound:
    @pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
    def test_same_as_the_audio_reader(self, tmp_path, rate):
        now = np.arange(2 * rate) / rate
        channels = np.stack([0.4 * np.sin(1000 * now), 0.3 * np.sin(3000 * now)], axis=1)
        soundfile.write(tmp_path / "sound.wav", channels, rate, subtype="FLOAT")
        assert read(tmp_path / "sound.wav", frames=None).audio == pytest.approx(
            read_audio(tmp_path / "sound.wav", RATE, clip_seconds=1.0), abs=1e-5
        )

    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "DOUBLE"])
    def test_full_scale_of_every_format_is_one(self, tmp_path, subtype):
        now = np.arange(RATE) / RATE
        soundfile.write(tmp_path / "sound.wav", 0.9 * np.sin(440 * now), RATE, subtype=subtype)
        assert read(tmp_path / "sound.wav", frames=None).audio == pytest.approx(
            0.9 * np.sin(440 * now), abs=0.01 if subtype == "PCM_U8" else 1e-4
        )

    def test_lossy_stereo(self, tmp_path):
        path = write_video(
            tmp_path / "clip.mp4", sound=lambda now: np.stack([0.6 * np.sin(2764 * now), np.zeros_like(now)])
        )
        audio = read(path, frames=None).audio
        wanted = 0.3 * np.sin(2764 * np.arange(RATE) / RATE)
        assert np.abs(audio - wanted)[800:-800].max() < 0.02

    def test_overshoot_is_clipped_and_the_rest_untouched(self, tmp_path):
        now = np.arange(RATE) / RATE
        samples = 1.2 * np.sin(440 * now)
        soundfile.write(tmp_path / "sound.wav", samples, RATE, subtype="FLOAT")
        audio = read(tmp_path / "sound.wav", frames=None).audio
        assert audio == pytest.approx(np.clip(samples, -1, 1), abs=1e-6)
        soundfile.write(tmp_path / "sound.wav", 1000 * samples, RATE, subtype="FLOAT")
        with pytest.raises(DataError, match="beyond 16"):
            read(tmp_path / "sound.wav", frames=None)

    def test_not_a_number_is_refused(self, tmp_path):
        samples = np.zeros(RATE)
        samples[500] = np.nan
        soundfile.write(tmp_path / "sound.wav", samples, RATE, subtype="FLOAT")
        with pytest.raises(DataError, match=r"sound\.wav holds NaN"):
            read(tmp_path / "sound.wav", frames=None)


class TestPicture:
    def test_middle_of_a_wide_picture(self, tmp_path):
        columns = np.zeros((32, 96, 3), dtype=np.uint8)
        columns[:, :32, 0] = columns[:, 32:64, 1] = columns[:, 64:, 2] = 255
        path = write_video(tmp_path / "clip.mp4", picture=lambda _: columns)
        video = read(path, sample_rate=None).video
        red, green, blue = video[:, :, :, 3:-3].mean(axis=(0, 2, 3))
        assert green > 0.9
        assert max(red, blue) < 0.1

    def test_middle_of_a_high_picture_enlarged(self, tmp_path):
        rows = np.zeros((96, 32, 3), dtype=np.uint8)
        rows[:32], rows[32:64], rows[64:] = (0, 0, 255), (255, 0, 0), (0, 255, 0)
        path = write_video(tmp_path / "clip.mp4", picture=lambda _: rows)
        video = read(path, sample_rate=None, size=(50, 50)).video
        assert video.shape == (8, 3, 50, 50)
        assert video[:, 0, 6:-6].mean() > 0.9
        assert video[:, 1:, 6:-6].max() < 0.2

    def test_range_and_type(self, tmp_path):
        generator = np.random.default_rng(0)
        noise = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        video = read(write_video(tmp_path / "clip.mp4", picture=lambda _: noise), sample_rate=None).video
        assert video.dtype == np.float32
        assert video.min() >= 0
        assert video.max() <= 1
        assert video.flags.c_contiguous


class TestPadding:
    def test_shorter_than_the_clip(self, tmp_path):
        path = write_video(tmp_path / "clip.mp4", seconds=0.5, picture=clock(), sound=tone())
        excerpt = read(path)
        assert excerpt.video_valid.tolist() == [True] * 4 + [False] * 4
        assert not excerpt.video[4:].any()
        assert excerpt.video[:4].any(axis=(1, 2, 3)).all()
        heard = int(excerpt.audio_valid.sum())
        assert 8000 <= heard <= 8000 + 800, "half a second, and what AAC adds"
        assert excerpt.audio_valid[:heard].all()
        assert not excerpt.audio[heard:].any()

    def test_before_a_stream_begins(self, tmp_path):
        path = write_video(
            tmp_path / "late.mkv",
            picture=clock(),
            times=[0.5 + place / 25 for place in range(12)],
            sound=tone(),
            audio_codec="pcm_s16le",
        )
        excerpt = read(path)
        assert excerpt.audio_valid.all()
        assert excerpt.video_valid.tolist() == [False] * 4 + [True] * 4

    def test_only_one_stream_reaches_the_excerpt(self, tmp_path):
        path = write_video(
            tmp_path / "clip.mkv", seconds=2, picture=clock(2), times=[0.0, 0.04, 0.08], sound=tone(), rate=RATE
        )
        excerpt = read(path, start_seconds=0.9)
        assert not excerpt.video_valid.any()
        assert excerpt.audio_valid.all()


class TestRefused:
    @pytest.fixture
    def good(self, tmp_path) -> bytes:
        generator = np.random.default_rng(0)
        path = write_video(
            tmp_path / "good.mp4",
            seconds=2,
            picture=lambda _: generator.integers(0, 256, (48, 64, 3), dtype=np.uint8),
            sound=tone(),
            container_options={"movflags": "faststart"},
        )
        return path.read_bytes()

    @pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.7])
    def test_truncated(self, tmp_path, good, share):
        """The index lies in front, so that the beginning is readable."""
        path = tmp_path / "short.mp4"
        path.write_bytes(good[: int(share * len(good))])
        with pytest.raises(DataError, match=r"short\.mp4 (is truncated|breaks off|cannot be read|has no audio stream)"):
            read(path, clip_seconds=2.0)

    def test_truncated_behind_the_excerpt(self, tmp_path, good):
        """What was not asked for is not looked at, as with sound files."""
        path = tmp_path / "short.mp4"
        path.write_bytes(good[: int(0.9 * len(good))])
        assert read(path, clip_seconds=0.5).video_valid.all()

    def test_without_its_index(self, tmp_path):
        path = write_video(tmp_path / "clip.mp4", picture=clock(), sound=tone())
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"clip\.mp4 cannot be read as video"):
            read(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "is empty"), (b"<html>not found</html>\n" * 50, "cannot be read"), (bytes(5000), "cannot be read")],
    )
    def test_no_video(self, tmp_path, content, reason):
        (tmp_path / "clip.mp4").write_bytes(content)
        with pytest.raises(DataError, match=rf"clip\.mp4 {reason}"):
            read(tmp_path / "clip.mp4")

    def test_a_playlist_reaches_no_network(self, tmp_path):
        (tmp_path / "clip.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(DataError, match=r"clip\.mp4"):
            read(tmp_path / "clip.mp4")

    def test_missing_and_folder(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            read(tmp_path / "none.mp4")
        with pytest.raises(DataError, match="is a directory"):
            read(tmp_path)

    def test_missing_stream(self, tmp_path):
        silent = write_video(tmp_path / "silent.mp4", picture=clock())
        blind = write_video(tmp_path / "blind.mp4", sound=tone())
        with pytest.raises(DataError, match=r"silent\.mp4 has no audio stream"):
            read(silent)
        with pytest.raises(DataError, match=r"blind\.mp4 has no video stream"):
            read(blind)
        assert read(silent, sample_rate=None).audio is None
        assert read(blind, frames=None).video is None

    def test_behind_the_end(self, tmp_path):
        path = write_video(tmp_path / "clip.mp4", picture=clock(), sound=tone())
        with pytest.raises(DataError, match=r"nothing between 5 s and 6 s: it ends at 1\.0"):
            read(path, start_seconds=5.0)

    @pytest.mark.parametrize(
        "options",
        [
            {"clip_seconds": 0.0},
            {"clip_seconds": float("nan")},
            {"start_seconds": -1.0},
            {"frames": 0},
            {"size": (0, 4)},
            {"clip_seconds": 1e-6},
            {"frames": None, "sample_rate": None},
        ],
    )
    def test_impossible_numbers(self, tmp_path, options):
        with pytest.raises(DataError):
            read(tmp_path / "any.mp4", **options)


def write_sets_clip(path: Path, level: float = 0.5, seconds: float = 0.4) -> None:
    write_video(path, seconds=seconds, picture=grey(lambda _: level, 16, 16), sound=tone(), fps=10, rate=RATE)


@pytest.fixture
def vggsound(tmp_path) -> Path:
    """Two classes, ten training clips each and two of test."""
    lines = []
    for label in ("playing violin, fiddle", "dog barking"):
        for place in range(12):
            name, part = f"{label[:3]}-_{place:07d}", "test" if place >= 10 else "train"
            quoted = f'"{label}"' if "," in label else label
            lines.append(f"{name},{place * 10},{quoted},{part}")
            write_sets_clip(tmp_path / "video" / f"{name}_{place * 10:06d}.mp4", 0.2 if label[0] == "d" else 0.8)
    (tmp_path / "vggsound.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


class TestVGGSound:
    def test_splits(self, vggsound):
        parts = {part: load_data("vggsound", split=part, root=vggsound) for part in ("train", "validation", "test")}
        assert {part: len(data) for part, data in parts.items()} == {"train": 18, "validation": 2, "test": 4}
        ids = [recording.id for data in parts.values() for recording in data.recordings]
        assert len(set(ids)) == 24
        assert len(load_data("vggsound", split="all", root=vggsound)) == 24
        assert parts["test"].labels == ("dog barking", "playing violin, fiddle")
        assert list(parts["validation"].targets) in ([0, 1], [1, 0])

    def test_clip_is_what_the_label_says(self, vggsound):
        data = load_data("vggsound", split="test", root=vggsound)
        for index, target in enumerate(data.targets):
            clip = data.clip(index, spec("audio", "video"))
            assert int(clip.label) == target
            assert clip.inputs["video"].shape == (4, 3, 16, 16)
            assert float(clip.inputs["video"][0].mean()) == pytest.approx((0.2, 0.8)[target], abs=0.03)
            assert clip.valid["video"].shape == (4, 3, 16, 16)
            assert clip.valid["video"][:, 0, 0, 0].tolist() == [True, True, False, False]
            assert clip.inputs["audio"].abs().max() > 0.4

    @pytest.mark.parametrize("modalities", [("audio",), ("video",), ("video", "audio")])
    def test_modalities(self, vggsound, modalities):
        clip = load_data("vggsound", split="test", root=vggsound).clip(0, spec(*modalities))
        assert tuple(clip.inputs) == modalities
        assert clip.valid.keys() == set(modalities)

    def test_batches_of_clips_of_any_length(self, vggsound):
        write_sets_clip(next((vggsound / "video").glob("dog*_000110.mp4")), seconds=1.2)
        data = load_data("vggsound", split="test", root=vggsound)
        batch = Batch.collate([data.clip(index, spec("audio", "video")) for index in range(4)])
        assert batch.inputs["video"].shape == batch.valid["video"].shape == (4, 4, 3, 16, 16)
        assert sorted(batch.valid["video"][:, :, 0, 0, 0].sum(1).tolist()) == [2, 2, 2, 4]

    def test_missing_clips_are_counted(self, vggsound, caplog):
        before = load_data("vggsound", split="validation", root=vggsound)
        gone = sorted((vggsound / "video").glob("dog*"))[:5]
        for path in gone:
            path.unlink()
        with caplog.at_level(logging.WARNING):
            data = load_data("vggsound", split="all", root=vggsound)
        assert len(data) == 19
        assert "5 of the 24 clips" in caplog.text
        after = {recording.id for recording in load_data("vggsound", split="train", root=vggsound).recordings}
        assert not after & {recording.id for recording in before.recordings}, "what is held out does not move"

    def test_clips_directly_in_the_root(self, vggsound):
        for path in (vggsound / "video").iterdir():
            path.rename(vggsound / path.name)
        assert len(load_data("vggsound", split="test", root=vggsound)) == 4

    def test_fingerprint_follows_content_not_place(self, vggsound):
        first = load_data("vggsound", split="test", root=vggsound).fingerprint()
        (vggsound / "video").rename(vggsound / "other")
        assert load_data("vggsound", split="test", root=vggsound).fingerprint() == first
        write_sets_clip(next((vggsound / "other").glob("dog*_000110.mp4")), 0.3)
        assert load_data("vggsound", split="test", root=vggsound).fingerprint() != first

    def test_refused(self, vggsound):
        with pytest.raises(DataError, match="split of vggsound"):
            load_data("vggsound", split="tset", root=vggsound)
        data = load_data("vggsound", split="test", root=vggsound)
        with pytest.raises(DataError, match="modality of vggsound"):
            data.clip(0, spec("audio", "logmel"))
        with pytest.raises(DataError, match="takes video of shape"):
            data.clip(0, VictimSpec("v", ("a",), modalities=("video",), shapes={"video": (3, 16, 16)}))
        for path in (vggsound / "video").iterdir():
            path.unlink()
        with pytest.raises(DataError, match=r"none of the 4 clips .* named \{YouTube id\}_\{start"):
            load_data("vggsound", split="test", root=vggsound)
        (vggsound / "vggsound.csv").unlink()
        with pytest.raises(DataError, match=r"vggsound\.csv is missing"):
            load_data("vggsound", split="test", root=vggsound)

    @pytest.mark.parametrize(
        "line",
        ["a,10,dog", "a,ten,dog,train", "a,10,dog,dev", "label,youtube_id,time_start,time_end,split", "a,10,b,c,train"],
    )
    def test_wrong_columns(self, tmp_path, line):
        (tmp_path / "vggsound.csv").write_text(f"a,1,dog,train\n{line}\n")
        with pytest.raises(DataError, match=r"line 2: .* Expected four columns"):
            load_data("vggsound", split="test", root=tmp_path)


def write_kinetics(root: Path, tables: dict[str, int], classes=("bowling", "tap dancing"), folder: str = "") -> Path:
    """Tables and clips: so many of each class, and one class that is not heard."""
    for table, count in tables.items():
        lines = ["label,youtube_id,time_start,time_end,split"]
        for label in (*classes, "yoga"):
            for place in range(count):
                source = f"{table[:2]}{label[:3]}{place:06d}"
                lines.append(f"{label},{source},{place},{place + 10},{table}")
                if label != "yoga":
                    write_sets_clip(root / folder.format(label=label) / f"{source}_{place:06d}_{place + 10:06d}.mp4")
        (root / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return root


class TestKineticsSounds:
    @pytest.mark.parametrize("folder", ["", "{label}", "train/{label}"])
    def test_official_splits(self, tmp_path, folder):
        root = write_kinetics(tmp_path, {"train": 2, "validate": 1, "test": 1}, folder=folder)
        parts = {part: load_data("kinetics-sounds", split=part, root=root) for part in ("train", "validation", "test")}
        assert [len(data) for data in parts.values()] == [4, 2, 2]
        assert parts["test"].labels == CLASSES_31
        assert {data.labels[target] for data in parts.values() for target in data.targets} == {"bowling", "tap dancing"}
        assert all(
            part[:2] in recording.id.split("/")[1] for part, data in parts.items() for recording in data.recordings
        )
        clip = parts["train"].clip(0, spec("audio", "video"))
        assert clip.inputs["video"].shape == (4, 3, 16, 16)

    def test_without_a_test_table(self, tmp_path):
        root = write_kinetics(tmp_path, {"train": 10, "validate": 1})
        sizes = {
            part: len(load_data("kinetics-sounds", split=part, root=root)) for part in ("train", "validation", "test")
        }
        assert sizes == {"train": 18, "validation": 2, "test": 2}
        test = load_data("kinetics-sounds", split="test", root=root)
        assert all("/va" in recording.id for recording in test.recordings)

    def test_27_classes(self, tmp_path):
        root = write_kinetics(tmp_path, {"train": 1, "validate": 1}, classes=("bowling", "mowing lawn"))
        data = load_data("kinetics-sounds", split="all", root=root, classes=27)
        assert data.labels == CLASSES_27
        assert len(data) == 2
        assert len(load_data("kinetics-sounds", split="all", root=root)) == 4
        with pytest.raises(DataError, match="27 or 31"):
            load_data("kinetics-sounds", split="all", root=root, classes=34)

    def test_class_lists(self):
        assert len(set(CLASSES_27)) == 27
        assert len(set(CLASSES_31)) == 31
        assert set(CLASSES_27) < set(CLASSES_31)
        assert list(CLASSES_31) == sorted(CLASSES_31)

    def test_wrong_trees(self, tmp_path):
        with pytest.raises(DataError, match=r"lacks train\.csv"):
            load_data("kinetics-sounds", root=tmp_path)
        header = "label,youtube_id,time_start,time_end,split\n"
        (tmp_path / "train.csv").write_text(header + "bowling,a,0,10,train\n")
        with pytest.raises(DataError, match=r"lacks validate\.csv or test\.csv"):
            load_data("kinetics-sounds", root=tmp_path)
        (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end\na,0,10\n")
        with pytest.raises(DataError, match=r"test\.csv lacks the columns label"):
            load_data("kinetics-sounds", root=tmp_path)
        (tmp_path / "test.csv").write_text(header + "yoga,a,0,10,test\n")
        with pytest.raises(DataError, match=r"test\.csv names no clip of a class"):
            load_data("kinetics-sounds", root=tmp_path)
        (tmp_path / "test.csv").write_text(header + "bowling,a,0,10,test\n")
        with pytest.raises(DataError, match="holds none of the 1 clips of the split 'test'"):
            load_data("kinetics-sounds", root=tmp_path)


class TestReading:
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_order_and_result_do_not_depend_on_workers(self, vggsound, workers):
        data, victim = load_data("vggsound", split="test", root=vggsound), spec("audio", "video")
        order = [3, 0, 2, 1, 3]
        clips = list(read_clips(data, victim, order, workers=workers))
        assert [clip.id for clip in clips] == [data.recordings[index].id for index in order]
        for clip, index in zip(clips, order, strict=True):
            alone = data.clip(index, victim)
            assert all(torch.equal(clip.inputs[name], alone.inputs[name]) for name in victim.modalities)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_batches(self, vggsound, workers):
        data, victim = load_data("vggsound", split="train", root=vggsound), spec("audio")
        batches = [range(0, 7), range(7, 8), [], range(8, 18)]
        found = list(read_batches(data, victim, batches, workers=workers))
        assert [list(indices) for indices, _ in found] == [list(batch) for batch in batches if batch]
        for indices, clips in found:
            assert [clip.id for clip in clips] == [data.recordings[index].id for index in indices]

    def test_a_bad_clip_is_told_in_its_place(self, vggsound):
        data = load_data("vggsound", split="test", root=vggsound)
        data.recordings[2].path.write_bytes(b"nothing")
        clips = read_clips(data, spec("audio"), range(4), workers=2)
        assert [next(clips).id, next(clips).id] == [recording.id for recording in data.recordings[:2]]
        with pytest.raises(DataError, match=data.recordings[2].path.name):
            next(clips)

    def test_no_more_than_depth_at_a_time(self):
        lock, held, most = threading.Lock(), 0, 0

        def read_one(item: int) -> int:
            nonlocal held, most
            with lock:
                held += 1
                most = max(most, held)
            time.sleep(0.001)
            return item

        for item in ahead(read_one, range(100), workers=3, depth=5):
            assert item >= 0
            with lock:
                held -= 1
        assert 3 <= most <= 6

    def test_reads_side_by_side(self):
        """Two threads meet in `read`: with one at a time the barrier would break."""
        barrier = threading.Barrier(2)
        assert list(ahead(lambda item: (barrier.wait(timeout=20), item)[1], range(6), workers=2)) == list(range(6))

    def test_stops_reading_when_closed(self):
        taken: list[int] = []
        results = ahead(lambda item: taken.append(item), range(1000), workers=2)
        next(results)
        results.close()
        count = len(taken)
        assert count < 20
        time.sleep(0.02)
        assert len(taken) == count

    def test_workers_must_be_positive(self):
        with pytest.raises(ValueError, match="at least 1"):
            list(ahead(str, [1], workers=0))
