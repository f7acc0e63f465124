"""Front ends against independent implementations: transformers' extractor, librosa, convolutions."""

import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional

from robust.errors import VictimError
from robust.frontends.kaldi import KaldiFbank
from robust.frontends.logmel import LogMel
from robust.frontends.specaugment import SpecAugment

SAMPLE_RATE = 16_000
TIME = np.arange(SAMPLE_RATE) / SAMPLE_RATE


def noise(samples: int, level: float) -> np.ndarray:
    return level * np.random.default_rng(samples).standard_normal(samples)


WAVEFORMS = {
    "noise": noise(16_000, 0.1),
    "quiet": noise(16_000, 1e-3),
    "offset": 0.5 + noise(16_000, 0.1),
    "sine": np.sin(2 * np.pi * 440 * TIME),
    "sine of 16 bit": np.round(32_767 * np.sin(2 * np.pi * 3_000 * TIME)) / 32_768,
    "silence": np.zeros(16_000),
    "short": noise(700, 0.1),
    "one frame": noise(400, 0.1),
    "long": noise(180_000, 0.1),
}
LOUD = ("offset", "sine", "sine of 16 bit")
SETTINGS = [(64, 98), (128, 1024)]


def extracted(waveform: np.ndarray, n_mels: int, max_frames: int) -> np.ndarray:
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor(num_mel_bins=n_mels, max_length=max_frames)
    features = extractor(waveform.astype(np.float32), sampling_rate=SAMPLE_RATE, return_tensors="np")
    return features["input_values"][0]


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize(("n_mels", "max_frames"), SETTINGS)
@pytest.mark.parametrize("name", WAVEFORMS)
def test_kaldi_agrees_with_the_extractor(name, n_mels, max_frames):
    waveform = WAVEFORMS[name]
    expected = extracted(waveform, n_mels, max_frames)
    fbank = KaldiFbank(n_mels=n_mels, max_frames=max_frames)
    audio = torch.tensor(waveform, dtype=torch.float32).unsqueeze(0)
    single = fbank(audio)[0].numpy()
    double = fbank.double()(audio.double())[0].numpy()
    assert single.shape == (max_frames, n_mels)
    # Far in frequency from a full-scale sine or offset, energies stand near float32's rounding noise.
    np.testing.assert_allclose(single, expected, rtol=0, atol=5e-4 if name in LOUD else 1e-4)
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-4)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize(("n_mels", "max_frames"), SETTINGS)
def test_kaldi_agrees_on_real_recordings(n_mels, max_frames, real_data):
    import soundfile
    import soxr

    files = sorted(real_data.glob("fsdd/**/*.wav"))
    assert files
    fbank = KaldiFbank(n_mels=n_mels, max_frames=max_frames)
    for file in files[:: max(1, len(files) // 6)][:6]:
        samples, rate = soundfile.read(file)
        waveform = soxr.resample(samples, rate, SAMPLE_RATE)
        features = fbank(torch.tensor(waveform, dtype=torch.float32).unsqueeze(0))[0].numpy()
        np.testing.assert_allclose(features, extracted(waveform, n_mels, max_frames), rtol=0, atol=1e-4)


def tiny_fbank() -> KaldiFbank:
    return KaldiFbank(n_mels=4, max_frames=6, frame_length=24, hop_length=10, n_fft=32).double()


def tiny_log_mel() -> LogMel:
    return LogMel(sample_rate=SAMPLE_RATE, n_fft=32, hop_length=10, n_mels=4).double()


@pytest.mark.parametrize("build", [tiny_fbank, tiny_log_mel])
def test_gradients_are_those_of_finite_differences(build):
    audio = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(build(), (0.3 * audio).requires_grad_())


@pytest.mark.parametrize(
    "module",
    [
        KaldiFbank(n_mels=64, max_frames=98),
        LogMel(sample_rate=SAMPLE_RATE, n_fft=512, hop_length=160, n_mels=64, fmin=50),
    ],
    ids=["kaldi", "logmel"],
)
class TestBothFrontEnds:
    def test_silence_has_finite_gradients(self, module):
        audio = torch.zeros(2, 16_000)
        audio[1, 4_000:5_000] = torch.randn(1_000, generator=torch.Generator().manual_seed(0))
        audio.requires_grad_()
        features = module(audio)
        (gradient,) = torch.autograd.grad(features.sum(), audio)
        assert torch.isfinite(features).all()
        assert torch.isfinite(gradient).all()
        assert gradient[1].abs().max() > 0

    def test_nothing_is_stored_in_checkpoints(self, module):
        assert not module.state_dict()

    def test_input_is_left_alone_and_precision_kept_under_autocast(self, module):
        audio = torch.tensor(WAVEFORMS["noise"], dtype=torch.float32).unsqueeze(0)
        before = audio.clone()
        features = module(audio)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = module(audio)
        assert torch.equal(audio, before)
        assert torch.equal(features, mixed)

    def test_too_short_a_clip_is_refused(self, module):
        with pytest.raises(VictimError, match=r"Clips of 100 samples .* give longer clips"):
            module(torch.zeros(1, 100))


LOG_MELS = {
    "32k": {"sample_rate": 32_000, "n_fft": 1024, "hop_length": 320, "fmin": 50.0, "fmax": 14_000.0},
    "16k": {"sample_rate": 16_000, "n_fft": 512, "hop_length": 160, "fmin": 50.0, "fmax": 8_000.0},
}


@pytest.mark.parametrize("kind", LOG_MELS)
def test_log_mel_agrees_with_librosa_and_scipy(kind):
    librosa = pytest.importorskip("librosa")
    options = LOG_MELS[kind]
    waveform = noise(20_000, 0.1).astype(np.float32)
    log_mel = LogMel(**options, n_mels=64)
    rate = options["sample_rate"]
    filters = librosa.filters.mel(sr=rate, n_fft=options["n_fft"], n_mels=64, fmin=50.0, fmax=options["fmax"])
    np.testing.assert_allclose(log_mel.mel.numpy().T, filters, rtol=1e-6, atol=1e-9)
    size, hop = options["n_fft"], options["hop_length"]
    padded = np.pad(waveform.astype(float), size // 2, mode="reflect")
    frames = np.stack([padded[start : start + size] for start in range(0, len(padded) - size + 1, hop)])
    power = np.abs(np.fft.rfft(frames * signal.get_window("hann", size), axis=1)) ** 2
    expected = 10 * np.log10(np.maximum(power @ filters.T, 1e-10))
    np.testing.assert_allclose(log_mel(torch.tensor(waveform)[None])[0].numpy(), expected, rtol=0, atol=1e-3)


def test_upstream_buffers_are_the_front_end_as_convolutions():
    log_mel = LogMel(**LOG_MELS["16k"], n_mels=64)
    stored = log_mel.upstream_buffers()
    assert {key: tuple(value.shape) for key, value in stored.items()} == {
        "spectrogram_extractor.stft.conv_real.weight": (257, 1, 512),
        "spectrogram_extractor.stft.conv_imag.weight": (257, 1, 512),
        "logmel_extractor.melW": (257, 64),
    }
    real, imag, mel = stored.values()
    audio = torch.tensor(WAVEFORMS["noise"], dtype=torch.float32).view(1, 1, -1)
    padded = functional.pad(audio, (256, 256), mode="reflect")
    parts = [functional.conv1d(padded, weight, stride=160) for weight in (real, imag)]
    power = (parts[0] ** 2 + parts[1] ** 2)[0].T
    expected = 10 * torch.log10(torch.clamp(power @ mel, min=1e-10))
    torch.testing.assert_close(log_mel(audio[0])[0], expected, rtol=0, atol=1e-3)


class TestSpecAugment:
    features = torch.rand(16, 50, 30, generator=torch.Generator().manual_seed(1)) + 1.0

    def test_nothing_happens_outside_training(self):
        assert SpecAugment(time_width=10, freq_width=10).eval()(self.features) is self.features

    def test_blocks_are_blank_and_the_rest_is_untouched(self):
        masked = SpecAugment(time_width=10, freq_width=6, stripes=2)(self.features)
        blank = masked == 0
        assert torch.equal(masked[~blank], self.features[~blank])
        frames, bands = blank.all(dim=2).sum(dim=1), blank.all(dim=1).sum(dim=1)
        assert 0 < frames.max() <= 20
        assert 0 < bands.max() <= 12
        # Nothing is blank but whole frames and whole bands.
        assert torch.equal(blank, blank.all(dim=2, keepdim=True) | blank.all(dim=1, keepdim=True))
        assert len({tuple(row.tolist()) for row in blank.all(dim=2)}) > 8, "examples must not share their masks"

    def test_masks_repeat_with_the_seed_and_leave_the_global_generator_alone(self):
        state = torch.get_rng_state()
        first, second, other = (
            SpecAugment(time_width=10, freq_width=6, seed=seed)(self.features) for seed in (3, 3, 4)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)

    def test_width_zero_masks_nothing_and_a_huge_one_fits(self):
        assert torch.equal(SpecAugment(time_width=0, freq_width=0)(self.features), self.features)
        assert SpecAugment(time_width=999, freq_width=999)(self.features).shape == self.features.shape
