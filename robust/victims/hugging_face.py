"""`hf:ID-OR-DIR`: transformers' audio classifiers, attacked at the waveform through a differentiable front end.

Source: transformers. Its feature extractors work in NumPy and end every gradient; the front ends here give the same
numbers (`robust.victims.hugging_face_front_ends`), and the models are transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError, unknown
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.hub import first_line, labels_of, raw_config, task_of, unfitting, where
from robust.victims.hugging_face_front_ends import facts_of, front_end
from robust.victims.probe import probe_inputs
from robust.victims.registry import VictimEntry, register_open
from robust.victims.unused import freeze_unused

PREFIX = "hf"
PARITY = "transformers' extractor and model (living reference)"
RECIPE = {"learning_rate": 3e-4, "weight_decay": 0.01, "mixup_alpha": 0.1}
CLAP = "clap"

MODEL_TYPES: Mapping[str, str] = {
    "audio-spectrogram-transformer": "ast",
    CLAP: "clap",
    "data2vec-audio": "waveform",
    "hubert": "waveform",
    "sew": "waveform",
    "sew-d": "waveform",
    "unispeech": "waveform",
    "unispeech-sat": "waveform",
    "wav2vec2": "waveform",
    "wav2vec2-conformer": "waveform",
    "wavlm": "waveform",
    "whisper": "whisper",
}
"""`model_type` of a checkpoint that can be loaded -> kind of its front end."""

HEAD = ("classifier.", "projector.", "layer_weights")
"""Beginnings of the entries that a checkpoint without a classifier lacks."""
OTHER_HEADS = (
    *HEAD,
    *("decoder.", "model.decoder.", "proj_out.", "lm_head."),  # of recognition
    *("quantizer.", "project_q.", "project_hid.", "final_proj.", "speaker_proj."),  # of pretraining
    *("text_model.", "text_projection.", "logit_scale"),  # of CLAP
)
"""Beginnings of the entries that it may have beyond an encoder's."""
QUIET = {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False}
"""Training's randomness from global generators other than dropout's; switched off."""


@dataclass(frozen=True)
class HuggingFaceSettings:
    """Configuration.

    Attributes:
        clip_seconds: Length of a clip; None: 1 s for models of the waveform, and what the extractor pads to for those
            of spectrograms (Whisper 30 s, CLAP 10 s, AST 10.24 s). Shorter clips are padded inside.
        architecture: transformers' configuration, and
        front_end: facts of the extractor, as a card tells them; None: from the checkpoint, whose weights are taken.
    """

    clip_seconds: float | None = None
    architecture: Mapping[str, Any] | None = None
    front_end: Mapping[str, Any] | None = None


class HuggingFace(Victim):
    """A front end, transformers' model without its last layer, and that layer.

    The latent is what transformers' classifier takes; of CLAP, the audio embedding.
    """

    def __init__(
        self, name: str, model: nn.Module, *, labels: tuple[str, ...], task: Task, settings: HuggingFaceSettings
    ) -> None:
        facts = settings.front_end or {}
        hearing: Any = front_end(facts)
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                sample_rate=facts["sample_rate"],
                clip_seconds=settings.clip_seconds or float(hearing.clip_seconds),
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.front_end = hearing
        self.model: Any = model
        if hasattr(model, "classifier"):
            self.classifier: Any = model.classifier
            self.model.classifier = nn.Identity()
        else:
            self.classifier = nn.Linear((settings.architecture or {})["projection_dim"], len(labels))
        self.config = asdict(settings)
        try:
            freeze_unused(self, lambda: self(probe_inputs(self.spec, count=1)))
        except Exception as error:  # every architecture fails in its own way
            raise VictimError(
                f"{name} cannot take a clip of {self.spec.clip_seconds} s at {self.spec.sample_rate} Hz: its "
                f"preprocessor and its config.json do not fit each other, or clip_seconds is too short. "
                f"({first_line(error)})"
            ) from error

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        features = self.front_end(inputs["audio"])
        given: dict[str, Tensor] = {self.front_end.input_name: features}
        if getattr(self.front_end, "fusion", False):
            # The extractor marks one clip of a batch of short ones as long, at random: each of them, if it is alone.
            given["is_longer"] = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
        told = self.model(**given)
        latent = told.audio_embeds if hasattr(told, "audio_embeds") else told.logits
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(fused)
        return logits


