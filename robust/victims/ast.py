"""`ast`: the Audio Spectrogram Transformer with its filterbank inside, and any Hugging Face checkpoint of it.

Reference: Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021; encoder and head are transformers'.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust.errors import CheckpointError, VictimError
from robust.frontends.kaldi import KaldiFbank
from robust.frontends.specaugment import SpecAugment
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.hub import first_line, labels_of, raw_config, task_of, unfitting, where
from robust.victims.registry import register

if TYPE_CHECKING:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

MODEL_TYPE = "audio-spectrogram-transformer"
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
FRAME_LENGTH, HOP_LENGTH = 400, 160  # samples; transformers' extractor has no others


@dataclass(frozen=True)
class AstSettings:
    """Configuration; the defaults are MIT/ast-finetuned-audioset-10-10-0.4593 (87 M parameters).

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_mels: Mel bands.
        max_frames: Frames to which the filterbank is cut or padded; there are 100 a second at 16 kHz.
        mean: Mean of the log-mel energies of the training set.
        std: Their standard deviation.
        patch_size: Height and width of a patch, in mel bands and frames.
        frequency_stride: Mel bands between patches.
        time_stride: Frames between patches.
        hidden_size: Width of the transformer, a multiple of `heads`.
        layers: Transformer layers.
        heads: Attention heads.
        intermediate_size: Width of the feed-forward layers.
        hidden_act: Their activation, by transformers' name.
        qkv_bias: Whether queries, keys and values have a bias.
        layer_norm_eps: Added to variances in layer normalisation.
        dropout: Dropout of hidden states, in training.
        attention_dropout: Dropout of attention weights, in training.
        time_mask: Greatest width of a SpecAugment block in frames, in training.
        freq_mask: Greatest width of a SpecAugment block in mel bands, in training.
        mask_stripes: SpecAugment blocks along each axis.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 10.24
    n_mels: int = 128
    max_frames: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    patch_size: int = 16
    frequency_stride: int = 10
    time_stride: int = 10
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    time_mask: int = 192
    freq_mask: int = 48
    mask_stripes: int = 1

    def check(self) -> None:
        """Raises `VictimError` for sizes that do not fit together."""
        if self.hidden_size % self.heads:
            raise VictimError(
                f"hidden_size={self.hidden_size} cannot be shared among heads={self.heads}; give a multiple of it."
            )
        if min(self.n_mels, self.max_frames) < self.patch_size:
            raise VictimError(
                f"n_mels={self.n_mels} and max_frames={self.max_frames} must hold a patch of {self.patch_size}."
            )
        if self.std <= 0:
            raise VictimError(f"std={self.std} must be positive.")

    def transformers_config(self, labels: tuple[str, ...]) -> ASTConfig:
        """The same in transformers' words."""
        from transformers import ASTConfig

        return ASTConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate_size,
            hidden_act=self.hidden_act,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.attention_dropout,
            layer_norm_eps=self.layer_norm_eps,
            patch_size=self.patch_size,
            qkv_bias=self.qkv_bias,
            frequency_stride=self.frequency_stride,
            time_stride=self.time_stride,
            max_length=self.max_frames,
            num_mel_bins=self.n_mels,
            id2label=dict(enumerate(labels)),
        )


SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "n_mels": 64,
    "max_frames": None,
    "hidden_size": 128,
    "layers": 4,
    "heads": 4,
    "intermediate_size": 512,
    "time_mask": 12,
    "freq_mask": 8,
}


