"""Upstream checkpoints: logits against independent forward passes, and what is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from robust.errors import CheckpointError, VictimError
from robust.frontends.logmel import LogMel
from robust.victims.ast import load_ast
from robust.victims.panns import load_cnn14
from robust.victims.registry import build_victim

# PANNs checkpoints.


def upstream_state(width: int = 2, classes: int = 5) -> dict[str, Tensor]:
    """A random state dict in upstream's names and order of shapes (16 kHz network)."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    def norm(name: str, channels: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": 1 + random(channels),
            f"{name}.bias": random(channels),
            f"{name}.running_mean": random(channels),
            f"{name}.running_var": 1 + random(channels).square(),
            f"{name}.num_batches_tracked": torch.tensor(9),
        }

    samples, bins = np.arange(512), np.arange(257)[:, None]
    dft = np.exp(-2j * np.pi * bins * samples / 512) * (0.5 - 0.5 * np.cos(2 * np.pi * samples / 512))
    mel = LogMel(sample_rate=16_000, n_fft=512, hop_length=160, n_mels=64, fmin=50, fmax=8_000).mel
    state = {
        "spectrogram_extractor.stft.conv_real.weight": torch.tensor(dft.real[:, None, :], dtype=torch.float32),
        "spectrogram_extractor.stft.conv_imag.weight": torch.tensor(dft.imag[:, None, :], dtype=torch.float32),
        "logmel_extractor.melW": mel.clone(),
        **norm("bn0", 64),
    }
    channels = [1, *(width * 2**block for block in range(6))]
    for block in range(6):
        before, after = channels[block : block + 2]
        name = f"conv_block{block + 1}"
        state[f"{name}.conv1.weight"] = random(after, before, 3, 3)
        state[f"{name}.conv2.weight"] = random(after, after, 3, 3)
        state |= norm(f"{name}.bn1", after) | norm(f"{name}.bn2", after)
    state["fc1.weight"], state["fc1.bias"] = random(channels[-1], channels[-1]), random(channels[-1])
    state["fc_audioset.weight"], state["fc_audioset.bias"] = random(classes, channels[-1]), random(classes)
    return state


