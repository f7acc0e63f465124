"""The feature extractors of Hugging Face's audio models as differentiable modules, each told by a few plain facts.

Facts are JSON - `kind`, and the arguments of that kind's module - so that a card holds them, and a checkpoint is
rebuilt without the directory it came from. Sources: transformers' extractors, whose numbers these give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust.errors import CheckpointError, VictimError, unknown
from robust.frontends.kaldi import KaldiFbank
from robust.frontends.logmel import decibels
from robust.frontends.mel import MelSpectrogram
from robust.victims.hub import first_line, where

VARIANCE_FLOOR = 1e-7
PADDINGS = ("repeatpad", "repeat", "pad")
FUSED = 4  # spectrograms of which CLAP's fusion takes one; those of a short clip are all the same


class Standardised(nn.Module):
    """Waveforms at zero mean and unit variance, or as they are: the wav2vec 2.0 family.

    Args:
        sample_rate: Hz.
        normalised: Whether anything is done at all.
    """

    input_name = "input_values"
    clip_seconds = 1.0

    def __init__(self, *, sample_rate: int, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised

    def forward(self, audio: Tensor) -> Tensor:
        """(B, T) from (B, T)."""
        if not self.normalised:
            return audio
        centred = audio - audio.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR)


class WhisperMel(MelSpectrogram):
    """Log-mel of clips brought to one length, at most 80 dB below their own peak, around 0: Whisper.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Mel bands.
        chunk_seconds: Length to which clips are cut or padded by silence.
    """

    input_name = "input_features"

    def __init__(self, *, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, chunk_seconds: float) -> None:
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, fmax=8_000.0)
        self.clip_seconds = chunk_seconds
        self.samples = round(chunk_seconds * sample_rate)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, n_mels, frames) from (B, T); the frame centred on the end is dropped."""
        log_mel = decibels(super().forward(_fitted(audio, self.samples))[:, :-1], multiplier=1.0)
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log_mel.transpose(1, 2) + 4.0) / 4.0


class ClapMel(MelSpectrogram):
    """Decibels of clips repeated to one length: CLAP, with fusion of long clips or without.

    Longer clips are cut to their beginning, where the extractor draws a part at random.

    Args:
        sample_rate: Hz.
        n_fft: Samples in the window.
        hop_length: Samples between frames.
        n_mels: Mel bands.
        fmin: Lower edge of the lowest filter, Hz.
        fmax: Upper edge of the highest filter, Hz.
        max_seconds: Length to which clips are brought.
        fusion: Whether the model fuses four spectrograms; its mel filters are others, too.
        padding: `repeatpad` (whole repetitions, then silence), `repeat`, or `pad` (silence).
    """

    input_name = "input_features"

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        fmin: float,
        fmax: float,
        max_seconds: float,
        fusion: bool,
        padding: str,
    ) -> None:
        if padding not in PADDINGS:
            raise VictimError(unknown("padding of CLAP", padding, PADDINGS))
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            fmin=fmin,
            fmax=fmax,
            norm=None if fusion else "slaney",
            mel_scale="htk" if fusion else "slaney",
        )
        self.clip_seconds, self.samples = max_seconds, round(max_seconds * sample_rate)
        self.fusion, self.padding = fusion, padding

    def forward(self, audio: Tensor) -> Tensor:
        """(B, 4 with fusion or else 1, frames, n_mels) from (B, T)."""
        whole = self.samples // audio.shape[1]
        if whole >= 1 and self.padding != "pad":
            audio = audio.repeat(1, whole + (self.padding == "repeat"))
        log_mel = decibels(super().forward(_fitted(audio, self.samples))).unsqueeze(1)
        return log_mel.expand(-1, FUSED if self.fusion else 1, -1, -1)