def load_hugging_face(name: str, source: str) -> Victim:
    """Loads a checkpoint with its classifier (safetensors only), its labels, task and front end.

    Args:
        name: Registry name of the victim, `hf:...`.
        source: A hub id, or a directory as `save_pretrained` writes it.

    Raises:
        VictimError: If there is no such checkpoint, it cannot be fetched, or its kind of model is not known.
        CheckpointError: If its weights are not all there, or it has no classifier.
    """
    settings, config = _described(source, HuggingFaceSettings())
    if config.model_type == "clap_audio_model":
        raise CheckpointError(_without_classifier(source))
    model, info = _weights(source, config)
    missing = unfitting(info, ("missing_keys",))
    if "classifier" in missing:
        raise CheckpointError(_without_classifier(source))
    wrong = unfitting(info, ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if wrong:
        raise CheckpointError(f"The weights of {source!r} are not those of its config.json: {wrong}.")
    return HuggingFace(name, model, labels=labels_of(config), task=task_of(config), settings=settings).eval()


def _without_classifier(source: str) -> str:
    return (
        f"{source!r} has no classifier: it gives features alone. Train one on them: robust train --model "
        f"{PREFIX}:{source} --data NAME --out FILE, and then give --weights FILE."
    )


def _begun(name: str, source: str, labels: tuple[str, ...], task: Task, settings: HuggingFaceSettings) -> Victim:
    """The encoder of a checkpoint under a new classifier."""
    settings, config = _described(source, settings, labels)
    model, info = _weights(source, config)
    wrong = "; ".join(
        filter(
            None,
            (
                unfitting(info, ("missing_keys", "mismatched_keys"), ignored=HEAD),
                unfitting(info, ("unexpected_keys",), ignored=OTHER_HEADS),
            ),
        )
    )
    if wrong:
        raise CheckpointError(f"The weights of {source!r} are not those of its config.json: {wrong}.")
    return HuggingFace(name, model, labels=labels, task=task, settings=settings)


def _rebuilt(name: str, labels: tuple[str, ...], task: Task, settings: HuggingFaceSettings) -> Victim:
    """The architecture that a card tells, with random weights."""
    from transformers import AutoConfig

    if settings.architecture is None or settings.front_end is None:
        raise VictimError("architecture and front_end belong together, as a card of `robust train` has them.")
    config = AutoConfig.for_model(**settings.architecture)
    return HuggingFace(name, _model_class(config)._from_config(config), labels=labels, task=task, settings=settings)


def _described(
    source: str, settings: HuggingFaceSettings, labels: tuple[str, ...] | None = None
) -> tuple[HuggingFaceSettings, Any]:
    """Settings with what the checkpoint says of itself, and transformers' configuration, with `labels` if given."""
    from transformers import AutoConfig

    kind = str(raw_config(source, "checkpoint").get("model_type"))
    if kind not in MODEL_TYPES:
        raise VictimError(f"{source!r}: {unknown('model_type', kind, MODEL_TYPES)}")
    facts = facts_of(source)
    if facts["kind"] != MODEL_TYPES[kind]:
        raise CheckpointError(
            f"The preprocessor of {source!r} is of kind {facts['kind']!r}; a model of type {kind!r} takes "
            f"{MODEL_TYPES[kind]!r}. Put the model's own preprocessor_config.json there."
        )
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # values of the wrong type raise anything
        raise CheckpointError(f"The config.json of {source!r} cannot be read. ({first_line(error)})") from error
    config = config.audio_config if kind == CLAP else config
    for key, value in QUIET.items():
        if hasattr(config, key):
            setattr(config, key, value)
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return replace(settings, architecture=json.loads(config.to_json_string()), front_end=facts), config


def _weights(source: str, config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
    """The model in fp32, and transformers' report of what of the checkpoint did not fit."""
    try:
        return _model_class(config).from_pretrained(  # type: ignore[no-any-return]
            source,
            config=config,
            use_safetensors=True,  # a pickle could run code
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report is read
            dtype=torch.float32,
        )
    except Exception as error:  # missing, unsafe and damaged weights each raise something else
        raise CheckpointError(
            f"The weights of {source!r} cannot be loaded: {where(source)}. Only safetensors are read; convert .bin "
            f"files first. ({first_line(error)})"
        ) from error


def _model_class(config: Any) -> Any:
    """The class of transformers for this configuration."""
    from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, ClapAudioConfig, ClapAudioModelWithProjection

    if isinstance(config, ClapAudioConfig):
        return ClapAudioModelWithProjection
    return MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)]


@register_open(
    PREFIX,
    argument="ID-OR-DIR",
    summary="any audio classifier of transformers at the waveform: wav2vec 2.0, HuBERT, WavLM, Whisper, CLAP, AST...",
    parity=PARITY,
)
def open_hugging_face(source: str) -> VictimEntry:
    """The victim in the checkpoint `source`, a hub id or a directory; nothing is read yet."""
    name = f"{PREFIX}:{source}"

    def build(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
        settings = HuggingFaceSettings(**config)
        if settings.architecture is None and settings.front_end is None:
            return _begun(name, source, labels, task, settings)
        return _rebuilt(name, labels, task, settings)

    return VictimEntry(
        name,
        build,
        f"the transformers checkpoint {source}",
        parity=PARITY,
        recipe=RECIPE,
        pretrained=lambda weights: load_hugging_face(name, weights),
        itself=lambda: load_hugging_face(name, source),
    )
