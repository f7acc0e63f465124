"""diffusers' U-Nets as diffusion models of waveforms and of log-mel spectrograms.

A network is not asked for the noise itself but, at every step, for what has unit variance (Karras et al. 2022, their
preconditioning): asked for the noise, one that is a per cent off at the noisiest step is off by more than the sound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError, unknown
from defenses.diffusion import DiffusionModel, Schedule, shaped_like
from defenses.lapped import LappedTransform
from defenses.mel import MelDomain
from defenses.pointwise import with_pointwise


@dataclass(frozen=True)
class UNetSettings:
    """Configuration of a `UNetDiffusion`.

    Attributes:
        domain: `waveform`: 1-D U-Net over frames of `fold` MDCT coefficients (an orthonormal transform). `mel`: 2-D
            U-Net over a log-mel spectrogram.
        sample_rate: Hz.
        samples: Length of a clip.
        channels: Width of each level of the U-Net; each halves the resolution of the one before.
        layers: Layers of a level besides the first.
        fold: Waveform: coefficients in a frame, the channels of the network's input, and samples between frames.
        bands: Mel bands.
        scale: Waveform: gain from audio in [-1, 1] to the model's units.
        data_std: Standard deviation of the training clips in the model's units.
        mel_mean, mel_std: Mean and deviation of log-mel energies of the training clips.
        schedule, steps: Of the noise.
    """

    domain: Literal["waveform", "mel"] = "waveform"
    sample_rate: int = 16_000
    samples: int = 16_000
    channels: tuple[int, ...] = (96, 128, 128)
    layers: int = 0
    fold: int = 64
    bands: int = 32
    scale: float = 1.0
    data_std: float = 0.2
    mel_mean: float = -8.0
    mel_std: float = 4.0
    schedule: Literal["linear", "cosine"] = "linear"
    steps: int = 200

    def __post_init__(self) -> None:
        if self.domain not in ("waveform", "mel"):
            raise ThreatModelError(unknown("domain", self.domain, ("waveform", "mel")))
        for name in ("sample_rate", "samples", "fold", "bands", "scale", "data_std", "mel_std"):
            if not getattr(self, name) > 0:
                raise ThreatModelError(f"{name} must be above 0; given {getattr(self, name)}.")
        if self.fold % 2:
            raise ThreatModelError(f"fold must be even; given {self.fold}.")
        if not self.channels or any(width % 8 for width in self.channels):
            raise ThreatModelError(f"channels must be multiples of 8, one for each level; given {self.channels}.")


class UNetDiffusion(DiffusionModel):
    """diffusers' U-Net, one- or two-dimensional, preconditioned.

    Args:
        settings: Sizes.
        labels: Classes that can be asked for.
    """

    def __init__(self, settings: UNetSettings, labels: tuple[str, ...] = ()) -> None:
        super().__init__(Schedule(settings.schedule, settings.steps), settings.sample_rate, settings.samples, labels)
        self.settings, self.domain = settings, settings.domain
        self.scale = settings.scale if self.domain == "waveform" else 1.0
        self.mel = None if self.domain == "waveform" else _mel_domain(settings)
        self.lapped = LappedTransform(settings.fold) if self.mel is None else None
        self.network = with_pointwise(_frames_network(settings) if self.mel is None else _mel_network(settings))
        width = settings.channels[0] if self.mel is None else 4 * settings.channels[0]
        self.asked = nn.Linear(max(len(labels), 1), _LABEL_CHANNELS if self.mel is None else width, bias=False)
        self.multiple = 2 ** (len(settings.channels) - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples,) if self.mel is None else self.mel.shape

    def encode(self, clips: Tensor) -> Tensor:
        return super().encode(clips) if self.mel is None else self.mel.encode(clips)

    def decode(self, clips: Tensor, encoded: Tensor, cleaned: Tensor) -> Tensor:
        if self.mel is None:
            return super().decode(clips, encoded, cleaned)
        return self.mel.decode(clips, encoded, cleaned).clamp(-1.0, 1.0)

    def predict_noise(self, noisy: Tensor, step: Tensor | int, labels: Tensor | None = None) -> Tensor:
        steps = torch.as_tensor(step, device=noisy.device).expand(len(noisy))
        abar = shaped_like(self.abar(steps), noisy)
        signal, sigma = abar.sqrt(), ((1 - abar) / abar).sqrt()
        spread = (sigma.square() + self.settings.data_std**2).sqrt()
        # D = c_skip y + c_out F(c_in y) of Karras et al., with y = noisy / signal; the noise is (y - D) / sigma.
        answer = self._answer(noisy / (signal * spread), steps, labels)
        skipped = noisy / signal * (sigma / spread.square())
        return skipped - (self.settings.data_std / spread) * answer

    def target(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """What the network should answer: of unit variance at every step."""
        abar, std = shaped_like(self.abar(step), clean), self.settings.data_std
        sigma = ((1 - abar) / abar).sqrt()
        spread = (sigma.square() + std**2).sqrt()
        return (clean - (std / spread).square() * (clean + sigma * noise)) * spread / (sigma * std)

    def answer(self, noisy: Tensor, step: Tensor, labels: Tensor | None) -> Tensor:
        """What the network answers, to be held against `target`."""
        abar, std = shaped_like(self.abar(step), noisy), self.settings.data_std
        return self._answer(noisy / (1 - abar + abar * std**2).sqrt(), step, labels)

    def _answer(self, scaled: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        weights = self.asked.weight
        if labels is None:
            labels = torch.zeros(len(scaled), weights.shape[1], device=scaled.device)
        asked = self.asked(labels.to(weights.dtype))
        scaled, given = scaled.to(weights.dtype), scaled.dtype
        found = self._of_frames(scaled, steps, asked) if self.mel is None else self._of_mel(scaled, steps, asked)
        return found.to(given)

    def _of_frames(self, scaled: Tensor, steps: Tensor, asked: Tensor) -> Tensor:
        assert self.lapped is not None
        frames = self.lapped.analyse(scaled)
        count = frames.shape[2]
        levels = 0.5 * torch.log(frames.square() + LEVEL_FLOOR)
        told = torch.cat([frames, levels, asked[:, :, None].expand(-1, -1, count)], dim=1)
        told = nn.functional.pad(told, (0, -count % self.multiple))
        answer: Tensor = self.network(told, steps - 1, return_dict=False)[0][:, :, :count]
        # A gain for each coefficient, as of a Wiener filter, and what is to be added: convolutions do not multiply.
        gain, more = answer.chunk(2, dim=1)
        return self.lapped.synthesise(gain * frames + more, scaled.shape[1])

    def _of_mel(self, scaled: Tensor, steps: Tensor, asked: Tensor) -> Tensor:
        bands, frames = scaled.shape[1:]
        padded = nn.functional.pad(scaled, (0, -frames % self.multiple, 0, -bands % self.multiple))
        answer: Tensor = self.network(padded[:, None], steps - 1, class_labels=asked, return_dict=False)[0]
        return answer[:, 0, :bands, :frames]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "settings": asdict(self.settings)}


_LABEL_CHANNELS = 8
LEVEL_FLOOR = 1e-4  # of a squared coefficient of unit variance, -40 dB


def _mel_domain(settings: UNetSettings) -> MelDomain:
    return MelDomain(
        settings.sample_rate, settings.samples, settings.bands, mean=settings.mel_mean, std=settings.mel_std
    )


def _frames_network(settings: UNetSettings) -> nn.Module:
    from diffusers.models.unets.unet_1d import UNet1DModel

    levels = len(settings.channels)
    network: nn.Module = UNet1DModel(
        sample_size=-(-settings.samples // settings.fold),
        in_channels=2 * settings.fold,
        extra_in_channels=_LABEL_CHANNELS,
        out_channels=2 * settings.fold,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="silu",
        down_block_types=("DownResnetBlock1D",) * levels,
        mid_block_type="MidResTemporalBlock1D",
        up_block_types=("UpResnetBlock1D",) * levels,
        out_block_type=None,  # diffusers' would normalise once more, and all clips would leave at one level
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
    )
    return network


def _mel_network(settings: UNetSettings) -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    levels = len(settings.channels)
    network: nn.Module = UNet2DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers + 1,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=min(8, min(settings.channels) // 2),  # a channel alone would forget step and class
        add_attention=False,
        class_embed_type="identity",
    )
    return network


__all__ = ["UNetDiffusion", "UNetSettings"]
