"""`hf:ID-OR-DIR`: logits are those of transformers' extractor and model, and what cannot be loaded says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.victims import hugging_face as module
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.hugging_face_front_ends import front_end
from robust.victims.loading import load_victim
from robust.victims.registry import build_victim, list_open, victim_entry
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded

NAMES = ("dog", "rain", "bell")
SPEECH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50,
    "num_mel_bins": 16,
    "classifier_proj_size": 16,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
AST: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_length": 100,
    "num_mel_bins": 32,
}
CLAP_AUDIO: dict[str, Any] = {
    "spec_size": 64,
    "num_mel_bins": 16,
    "window_size": 4,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "hidden_size": 16,
    "patch_embeds_hidden_size": 8,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "num_hidden_layers": 2,
}
CLAP_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 60,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "wav2vec2": lambda: transformers.Wav2Vec2Config(**SPEECH, use_weighted_layer_sum=True, layerdrop=0.5),
    "hubert": lambda: transformers.HubertConfig(**SPEECH),
    "wavlm": lambda: transformers.WavLMConfig(**SPEECH),
    "sew": lambda: transformers.SEWConfig(**SPEECH, squeeze_factor=2),
    "sew-d": lambda: transformers.SEWDConfig(**SPEECH, squeeze_factor=2),
    "unispeech-sat": lambda: transformers.UniSpeechSatConfig(**SPEECH),
    "data2vec-audio": lambda: transformers.Data2VecAudioConfig(
        **{**SPEECH, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
    ),
    "wav2vec2-conformer": lambda: transformers.Wav2Vec2ConformerConfig(**SPEECH),
    "whisper": lambda: transformers.WhisperConfig(**WHISPER),
    "audio-spectrogram-transformer": lambda: transformers.ASTConfig(**AST),
}


def extractor_of(kind: str, **options: Any) -> Any:
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1, **options)
    if kind == "audio-spectrogram-transformer":
        return transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=100, **options)
    return transformers.Wav2Vec2FeatureExtractor(**options)


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # layers draw their weights from the global generator
        model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # so that logits are not all the same
    return model


def saved(folder: Path, kind: str, **options: Any) -> tuple[str, Any, Any]:
    """A classifier and its extractor, and the folder they are saved in."""
    config = CONFIGS[kind]()
    config.id2label = dict(enumerate(NAMES))
    model = seeded(lambda: transformers.AutoModelForAudioClassification.from_config(config))
    with torch.no_grad():
        getattr(model.classifier, "dense", model.classifier).weight.mul_(20)
    extractor = extractor_of(kind, **options)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder), model, extractor


def clips(samples: int = 16_000) -> Tensor:
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, samples))
    return torch.tensor(noise * np.linspace(0, 1, samples) + 0.05).float()


def theirs(model: Any, extractor: Any, audio: Tensor) -> Tensor:
    given = extractor(list(audio.numpy()), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits: Tensor = model(given[extractor.model_input_names[0]]).logits
    return logits


class DirectoryContract(VictimContract):
    """The contract of a victim that its directory names."""

    kind: ClassVar[str]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def directory(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.name = f"hf:{saved(tmp_path_factory.mktemp('checkpoint'), cls.kind)[0]}"


class TestContractOfWav2Vec2(DirectoryContract):
    kind = "wav2vec2"


class TestContractOfWhisper(DirectoryContract):
    kind = "whisper"


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_those_of_extractor_and_model(kind: str, tmp_path: Path) -> None:
    folder, model, extractor = saved(tmp_path, kind)
    victim = load_victim(f"hf:{folder}", device="cpu")
    for samples in (16_000, 11_000):
        expected = theirs(model, extractor, clips(samples))
        assert expected.std() > 0.01
        with torch.no_grad():
            torch.testing.assert_close(victim({"audio": clips(samples)}), expected, rtol=1e-4, atol=1e-4)
    assert victim.spec.labels == NAMES
    assert victim.spec.clip_seconds == 1.0
    assert not victim.training


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wav2vec2", {"do_normalize": True}),
        ("wav2vec2", {"do_normalize": False}),
        ("whisper", {"hop_length": 160, "n_fft": 400}),
        ("audio-spectrogram-transformer", {"do_normalize": False}),
        ("audio-spectrogram-transformer", {"mean": -3.0, "std": 2.5}),
    ],
)
def test_features_are_those_of_the_extractor(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder, _, extractor = saved(tmp_path, kind, **options)
    victim = load_victim(f"hf:{folder}", device="cpu")
    # Loud, quiet, and shorter than what Whisper and AST pad to.
    for audio in (clips(), 1e-3 * clips(), clips(9_000)):
        given = extractor(list(audio.numpy()), sampling_rate=16_000, return_tensors="pt")
        expected = given[extractor.model_input_names[0]]
        torch.testing.assert_close(victim.front_end(audio), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_the_audio_tower_of_clap_gives_transformers_embeddings(fusion: bool, padding: str, tmp_path: Path) -> None:
    config = transformers.ClapConfig(
        text_config=CLAP_TEXT, audio_config={**CLAP_AUDIO, "enable_fusion": fusion}, projection_dim=12
    )
    model = seeded(lambda: transformers.ClapModel(config))
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        hop_length=160,
        max_length_s=2,
        fft_window_size=512,
        frequency_min=50,
        frequency_max=8_000,
        truncation="fusion" if fusion else "rand_trunc",
        padding=padding,
    )
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    victim = build_seeded(f"hf:{tmp_path}")
    assert victim.spec.clip_seconds == 2.0
    for samples in (32_000, 16_000, 9_000):
        audio = clips(samples)
        # One at a time: of several short clips the extractor would treat one, drawn at random, as a long one.
        given = [extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt") for clip in audio]
        features = torch.cat([one["input_features"] for one in given]).float()
        longer = torch.cat([one["is_longer"] for one in given])
        with torch.no_grad():
            torch.testing.assert_close(victim.front_end(audio), features, rtol=1e-4, atol=1e-4)
            expected = model.get_audio_features(input_features=features, is_longer=longer)
            ours = victim.embed({"audio": audio})["fused"]
        expected = expected if isinstance(expected, Tensor) else expected.pooler_output
        torch.testing.assert_close(
            functional.normalize(ours, dim=1), functional.normalize(expected, dim=1), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(CheckpointError, match="no classifier"):
        load_victim(f"hf:{tmp_path}", device="cpu")


BASES: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder": (lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SPEECH)), "wav2vec2"),
    "pretraining": (
        lambda: transformers.Wav2Vec2ForPreTraining(
            transformers.Wav2Vec2Config(**SPEECH, codevector_dim=16, proj_codevector_dim=16)
        ),
        "wav2vec2",
    ),
    "recognition": (lambda: transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SPEECH)), "wav2vec2"),
    "translation": (
        lambda: transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER)),
        "whisper",
    ),
}


@pytest.mark.parametrize("base", BASES)
def test_an_encoder_without_classifier_gets_one_to_be_trained(base: str, tmp_path: Path) -> None:
    make, kind = BASES[base]
    model = seeded(make)
    model.save_pretrained(tmp_path)
    extractor_of(kind).save_pretrained(tmp_path)
    victim = build_seeded(f"hf:{tmp_path}")
    assert victim.spec.labels == LABELS
    given = victim.front_end(clips())
    with torch.no_grad():
        if kind == "whisper":
            expected, ours = model.get_encoder()(given)[0], victim.model.encoder(given)[0]
        else:
            expected, ours = getattr(model, "wav2vec2", model)(given)[0], victim.model.wav2vec2(given)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"no classifier: it gives features alone\. Train one"):
        load_victim(f"hf:{tmp_path}", device="cpu")


def test_a_trained_checkpoint_is_rebuilt_without_the_directory(tmp_path: Path) -> None:
    folder, *_ = saved(tmp_path / "theirs", "wav2vec2", do_normalize=False)
    victim = build_seeded(f"hf:{folder}", clip_seconds=0.5)
    save_checkpoint(victim, tmp_path / "ours.safetensors", {})
    shutil.rmtree(folder)
    again = load_checkpoint(tmp_path / "ours.safetensors").eval()
    assert again.spec == victim.spec
    assert again.spec.clip_seconds == 0.5
    assert torch.equal(again({"audio": clips(8_000)}), victim({"audio": clips(8_000)}))


def test_the_task_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    folder, *_ = saved(tmp_path, "wav2vec2")
    assert load_victim(f"hf:{folder}", device="cpu").spec.task == "multiclass"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": "multi_label_classification"}))
    assert load_victim(f"hf:{folder}", device="cpu").spec.task == "multilabel"


def changed_state(folder: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(folder) / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("wav2vec2.encoder.layer_norm.bias"), r"1 missing keys: wav2vec2\.encoder\.layer_norm"),
        (lambda state: state.update(surplus=torch.zeros(3)), "1 unexpected keys: surplus"),
        (lambda state: state.update({"wav2vec2.encoder.layer_norm.bias": torch.zeros(3)}), "1 mismatched keys"),
    ],
)
def test_weights_must_fit(change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path) -> None:
    folder, *_ = saved(tmp_path, "wav2vec2")
    changed_state(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_victim(f"hf:{folder}", device="cpu")
    with pytest.raises(CheckpointError, match=message):
        build_victim(f"hf:{folder}", labels=LABELS)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    folder, model, _ = saved(tmp_path, "wav2vec2")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Only safetensors are read"):
        load_victim(f"hf:{folder}", device="cpu")


def test_other_kinds_of_models_are_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2-bert"}')
    with pytest.raises(VictimError, match=r"Unknown model_type 'wav2vec2-bert'.*whisper"):
        load_victim(f"hf:{tmp_path}", device="cpu")


def test_a_missing_or_foreign_preprocessor_is_refused(tmp_path: Path) -> None:
    folder, *_ = saved(tmp_path, "wav2vec2")
    path = tmp_path / "preprocessor_config.json"
    path.unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor .* cannot be read"):
        load_victim(f"hf:{folder}", device="cpu")
    extractor_of("whisper").save_pretrained(folder)
    with pytest.raises(CheckpointError, match="is of kind 'whisper'; a model of type 'wav2vec2' takes 'waveform'"):
        load_victim(f"hf:{folder}", device="cpu")


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    folder, *_ = saved(tmp_path, "whisper")
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(folder)
    with pytest.raises(VictimError, match="do not fit each other"):
        load_victim(f"hf:{folder}", device="cpu")


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VictimError, match="no such directory; tried the model hub"):
        load_victim("hf:nowhere/at-all", device="cpu")
    with pytest.raises(VictimError, match="names no model"):
        victim_entry("hf:")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "waveforms"}, "Did you mean 'waveform'"),
        ({"kind": "waveform", "sample_rate": 16_000, "normalized": True}, "normalized"),
    ],
)
def test_wrong_facts_are_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(VictimError, match=message):
        front_end(facts)


def test_architecture_and_front_end_belong_together() -> None:
    with pytest.raises(VictimError, match="belong together"):
        build_victim("hf:anything", labels=LABELS, architecture={"model_type": "hubert"})


def test_it_is_listed() -> None:
    assert any(entry.prefix == module.PREFIX for entry in list_open())