def reference_logits(state: dict[str, Tensor], audio: Tensor) -> Tensor:
    """Cnn14 in evaluation, from the stored front end on, in float64 and by functions alone."""
    state = {key: value.double() for key, value in state.items()}

    def norm(maps: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(maps, mean, var, gain, shift)

    padded = functional.pad(audio.double().unsqueeze(1), (256, 256), mode="reflect")
    real = functional.conv1d(padded, state["spectrogram_extractor.stft.conv_real.weight"], stride=160)
    imag = functional.conv1d(padded, state["spectrogram_extractor.stft.conv_imag.weight"], stride=160)
    energies = torch.einsum("bft,fm->bmt", real**2 + imag**2, state["logmel_extractor.melW"])
    decibels = 10 * torch.log10(torch.clamp(energies, min=1e-10))  # (B, mels, T)
    maps = norm(decibels.unsqueeze(2), "bn0").permute(0, 2, 3, 1)  # (B, 1, T, mels)
    for block in range(1, 7):
        for part in "12":
            maps = functional.conv2d(maps, state[f"conv_block{block}.conv{part}.weight"], padding=1)
            maps = torch.relu(norm(maps, f"conv_block{block}.bn{part}"))
        if block < 6:
            maps = functional.avg_pool2d(maps, 2)
    over_time = maps.mean(dim=3)
    pooled = over_time.max(dim=2).values + over_time.mean(dim=2)
    latent = torch.relu(pooled @ state["fc1.weight"].T + state["fc1.bias"])
    return latent @ state["fc_audioset.weight"].T + state["fc_audioset.bias"]


def saved(folder: Path, state: object, **rest: object) -> str:
    path = folder / "Cnn14.pth"
    torch.save({"iteration": 3, "model": state, **rest}, path)
    return str(path)


class TestPannsCheckpoint:
    def test_logits_are_those_of_the_reference(self, tmp_path):
        state = upstream_state()
        victim = load_cnn14(saved(tmp_path, state))
        audio = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(1))
        assert not victim.training
        assert victim.spec.task == "multilabel"
        assert victim.spec.sample_rate == 16_000
        assert victim.spec.clip_seconds == 10.0
        assert victim.spec.labels == ("class 0", "class 1", "class 2", "class 3", "class 4")
        expected = reference_logits(state, audio)
        assert expected.std() > 0.1
        torch.testing.assert_close(victim({"audio": audio}).double(), expected, rtol=1e-3, atol=1e-3)
        again = build_victim("cnn14", labels=victim.spec.labels, task="multilabel", **victim.config)
        again.load_state_dict(victim.state_dict())

    def test_labels_come_from_the_table_beside_it(self, tmp_path):
        path = saved(tmp_path, upstream_state(classes=2))
        table = tmp_path / "class_labels_indices.csv"
        table.write_text('index,mid,display_name\n1,/m/1,"Speech, male"\n0,/m/0,Dog\n')
        assert load_cnn14(path).spec.labels == ("Dog", "Speech, male")
        table.write_text("index,mid,display_name\n0,/m/0,Dog\n")
        with pytest.raises(CheckpointError, match="names 1 classes; the checkpoint has 2"):
            load_cnn14(path)
        table.write_text("some,other\n1,2\n")
        with pytest.raises(CheckpointError, match="display_name"):
            load_cnn14(path)

    @pytest.mark.parametrize(
        "key",
        [
            "spectrogram_extractor.stft.conv_real.weight",
            "spectrogram_extractor.stft.conv_imag.weight",
            "logmel_extractor.melW",
        ],
    )
    def test_another_front_end_is_refused(self, tmp_path, key):
        state = upstream_state()
        state[key][100] *= 1.05
        with pytest.raises(CheckpointError, match=f"front end .* differs .*{key}"):
            load_cnn14(saved(tmp_path, state))

    def test_other_mel_edges_are_refused(self, tmp_path):
        state = upstream_state()
        other = LogMel(sample_rate=16_000, n_fft=512, hop_length=160, n_mels=64, fmin=50, fmax=7_900)
        state["logmel_extractor.melW"] = other.mel.clone()
        with pytest.raises(CheckpointError, match="melW"):
            load_cnn14(saved(tmp_path, state))

    def test_entries_must_match(self, tmp_path):
        state = upstream_state()
        del state["conv_block3.bn2.bias"]
        state["surplus.weight"] = torch.zeros(3)
        state["fc1.bias"] = torch.zeros(3)
        with pytest.raises(CheckpointError) as caught:
            load_cnn14(saved(tmp_path, state))
        for part in ("1 missing: conv_block3.bn2.bias", "1 unexpected: surplus.weight", "fc1.bias (3,), not (64,)"):
            assert part in str(caught.value)

    def test_another_architecture_is_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no Cnn14 checkpoint: it has no 'spectrogram_extractor"):
            load_cnn14(saved(tmp_path, {"weight": torch.zeros(2)}))
        with pytest.raises(CheckpointError, match="no state dict"):
            load_cnn14(saved(tmp_path, [1, 2]))

    def test_a_pickle_that_runs_code_is_refused_and_does_not_run(self, tmp_path):
        proof = tmp_path / "ran"
        path = saved(tmp_path, upstream_state(), surprise=Creates(proof))
        with pytest.raises(CheckpointError, match="could run code"):
            load_cnn14(path)
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(Creates(proof), protocol=2))
        with pytest.raises(CheckpointError):
            load_cnn14(str(tmp_path / "plain.pth"))
        assert not proof.exists()
        pickle.loads(pickle.dumps(Creates(proof))).close()
        assert proof.exists(), "the trap itself does not work"

    @pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
    def test_a_sampler_of_numpy_indices_does_no_harm(self, tmp_path, module):
        # Upstream's 16 kHz file carries one, written by NumPy 1.
        path = tmp_path / "Cnn14.pth"
        payload = {"model": upstream_state(), "sampler": {"indexes": np.arange(5), "pointer": 2}}
        torch.save(payload, path, _use_new_zipfile_serialization=False)
        raw = path.read_bytes()
        assert b"numpy._core.multiarray" in raw
        path.write_bytes(raw.replace(b"numpy._core.multiarray", module))
        assert len(load_cnn14(str(path)).spec.labels) == 5

    @pytest.mark.parametrize("content", [None, b"", b"this is text, not weights", b"PK\x03\x04 broken"])
    def test_unreadable_files_are_refused(self, tmp_path, content):
        path = tmp_path / "broken.pth"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken\.pth"):
            load_cnn14(str(path))

    def test_a_truncated_file_is_refused(self, tmp_path):
        path = Path(saved(tmp_path, upstream_state()))
        path.write_bytes(path.read_bytes()[:-5_000])
        with pytest.raises(CheckpointError, match=r"Cnn14\.pth"):
            load_cnn14(str(path))


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


# Hugging Face checkpoints.


