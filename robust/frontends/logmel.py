"""Log-mel spectrogram in decibels as a differentiable module, in the form in which PANNs take it.

Reference: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError

AUDIOSET_MEAN, AUDIOSET_STD = -27.248297, 37.681698
"""Of 20 log10(mel power) over AudioSet's training clips, as AudioSetDoneRight normalises by them (methods.md 1.1)."""


class LogMel(nn.Module):
    """Power spectrogram (periodic Hann window, centred frames, reflected edges), Slaney mel filters, 10 log10.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the window and in the DFT.
        hop_length: Samples between frames.
        n_mels: Number of mel filters.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz.
        amin: Floor of mel energies before the logarithm; -100 dB unless told.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int = 64,
        fmin: float = 0.0,
        fmax: float | None = None,
        amin: float = 1e-10,
    ) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.n_fft = n_fft
        self.hop_length = hop_length
        self.amin = amin
        with warnings.catch_warnings():
            # Narrow low filters between two bins are empty; upstream checkpoints were trained with exactly those.
            warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
            mel = mel_filter_bank(
                num_frequency_bins=n_fft // 2 + 1,
                num_mel_filters=n_mels,
                min_frequency=fmin,
                max_frequency=sample_rate / 2 if fmax is None else fmax,
                sampling_rate=sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )
        # Not persistent: both follow from the configuration, and 2 MB of embedded weights have better uses.
        self.register_buffer("mel", torch.as_tensor(mel, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft, periodic=True), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Decibels (B, 1 + T // hop_length, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short to reflect at their edges.
        """
        half = self.n_fft // 2
        if audio.shape[-1] <= half:
            raise VictimError(
                f"Clips of {audio.shape[-1]} samples are too short for a window of {self.n_fft}: "
                f"more than {half} are needed; give longer clips or pad them."
            )
        # Mixed precision would leave the power spectrum three digits; the front end costs little in full precision.
        with torch.autocast(audio.device.type, enabled=False):
            waveform = audio.to(self.window.dtype).unsqueeze(1)
            padded = functional.pad(waveform, (half, half), mode="reflect").squeeze(1)
            frames = padded.unfold(-1, self.n_fft, self.hop_length) * self.window  # (B, frames, n_fft)
            spectrum = torch.fft.rfft(frames)
            # Squares rather than abs(): its gradient at a silent bin is zero and not NaN.
            power = spectrum.real.square() + spectrum.imag.square()
            energies: Tensor = power @ self.mel
            return 10.0 * energies.clamp(min=self.amin).log10()

    @torch.no_grad()
    def upstream_buffers(self) -> dict[str, Tensor]:
        """What an upstream PANNs checkpoint stores for this very front end, under upstream's names.

        Returns:
            The windowed DFT as weights of two convolutions, each (n_fft // 2 + 1, 1, n_fft), and the mel filters
            (n_fft // 2 + 1, n_mels); float32.
        """
        bins = torch.arange(self.n_fft // 2 + 1).unsqueeze(1)
        samples = torch.arange(self.n_fft)
        # The phase is reduced as an integer, so that it stays exact for late samples of high bins.
        phase = (bins * samples % self.n_fft).double() * (2 * math.pi / self.n_fft)
        window = self.window.double().cpu()
        return {
            "spectrogram_extractor.stft.conv_real.weight": (phase.cos() * window).float().unsqueeze(1),
            "spectrogram_extractor.stft.conv_imag.weight": (-phase.sin() * window).float().unsqueeze(1),
            "logmel_extractor.melW": self.mel.float().cpu(),
        }