class Ast(Victim):
    """Kaldi filterbank, transformers' AST encoder and its classifier; parameters are named as transformers names them.

    The latent is the encoder's pooled output, the mean of its two summary tokens.
    """

    def __init__(
        self, model: ASTForAudioClassification, *, labels: tuple[str, ...], task: Task, settings: AstSettings
    ) -> None:
        super().__init__(
            VictimSpec(
                name="ast",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.fbank = KaldiFbank(
            sample_rate=settings.sample_rate,
            n_mels=settings.n_mels,
            max_frames=settings.max_frames,
            mean=settings.mean,
            std=settings.std,
        )
        self.spec_augment = SpecAugment(
            time_width=settings.time_mask, freq_width=settings.freq_mask, stripes=settings.mask_stripes
        )
        self.audio_spectrogram_transformer = model.audio_spectrogram_transformer
        self.classifier = model.classifier
        self.config = asdict(settings)

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        features = self.spec_augment(self.fbank(inputs["audio"]))  # (B, frames, mels)
        latent = self.audio_spectrogram_transformer(features).pooler_output
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(fused)
        return logits


def load_ast(source: str) -> Victim:
    """Loads a Hugging Face AST checkpoint (safetensors only) with the front end that its preprocessor describes.

    The task is that of the checkpoint's `problem_type`; without one it is multilabel for AudioSet's 527 classes and
    multiclass otherwise.

    Args:
        source: A hub id such as `MIT/ast-finetuned-audioset-10-10-0.4593`, or a local directory.

    Raises:
        VictimError: If there is no such checkpoint, or it cannot be fetched.
        CheckpointError: If it is no AST, its weights are not all there, or its parts do not fit together.
    """
    raw = raw_config(source, "AST checkpoint")
    if raw.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{source} is a {raw.get('model_type')!r} checkpoint; `ast` loads {MODEL_TYPE!r} ones.")
    model = _model(source)
    config = model.config
    settings = _settings(source, config)
    return Ast(model, labels=labels_of(config), task=task_of(config), settings=settings).eval()


def _model(source: str) -> ASTForAudioClassification:
    """The model in fp32, with every weight from the checkpoint."""
    from transformers import ASTForAudioClassification

    try:
        model, info = ASTForAudioClassification.from_pretrained(
            source,
            use_safetensors=True,  # a pickle could run code
            output_loading_info=True,
            dtype=torch.float32,
            # As fast as the eager form on the small configuration and leaner on the full one.
            attn_implementation="sdpa",
        )
    except Exception as error:  # missing, unsafe and misshapen weights each raise something else
        raise CheckpointError(
            f"The weights of {source!r} cannot be loaded: {where(source)}. Only safetensors of the shapes in its "
            f"config.json are read; convert .bin files first. ({first_line(error)})"
        ) from error
    wrong = unfitting(info, ("missing_keys", "unexpected_keys"))
    if wrong:
        raise CheckpointError(f"The weights of {source!r} are not those of AST with a classifier: {wrong}.")
    return model


def _extractor(source: str, config: ASTConfig) -> ASTFeatureExtractor:
    """The checkpoint's preprocessor; AudioSet's normalisation where a directory has none."""
    from transformers import ASTFeatureExtractor

    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in PREPROCESSOR_FILES):
        return ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
    try:
        return ASTFeatureExtractor.from_pretrained(source)
    except Exception as error:  # a wrong guess at the normalisation would go unseen, so there is no default here
        raise CheckpointError(f"The preprocessor of {source!r} cannot be read. ({first_line(error)})") from error


def _settings(source: str, config: ASTConfig) -> AstSettings:
    """Settings from the checkpoint's configuration and from its preprocessor."""
    extractor = _extractor(source, config)
    if (extractor.num_mel_bins, extractor.max_length) != (config.num_mel_bins, config.max_length):
        raise CheckpointError(
            f"The preprocessor of {source!r} gives {extractor.max_length} frames of {extractor.num_mel_bins} mel "
            f"bands; its model takes {config.max_length} of {config.num_mel_bins}. Make the two agree."
        )
    normalised = extractor.do_normalize
    return AstSettings(
        sample_rate=extractor.sampling_rate,
        clip_seconds=extractor.max_length * HOP_LENGTH / extractor.sampling_rate,
        n_mels=extractor.num_mel_bins,
        max_frames=extractor.max_length,
        # The filterbank divides by twice the deviation, so these two leave it as it is.
        mean=extractor.mean if normalised else 0.0,
        std=extractor.std if normalised else 0.5,
        patch_size=config.patch_size,
        frequency_stride=config.frequency_stride,
        time_stride=config.time_stride,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        qkv_bias=config.qkv_bias,
        layer_norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
    )


@register(
    "ast",
    summary="Audio Spectrogram Transformer (Gong 2021), transformers' encoder; any Hugging Face AST checkpoint loads",
    family="transformer",
    parity="transformers itself (living reference)",
    small=SMALL,
    recipe={"learning_rate": 1e-3, "mixup_alpha": 0.0},
    pretrained=load_ast,
)
def build_ast(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained AST; `config` is that of `AstSettings`, where `max_frames=None` takes all that a clip has."""
    from transformers import AutoModelForAudioClassification

    settings = AstSettings(**{name: value for name, value in config.items() if value is not None})
    if "max_frames" in config and config["max_frames"] is None:
        frames = 1 + (round(settings.sample_rate * settings.clip_seconds) - FRAME_LENGTH) // HOP_LENGTH
        settings = replace(settings, max_frames=frames)
    settings.check()
    model = AutoModelForAudioClassification.from_config(
        settings.transformers_config(labels), attn_implementation="sdpa"
    )
    return Ast(model, labels=labels, task=task, settings=settings)
