"""`events-wake`: the voice, the clips, the cache, streams, and other people's voices."""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from robust.data import load_data
from robust.data.wake_clip import PER_WAKE, SAMPLES, SPEAKERS, labels_of, render, speaker_of
from robust.data.wake_phonemes import CODAS, CONFUSABLE, NUCLEI, ONSETS, ORDINARY, PHONEMES, WAKE, spelt
from robust.data.wake_stream import wake_stream
from robust.data.wake_voice import SAMPLE_RATE, Speaker, draw_speaker, speak
from robust.errors import DataError
from robust.types import VictimSpec

SPEC = VictimSpec("toy", ("other", "wake"), clip_seconds=1.6)
MAN = Speaker(110.0, 1.0, 1.0, 0.01, 0.7, 0.6, 0.0, (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    return np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), power


class TestVoice:
    @pytest.mark.parametrize(("vowel", "first", "second"), [("IY", 270, 2290), ("AA", 730, 1090), ("UW", 300, 870)])
    def test_vowels_have_their_formants(self, vowel, first, second):
        # Breath instead of voice: a smooth spectrum whose peaks are the formants.
        whisper = Speaker(110.0, 1.0, 0.25, 30.0, 0.7, 0.6, 0.0, (1.0, 1.0, 1.0))
        sound = speak(spelt(vowel), whisper, np.random.default_rng(0))
        hertz, power = spectrum(sound[len(sound) // 4 : -len(sound) // 4])
        smooth = np.convolve(power, np.hanning(61), mode="same")
        middle = (first + second) / 2
        for formant, low, high in ((first, 120, middle), (second, middle, second + 600)):
            inside = (hertz > low) & (hertz < high)
            peak = hertz[inside][np.argmax(smooth[inside])]
            assert abs(peak - formant) < 0.12 * formant + 30

    def test_sibilants_are_bright_and_vowels_are_not(self):
        share = {}
        for phoneme in ("S", "AA"):
            hertz, power = spectrum(speak(spelt(phoneme), MAN, np.random.default_rng(0)))
            share[phoneme] = power[hertz > 4000].sum() / power.sum()
        assert share["S"] > 0.7
        assert share["AA"] < 0.1

    def test_pitch_is_the_speakers(self):
        sound = speak(spelt("AA"), Speaker(150.0, 1.0, 0.5, 0.0, 0.7, 0.6, 0.0, (1, 1, 1)), np.random.default_rng(1))
        part = sound[2000:-2000]
        correlation = np.correlate(part, part, "full")[len(part) :]
        lag = 50 + int(np.argmax(correlation[50:250])) + 1
        assert abs(SAMPLE_RATE / lag / 150.0 - 1) < 0.2

    @pytest.mark.parametrize("seed", range(6))
    def test_anybody_says_anything_finitely(self, seed):
        rng = np.random.default_rng(seed)
        sound = speak(WAKE, draw_speaker(rng), rng)
        assert 0.4 < len(sound) / SAMPLE_RATE < 1.1
        assert np.isfinite(sound).all()
        assert 0.7 < np.sqrt(np.mean(sound**2)) <= 1.05
        assert np.abs(sound[:20]).max() < 0.3  # no click at the onset

    def test_every_phrase_is_spelt_in_known_phonemes(self):
        phrases = [WAKE, *CONFUSABLE.values(), *ORDINARY.values(), tuple((*NUCLEI,) for _ in (1,))]
        used = {phoneme for phrase in phrases for syllable in phrase for phoneme in syllable}
        used |= {phoneme for part in (*ONSETS, *CODAS) for phoneme in part.split()}
        assert used <= PHONEMES.keys()
        assert WAKE not in {*CONFUSABLE.values(), *ORDINARY.values()}


class TestClips:
    def test_one_of_three_wakes_in_every_prefix(self):
        labels = labels_of(0, "train", 300)
        assert all(labels[first : first + PER_WAKE].sum() == 1 for first in range(0, 300, PER_WAKE))
        assert labels_of(0, "train", 100).tolist() == labels[:100].tolist()

    def test_clips_follow_from_seed_split_and_index_alone(self):
        clip = render(0, "test", 5, 1)
        assert clip.shape == (SAMPLES,)
        assert clip.dtype == np.int16
        assert np.array_equal(clip, render(0, "test", 5, 1))
        others = (render(1, "test", 5, 1), render(0, "train", 5, 1), render(0, "test", 6, 1), render(0, "test", 5, 0))
        assert not any(np.array_equal(clip, other) for other in others)

    def test_no_speaker_is_in_two_splits(self):
        voices = [speaker_of(0, split, number) for split, count in SPEAKERS.items() for number in range(count)]
        assert len({voice.pitch_hz for voice in voices}) == sum(SPEAKERS.values())

    def test_contract(self):
        data = load_data("events-wake", split="test", clips=9)
        assert (len(data), data.labels, data.task) == (9, ("other", "wake"), "multiclass")
        clip = data.clip(2, SPEC)
        assert clip.inputs["audio"].shape == clip.valid["audio"].shape == (25_600,)
        assert clip.inputs["audio"].dtype == torch.float32
        assert clip.inputs["audio"].abs().max() <= 1
        assert clip.id == data.clip_id(2, SPEC) == "events-wake-0-test-000002"
        assert int(clip.label) == data.targets[2]
        short = data.clip(2, VictimSpec("toy", data.labels, sample_rate=8000, clip_seconds=2.0))
        assert short.inputs["audio"].shape == (16_000,)
        assert int(short.valid["audio"].sum()) == 12_800
        with pytest.raises(IndexError):
            data.clip(9, SPEC)
        with pytest.raises(DataError, match="modality"):
            data.clip(0, VictimSpec("toy", data.labels, modalities=("video",)))

    def test_cached_and_mended(self, cache, monkeypatch):
        first = load_data("events-wake", split="test", clips=6)
        clip = first.clip(5, SPEC).inputs["audio"]
        (path,) = cache.rglob("*.npy")
        assert [file for file in cache.rglob("*") if file.is_file()] == [path]
        with monkeypatch.context() as patch:
            patch.setattr("robust.data.wake_cache.render_range", lambda *_: pytest.fail("made again"))
            again = load_data("events-wake", split="test", clips=4)
            assert torch.equal(again.clip(3, SPEC).inputs["audio"], first.clip(3, SPEC).inputs["audio"])
        assert again.fingerprint() != first.fingerprint()
        path.write_bytes(path.read_bytes()[:1000])
        mended = load_data("events-wake", split="test", clips=6)
        assert torch.equal(mended.clip(5, SPEC).inputs["audio"], clip)

    def test_a_cache_that_cannot_be_written_is_a_warning(self, cache):
        cache.write_text("no folder")
        with pytest.warns(UserWarning, match="ROBUST_CACHE"):
            data = load_data("events-wake", split="test", clips=2)
        assert data.clip(1, SPEC).inputs["audio"].any()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "tset"}, "Did you mean 'test'"),
            ({"split": "test", "clips": 0}, "clips=0"),
            ({"split": "test", "seed": -1}, "seed=-1"),
            ({"split": "test", "espeak": "yes"}, "espeak='yes'"),
        ],
    )
    def test_what_cannot_be_had_is_refused(self, options, message):
        with pytest.raises(DataError, match=message):
            load_data("events-wake", **options)


