"""Mel power spectrogram as a differentiable module, with the choices in which published front ends differ."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError


def mel_filters(
    *,
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    fmin: float,
    fmax: float,
    norm: Literal["slaney"] | None,
    mel_scale: Literal["slaney", "htk", "kaldi"],
    triangles_in_mel: bool = False,
) -> Tensor:
    """Filters (n_fft // 2 + 1, n_mels), float32; arguments as of `MelSpectrogram`."""
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        # Narrow low filters between two bins are empty; upstream checkpoints were trained with exactly those.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        filters = mel_filter_bank(
            num_frequency_bins=n_fft // 2 + 1,
            num_mel_filters=n_mels,
            min_frequency=fmin,
            max_frequency=fmax,
            sampling_rate=sample_rate,
            norm=norm,
            mel_scale=mel_scale,
            triangularize_in_mel_space=triangles_in_mel,
        )
    return torch.as_tensor(filters, dtype=torch.float32)


class MelSpectrogram(nn.Module):
    """Power spectrogram (Hann window) and mel filters, as torchaudio and librosa compute them.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the DFT.
        hop_length: Samples between frames.
        win_length: Samples in the window, which is centred in the DFT; `n_fft` when None.
        n_mels: Number of mel filters.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz; half the rate when None.
        norm: Filters of equal area (`slaney`) or of equal height (None).
        mel_scale: `slaney` (linear below 1 kHz), `htk` or `kaldi`.
        triangles_in_mel: Whether filters are triangles over mel, as Kaldi's, instead of over Hz.
        periodic: Whether the window is the periodic one, instead of the symmetric one.
        pad_mode: How clips are continued by half a DFT at both ends (`reflect`, `constant`); None: not at all, and the
            first frame begins with the clip.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        win_length: int | None = None,
        n_mels: int = 64,
        fmin: float = 0.0,
        fmax: float | None = None,
        norm: Literal["slaney"] | None = "slaney",
        mel_scale: Literal["slaney", "htk", "kaldi"] = "slaney",
        triangles_in_mel: bool = False,
        periodic: bool = True,
        pad_mode: Literal["reflect", "constant"] | None = "reflect",
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.pad_mode = n_fft, hop_length, pad_mode
        filters = mel_filters(
            sample_rate=sample_rate,
            n_fft=n_fft,
            n_mels=n_mels,
            fmin=fmin,
            fmax=sample_rate / 2 if fmax is None else fmax,
            norm=norm,
            mel_scale=mel_scale,
            triangles_in_mel=triangles_in_mel,
        )
        length = n_fft if win_length is None else win_length
        before = (n_fft - length) // 2
        window = functional.pad(torch.hann_window(length, periodic=periodic), (before, n_fft - length - before))
        # Not persistent: both follow from the configuration, and 2 MB of embedded weights have better uses.
        self.register_buffer("mel", filters, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Mel energies (B, frames, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are too short for a frame, or to be reflected at their edges.
        """
        least = self.n_fft if self.pad_mode is None else self.n_fft // 2 + 1
        if audio.shape[-1] < least:
            raise VictimError(
                f"Clips of {audio.shape[-1]} samples are too short for a window of {self.n_fft}: "
                f"more than {least - 1} are needed; give longer clips or pad them."
            )
        # Mixed precision would leave the power spectrum three digits; the front end costs little in full precision.
        with torch.autocast(audio.device.type, enabled=False):
            waveform = audio.to(self.window.dtype)
            if self.pad_mode is not None:
                half = self.n_fft // 2
                waveform = functional.pad(waveform.unsqueeze(1), (half, half), mode=self.pad_mode).squeeze(1)
            frames = waveform.unfold(-1, self.n_fft, self.hop_length) * self.window  # (B, frames, n_fft)
            spectrum = torch.fft.rfft(frames)
            # Squares rather than abs(): its gradient at a silent bin is zero and not NaN.
            power = spectrum.real.square() + spectrum.imag.square()
            energies: Tensor = power @ self.mel
            return energies