@pytest.fixture
def hugging_face(tmp_path):
    """Saves a tiny AST and its extractor; returns the folder, and the logits of the pair for one waveform."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    def save(**changes):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            config = ASTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                num_mel_bins=40,
                max_length=60,
                time_stride=8,
                initializer_range=0.3,
                id2label={0: "dog", 1: "rain", 2: "bell"},
                **changes,
            )
            model = ASTForAudioClassification(config).eval()
        model.save_pretrained(tmp_path)
        extractor = ASTFeatureExtractor(num_mel_bins=40, max_length=60, mean=-3.0, std=2.5)
        extractor.save_pretrained(tmp_path)

        @torch.no_grad()
        def logits(audio: Tensor) -> Tensor:
            features = extractor(list(audio.numpy()), sampling_rate=16_000, return_tensors="pt")["input_values"]
            return model(features).logits

        return tmp_path, logits

    return save


class TestHuggingFaceCheckpoint:
    def test_logits_are_those_of_extractor_and_model(self, hugging_face):
        folder, logits = hugging_face()
        victim = load_ast(str(folder))
        audio = 0.2 * torch.randn(3, 9_600, generator=torch.Generator().manual_seed(2))
        audio[2, 4_000:] = 0
        expected = logits(audio)
        assert expected.std() > 0.1
        torch.testing.assert_close(victim({"audio": audio}), expected, rtol=0, atol=1e-3)
        # Longer and shorter clips are cut and padded as the extractor does it.
        for samples in (5_000, 20_000):
            other = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
            torch.testing.assert_close(victim({"audio": other}), logits(other), rtol=0, atol=1e-3)
        assert victim.spec.labels == ("dog", "rain", "bell")
        assert victim.spec.task == "multiclass"
        assert victim.spec.clip_seconds == pytest.approx(0.6)
        assert not victim.training
        again = build_victim("ast", labels=victim.spec.labels, **victim.config).eval()
        again.load_state_dict(victim.state_dict())
        torch.testing.assert_close(again({"audio": audio}), victim({"audio": audio}))

    def test_the_problem_type_gives_the_task(self, hugging_face):
        folder, _ = hugging_face(problem_type="multi_label_classification")
        assert load_ast(str(folder)).spec.task == "multilabel"

    def test_without_a_preprocessor_the_front_end_is_audiosets(self, hugging_face):
        folder, _ = hugging_face()
        (folder / "preprocessor_config.json").unlink()
        victim = load_ast(str(folder))
        assert victim.config["mean"] == pytest.approx(-4.2677393)
        assert victim.config["n_mels"] == 40
        (folder / "preprocessor_config.json").write_text("{ not JSON")
        with pytest.raises(CheckpointError, match=r"preprocessor .* cannot be read"):
            load_ast(str(folder))

    def test_a_preprocessor_without_normalisation_is_followed(self, hugging_face):
        folder, _ = hugging_face()
        edit(folder / "preprocessor_config.json", do_normalize=False)
        fbank = load_ast(str(folder)).get_submodule("fbank")
        assert fbank(torch.zeros(1, 9_600)).min().item() == pytest.approx(np.log(1.192092955078125e-07))

    def test_a_preprocessor_of_other_shape_is_refused(self, hugging_face):
        folder, _ = hugging_face()
        edit(folder / "preprocessor_config.json", max_length=70)
        with pytest.raises(CheckpointError, match="70 frames of 40 mel"):
            load_ast(str(folder))

    def test_another_model_is_refused(self, hugging_face):
        folder, _ = hugging_face()
        edit(folder / "config.json", model_type="wav2vec2")
        with pytest.raises(CheckpointError, match="wav2vec2"):
            load_ast(str(folder))

    def test_missing_weights_are_named(self, hugging_face):
        from safetensors.torch import load_file, save_file

        folder, _ = hugging_face()
        weights = load_file(folder / "model.safetensors")
        del weights["classifier.dense.bias"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"1 missing keys: classifier\.dense\.bias"):
            load_ast(str(folder))

    @pytest.mark.parametrize("harmless", [True, False])
    def test_pickled_weights_are_not_read(self, hugging_face, harmless):
        from safetensors.torch import load_file

        folder, _ = hugging_face()
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        proof = folder / "ran"
        torch.save(weights if harmless else {"classifier.dense.bias": Creates(proof)}, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="safetensors"):
            load_ast(str(folder))
        assert not proof.exists()

    def test_a_damaged_file_is_refused(self, hugging_face):
        folder, _ = hugging_face()
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            load_ast(str(folder))

    def test_nothing_there_says_what_was_tried(self, tmp_path):
        with pytest.raises(VictimError, match="no such directory; tried the model hub"):
            load_ast(str(tmp_path / "nowhere"))
        with pytest.raises(VictimError, match=r"no config\.json"):
            load_ast(str(tmp_path))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
