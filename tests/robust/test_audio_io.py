"""Reading files: right samples from good ones, a clear refusal of bad ones."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from robust.data import RangeWarning, fit_length, read_audio
from robust.data.audio_io import check_audio
from robust.errors import DataError


def sine(rate: int, hz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, frames).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 16_000, subtype: str = "FLOAT", **options: str) -> Path:
    soundfile.write(path, audio, rate, subtype=subtype, **options)
    return path


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("aiff", "PCM_16")])
def test_integers_are_read_exactly(tmp_path: Path, suffix: str, subtype: str) -> None:
    integers = np.array([-32768, -1, 0, 1, 12345, 32767], dtype=np.int16)
    path = write(tmp_path / f"a.{suffix}", integers, subtype=subtype)

    audio = read_audio(path, 16_000)

    assert audio.dtype == np.float32
    np.testing.assert_array_equal(audio, integers / 32768.0)


def test_eight_channels_at_96_khz_become_the_same_sine_at_16_khz(tmp_path: Path) -> None:
    gains = np.linspace(0.6, 1.4, 8)  # mean 1
    path = write(tmp_path / "a.wav", sine(96_000, 440, 1.0)[:, None] * gains, 96_000)

    audio = read_audio(path, 16_000)

    assert audio.shape == (16_000,)
    inside = slice(200, -200)  # the ends of a sine that starts from nothing ring
    np.testing.assert_allclose(audio[inside], sine(16_000, 440, 1.0)[inside], atol=1e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(500, 1), noise(500, 2)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1))

    np.testing.assert_allclose(read_audio(path, 16_000), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("native_rate", [8_000, 11_025, 16_000, 44_100, 192_000])
def test_reading_the_beginning_equals_the_beginning_of_reading_all(tmp_path: Path, native_rate: int) -> None:
    path = write(tmp_path / "a.wav", noise(2 * native_rate), native_rate)

    part, whole = read_audio(path, 16_000, clip_seconds=0.5), read_audio(path, 16_000)

    assert part.shape == (8_000,)
    assert whole.shape == (32_000,)
    np.testing.assert_allclose(part, whole[:8_000], atol=2e-6)


def test_of_ten_minutes_only_the_beginning_is_read(tmp_path: Path) -> None:
    audio = np.zeros(600 * 8_000, dtype=np.float32)
    audio[: 4 * 8_000] = noise(4 * 8_000)
    audio[5 * 8_000 :] = np.nan  # would be refused if it were read
    path = write(tmp_path / "long.wav", audio, 8_000)

    assert read_audio(path, 16_000, clip_seconds=4.0).shape == (64_000,)
    with pytest.raises(DataError, match=r"NaN or infinite samples \(first at frame 40000, 5\.000 s\)"):
        read_audio(path, 16_000)


def test_a_flac_stream_of_unknown_length_is_read_where_it_is_long_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(70_000), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: the 36 bits of the number of samples, 0 = unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)

    assert len(read_audio(path, 16_000, clip_seconds=4.0)) == 64_000
    with pytest.raises(DataError, match=r"has no length in its header.*re-encode it"):  # libsndfile cannot find its end
        read_audio(path, 16_000)


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    path = write(tmp_path / "a.wav", noise(1000), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", claimed)
    path.write_bytes(content)

    assert len(read_audio(path, 16_000)) == 1000


def test_silence_is_a_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(441), 44_100, "PCM_16")

    np.testing.assert_array_equal(read_audio(path, 16_000), np.zeros(160))


@pytest.mark.parametrize("peak", [1.02, 4.0, 16.0])
def test_a_peak_above_one_is_scaled_with_a_warning(tmp_path: Path, peak: float) -> None:
    audio = noise(1000)
    audio *= np.float32(peak) / np.abs(audio).max()
    path = write(tmp_path / "hot.wav", audio)

    with pytest.warns(RangeWarning, match=rf"hot\.wav has a peak of {peak:.4g}, .* scaled by {1 / peak:.4g}\."):
        read = read_audio(path, 16_000)

    assert np.abs(read).max() == 1.0
    np.testing.assert_allclose(read, audio / np.float32(peak), rtol=1e-6)


def test_full_scale_is_in_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.array([1.0, -1.0, 0.25]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_audio(path, 16_000), np.float32([1.0, -1.0, 0.25]))


def test_overshoot_of_the_resampler_is_clipped_unseen(tmp_path: Path) -> None:
    square = np.sign(sine(8_000, 100, 0.5, 1.0) + 1e-9)
    path = write(tmp_path / "square.wav", square, 8_000)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio = read_audio(path, 44_100)

    assert np.abs(audio).max() == 1.0


def test_fit_length_pads_the_end_and_cuts_the_end() -> None:
    audio = np.float32([0.1, 0.2, 0.3])

    padded, valid = fit_length(audio, 5)
    np.testing.assert_array_equal(padded, np.float32([0.1, 0.2, 0.3, 0, 0]))
    np.testing.assert_array_equal(valid, [True, True, True, False, False])

    cut, valid = fit_length(audio, 2)
    np.testing.assert_array_equal(cut, np.float32([0.1, 0.2]))
    assert valid.all()
    cut[0] = 9
    assert audio[0] == np.float32(0.1)  # a copy, never a view of what others read


class TestRefusals:
    """Every one names the file, what was found and what to do."""

    @staticmethod
    def refused(path: Path, pattern: str, *, by_header: bool = True) -> None:
        with pytest.raises(DataError, match=pattern) as caught:
            read_audio(path, 16_000, clip_seconds=0.1)
        assert str(path) in str(caught.value)
        if by_header:
            with pytest.raises(DataError, match=pattern):
                check_audio(path)
        else:
            check_audio(path)

    def test_missing_file(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.wav", "does not exist")

    def test_directory(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "is a directory, not an audio file")

    def test_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        path.touch()
        self.refused(path, r"is empty \(0 bytes\)")

    def test_text_renamed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        path.write_text("Dear all,\nplease find attached\n" * 20)
        self.refused(path, r"not audio .*Format not recognised.*it holds text, beginning with 'Dear all,'.*Convert")

    def test_bytes_of_no_format(self, tmp_path: Path) -> None:
        path = tmp_path / "a.flac"
        path.write_bytes(np.random.default_rng(0).bytes(2000))
        self.refused(path, "is not audio that libsndfile can read")

    def test_headerless_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.raw"
        path.write_bytes(bytes(range(200)))
        self.refused(path, "is not audio that libsndfile can read")

    @pytest.mark.parametrize(
        ("suffix", "options"),
        [
            ("wav", {}),
            ("wav", {"endian": "BIG"}),  # RIFX
            ("aiff", {}),
            ("rf64", {"format": "RF64"}),
        ],
    )
    @pytest.mark.parametrize("lost_bytes", [1, 20_000])
    def test_truncated_file(self, tmp_path: Path, suffix: str, options: dict[str, str], lost_bytes: int) -> None:
        path = write(tmp_path / f"a.{suffix}", noise(16_000), subtype="PCM_16", **options)
        assert len(read_audio(path, 16_000)) == 16_000
        path.write_bytes(path.read_bytes()[:-lost_bytes])

        self.refused(path, f"is truncated: its header promises {lost_bytes} bytes more than the")

    def test_header_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", noise(1000), subtype="PCM_16")
        path.write_bytes(path.read_bytes()[:44])
        self.refused(path, "is truncated: its header promises 2000 bytes more")

    def test_damaged_stream(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.flac", noise(30_000), subtype="PCM_16")
        path.write_bytes(path.read_bytes()[:30_000])
        with pytest.raises(DataError, match=r"breaks off|is truncated"):
            read_audio(path, 16_000)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_samples_that_are_no_numbers(self, tmp_path: Path, bad: float) -> None:
        audio = np.stack([noise(1000), noise(1000)], axis=1)
        audio[800, 1] = bad
        path = write(tmp_path / "a.wav", audio)
        self.refused(path, r"NaN or infinite samples \(first at frame 800, 0\.050 s\)", by_header=False)

    def test_integers_stored_as_floats(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", np.round(noise(1000) * 32768))
        self.refused(path, r"peak of 16\d+; audio lies in \[-1, 1\].*divide them by 32768", by_header=False)

    def test_no_samples(self, tmp_path: Path) -> None:
        self.refused(write(tmp_path / "a.wav", noise(0)), "valid WAV file with no samples")

    def test_impossible_rate(self, tmp_path: Path) -> None:
        self.refused(write(tmp_path / "a.wav", noise(10), 1), "sample rate of 1 Hz")

    def test_less_than_one_sample_after_resampling(self, tmp_path: Path) -> None:
        self.refused(write(tmp_path / "a.wav", noise(1), 192_000), "shorter than one sample", by_header=False)

    def test_a_length_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"clip_seconds=0\.0 holds no sample"):
            read_audio(write(tmp_path / "a.wav", noise(10)), 16_000, clip_seconds=0.0)


def test_chunks_of_odd_length_before_the_samples_are_stepped_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(1000), subtype="PCM_16")
    content = path.read_bytes()
    at = content.index(b"data")
    path.write_bytes(content[:at] + b"junk" + struct.pack("<I", 3) + b"abc\0" + content[at:])
    assert len(read_audio(path, 16_000)) == 1000

    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"promises 10 bytes more"):
        read_audio(path, 16_000)