class TestEspeak:
    def test_absent_is_said(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(DataError, match="not on this machine"):
            load_data("events-wake", split="test", clips=3, espeak=True)

    def test_present_it_speaks(self, tmp_path, monkeypatch):
        """A stand-in that speaks the interface: a WAV of another rate on stdout, silence around the word."""
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "espeak-ng"
        program.write_text(
            f"#!{sys.executable}\n"
            "import io, sys, numpy, soundfile\n"
            "if '--version' in sys.argv: print('eSpeak NG text-to-speech: 1.52  Data at: nowhere'); sys.exit()\n"
            "assert sys.argv[-2] == '--' and '--stdout' in sys.argv and sys.argv[2].startswith('en+')\n"
            "sound = numpy.concatenate([numpy.zeros(4000), numpy.sin(numpy.arange(9000) / 9), numpy.zeros(4000)])\n"
            "content = io.BytesIO(); soundfile.write(content, sound, 22050, format='WAV')\n"
            "sys.stdout.buffer.write(content.getvalue())\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        data = load_data("events-wake", split="test", clips=3, espeak=True)
        assert data.clip_id(0, SPEC).startswith("events-wake-espeak-")
        wake = data.targets.index(1)
        hertz, power = spectrum(data.clip(wake, SPEC).inputs["audio"].numpy())
        assert abs(hertz[np.argmax(np.where(hertz > 300, power, 0))] - 22_050 / (2 * np.pi * 9)) < 20
        program.write_text("#!/bin/sh\nexit 3\n")
        with pytest.raises(DataError, match="failed"):
            load_data("events-wake", split="test", clips=3, espeak=True)


class TestStream:
    def test_the_wake_word_is_where_it_is_said_to_be(self):
        stream = wake_stream(0, 1.0)
        assert stream.audio.shape == (60 * SAMPLE_RATE,)
        assert stream.audio.dtype == np.float32
        assert np.abs(stream.audio).max() <= 1
        assert len(stream.onsets_s) == len(stream.offsets_s) >= 1
        assert (stream.offsets_s - stream.onsets_s > 0.4).all()
        assert (stream.onsets_s[1:] > stream.offsets_s[:-1]).all()
        assert stream.offsets_s[-1] <= 60
        assert np.array_equal(stream.audio, wake_stream(0, 1.0).audio)
        assert not np.array_equal(stream.audio, wake_stream(1, 1.0).audio)

    def test_bad_input(self):
        with pytest.raises(DataError, match="0 minutes"):
            wake_stream(0, 0)
        with pytest.raises(DataError, match="split"):
            wake_stream(0, 1, split="tests")


def test_files_written_by_the_test_are_real(tmp_path):
    # The set can leave the house: a clip as WAV is read back by the folder set as the same clip.
    data = load_data("events-wake", split="train", clips=12)
    for index in range(12):
        folder = tmp_path / "root" / data.labels[data.targets[index]]
        folder.mkdir(parents=True, exist_ok=True)
        samples = data.clip(index, SPEC).inputs["audio"].numpy()
        soundfile.write(folder / f"{index:02d}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    read = load_data("folder", split="all", root=tmp_path / "root")
    assert read.labels == ("other", "wake")
    ids = {read.clip_id(index, SPEC): index for index in range(12)}
    found = read.clip(ids[f"wake/{data.targets.index(1):02d}.wav"], SPEC)
    torch.testing.assert_close(found.inputs["audio"], data.clip(data.targets.index(1), SPEC).inputs["audio"])
