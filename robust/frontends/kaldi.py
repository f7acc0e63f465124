"""Kaldi's log-mel filterbank as a differentiable module, as the Audio Spectrogram Transformer takes it.

Reference: Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021; transformers' `ASTFeatureExtractor`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError
from robust.frontends.mel import mel_filters

PREEMPHASIS = 0.97
FLOOR = 1.192092955078125e-07  # Kaldi's floor of mel energies: float32's epsilon


class KaldiFbank(nn.Module):
    """Normalised Kaldi log-mel filterbank of a batch of waveforms.

    Each frame loses its mean, is pre-emphasised, windowed (Hann, symmetric) and turned into mel energies whose natural
    logarithm is taken. Frames are cut to `max_frames`, or padded with zeros *before* (x - mean) / (2 std), as in AST.
    AST feeds samples in [-1, 1], not in 16-bit units, and so does this.

    Args:
        sample_rate: Hz.
        n_mels: Number of mel filters, from 20 Hz to the Nyquist frequency.
        max_frames: Frames in the output; None keeps as many as the clip has.
        mean: Mean of log-mel energies over the training set; AudioSet's unless told.
        std: Their standard deviation.
        frame_length: Samples in a frame.
        hop_length: Samples between the starts of frames.
        n_fft: Length of the DFT, at least `frame_length`.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        n_mels: int = 128,
        max_frames: int | None = 1024,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        frame_length: int = 400,
        hop_length: int = 160,
        n_fft: int = 512,
    ) -> None:
        super().__init__()
        from transformers.audio_utils import window_function

        self.max_frames = max_frames
        self.mean = mean
        self.std = std
        self.frame_length = frame_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        filters = mel_filters(
            sample_rate=sample_rate,
            n_fft=n_fft,
            n_mels=n_mels,
            fmin=20.0,
            fmax=sample_rate // 2,
            norm=None,
            mel_scale="kaldi",
            triangles_in_mel=True,
        )
        window = window_function(frame_length, "hann", periodic=False)
        # Not persistent: upstream checkpoints have no such entries, and both follow from the configuration.
        self.register_buffer("mel", filters, persistent=False)
        self.register_buffer("window", torch.as_tensor(window, dtype=torch.float32), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Features (B, frames, n_mels) of `audio` (B, T) in [-1, 1].

        Raises:
            VictimError: If the clips are shorter than one frame.
        """
        if audio.shape[-1] < self.frame_length:
            raise VictimError(
                f"Clips of {audio.shape[-1]} samples are shorter than one frame of {self.frame_length}; "
                "give longer clips or pad them."
            )
        # Mixed precision would leave the power spectrum three digits; the front end costs little in full precision.
        with torch.autocast(audio.device.type, enabled=False):
            log_mel = self._fit(self._log_mel(audio.to(self.window.dtype)))
            return (log_mel - self.mean) / (2 * self.std)

    def _log_mel(self, audio: Tensor) -> Tensor:
        """Natural logarithm of mel energies (B, frames, n_mels)."""
        # Pre-emphasis and removal of the mean are linear, so the waveform is filtered once rather than every
        # overlapping frame, and what the filter leaves of a frame's mean, (1 - 0.97) of it, is taken off afterwards.
        # Only a frame's first sample comes out otherwise than in Kaldi, and there the window is zero.
        emphasised = functional.pad(audio[:, 1:] - PREEMPHASIS * audio[:, :-1], (1, 0))
        frames = emphasised.unfold(-1, self.frame_length, self.hop_length)  # (B, frames, frame_length)
        means = functional.avg_pool1d(audio.unsqueeze(1), self.frame_length, self.hop_length).squeeze(1)
        frames = (frames - (1 - PREEMPHASIS) * means.unsqueeze(-1)) * self.window
        spectrum = torch.fft.rfft(frames, n=self.n_fft)
        # Squares rather than abs(): its gradient at a silent bin is zero and not NaN.
        power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = power @ self.mel
        return energies.clamp(min=FLOOR).log()

    def _fit(self, log_mel: Tensor) -> Tensor:
        """Cuts or zero-pads the frames to `max_frames`."""
        if self.max_frames is None:
            return log_mel
        missing = self.max_frames - log_mel.shape[1]
        if missing > 0:
            return functional.pad(log_mel, (0, 0, 0, missing))
        return log_mel[:, : self.max_frames]