class AstFbank(KaldiFbank):
    """Kaldi's filterbank: the Audio Spectrogram Transformer. Arguments as of `KaldiFbank`."""

    input_name = "input_values"

    def __init__(self, *, sample_rate: int, n_mels: int, max_frames: int, mean: float, std: float) -> None:
        super().__init__(sample_rate=sample_rate, n_mels=n_mels, max_frames=max_frames, mean=mean, std=std)
        self.clip_seconds = max_frames * self.hop_length / sample_rate


def _fitted(audio: Tensor, samples: int) -> Tensor:
    """Clips cut or padded by silence to so many samples."""
    return functional.pad(audio, (0, samples - audio.shape[1]))


def _waveform_facts(extractor: Any) -> dict[str, Any]:
    return {"kind": "waveform", "normalised": bool(extractor.do_normalize)}


def _whisper_facts(extractor: Any) -> dict[str, Any]:
    return {
        "kind": "whisper",
        "n_fft": extractor.n_fft,
        "hop_length": extractor.hop_length,
        "n_mels": extractor.feature_size,
        "chunk_seconds": extractor.chunk_length,
    }


def _clap_facts(extractor: Any) -> dict[str, Any]:
    return {
        "kind": "clap",
        "n_fft": extractor.fft_window_size,
        "hop_length": extractor.hop_length,
        "n_mels": extractor.feature_size,
        "fmin": extractor.frequency_min,
        "fmax": extractor.frequency_max,
        "max_seconds": extractor.max_length_s,
        "fusion": extractor.truncation == "fusion",
        "padding": extractor.padding,
    }


def _ast_facts(extractor: Any) -> dict[str, Any]:
    normalised = extractor.do_normalize
    return {
        "kind": "ast",
        "n_mels": extractor.num_mel_bins,
        "max_frames": extractor.max_length,
        # The filterbank divides by twice the deviation, so these two leave it as it is.
        "mean": extractor.mean if normalised else 0.0,
        "std": extractor.std if normalised else 0.5,
    }


FRONT_ENDS: Mapping[str, Callable[..., nn.Module]] = {
    "waveform": Standardised,
    "whisper": WhisperMel,
    "clap": ClapMel,
    "ast": AstFbank,
}
"""Kind -> module."""

EXTRACTORS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "Wav2Vec2FeatureExtractor": _waveform_facts,
    "WhisperFeatureExtractor": _whisper_facts,
    "ClapFeatureExtractor": _clap_facts,
    "ASTFeatureExtractor": _ast_facts,
}
"""transformers' extractor -> the facts of one."""


def front_end(facts: Mapping[str, Any]) -> nn.Module:
    """The module of these facts; its `input_name` is the model's argument, `clip_seconds` the length it was made for.

    Raises:
        VictimError: If there is no such kind, or its arguments are others.
    """
    rest = dict(facts)
    kind = rest.pop("kind", None)
    if kind not in FRONT_ENDS:
        raise VictimError(unknown("front end", kind, FRONT_ENDS))
    try:
        return FRONT_ENDS[kind](**rest)
    except TypeError as error:
        raise VictimError(f"The front end {kind!r} does not take {rest}: {error}.") from error


def facts_of(source: str) -> dict[str, Any]:
    """Facts of the feature extractor of a checkpoint.

    Args:
        source: A hub id or a local directory.

    Raises:
        CheckpointError: If it has none - a wrong guess at the normalisation would go unseen - or an unknown one.
    """
    from transformers import AutoFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(source)
    except Exception as error:  # missing, damaged and foreign files each raise something else
        raise CheckpointError(
            f"The preprocessor of {source!r} cannot be read: {where(source)}. Without preprocessor_config.json it "
            f"is not known what its model was trained to hear. ({first_line(error)})"
        ) from error
    name = type(extractor).__name__
    if name not in EXTRACTORS:
        raise CheckpointError(unknown("feature extractor", name, EXTRACTORS))
    return {"sample_rate": extractor.sampling_rate, **EXTRACTORS[name](extractor)}
