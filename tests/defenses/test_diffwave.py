"""DiffWave checkpoints in both published layouts, against a computation from the checkpoint's own names."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from attacks.errors import RobustError, ThreatModelError
from defenses.diffwave import DiffWave
from defenses.diffwave_checkpoints import load_diffwave
from defenses.purify import DiffusionPurifier
from tests.robust.channel_contract import check_contract, generators, voices

RES, SKIP, LAYERS, CYCLE = 6, 4, 5, 3
State = dict[str, Tensor]


def _random(shapes: dict[str, tuple[int, ...]]) -> State:
    """Weights that keep the scale of what goes through."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        scale = 1.0 if name.endswith("_g") else 0.2 if len(shape) == 1 else 1.5 / math.sqrt(math.prod(shape[1:]))
        state[name] = scale * torch.randn(shape, generator=generator)
    return state


def _normed(name: str, out: int, into: int, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight_g": (out, 1, 1), f"{name}.weight_v": (out, into, size), f"{name}.bias": (out,)}


def _plain(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def authors_state() -> State:
    """The names and shapes of the DiffWave authors' SC09 models, small."""
    shapes = {
        **_normed("init_conv.0.conv", RES, 1, 1),
        **_plain("residual_layer.fc_t1", 512, 128),
        **_plain("residual_layer.fc_t2", 512, 512),
        **_normed("final_conv.0.conv", SKIP, SKIP, 1),
        **_plain("final_conv.2.conv", 1, SKIP, 1),
    }
    for place in range(LAYERS):
        block = f"residual_layer.residual_blocks.{place}"
        shapes |= _plain(f"{block}.fc_t", RES, 512)
        shapes |= _normed(f"{block}.dilated_conv_layer.conv", 2 * RES, RES, 3)
        shapes |= _normed(f"{block}.res_conv", RES, RES, 1) | _normed(f"{block}.skip_conv", SKIP, RES, 1)
    return _random(shapes)


def lmnt_state() -> State:
    """The names and shapes of LMNT's, small."""
    shapes = {
        **_plain("input_projection", RES, 1, 1),
        **_plain("diffusion_embedding.projection1", 512, 128),
        **_plain("diffusion_embedding.projection2", 512, 512),
        **_plain("skip_projection", RES, RES, 1),
        **_plain("output_projection", 1, RES, 1),
    }
    for place in range(LAYERS):
        layer = f"residual_layers.{place}"
        shapes |= _plain(f"{layer}.dilated_conv", 2 * RES, RES, 3) | _plain(f"{layer}.diffusion_projection", RES, 512)
        shapes |= _plain(f"{layer}.output_projection", 2 * RES, RES, 1)
    return _random(shapes)


def _conv(state: State, name: str, sound: Tensor, dilation: int = 1) -> Tensor:
    if f"{name}.weight_g" in state:
        direction = state[f"{name}.weight_v"]
        norm = torch.stack([row.square().sum().sqrt() for row in direction])[:, None, None]
        weight = state[f"{name}.weight_g"] * direction / norm
    else:
        weight = state[f"{name}.weight"]
    return F.conv1d(sound, weight, state[f"{name}.bias"], padding=dilation * (weight.shape[2] // 2), dilation=dilation)


def _linear(state: State, name: str, value: Tensor) -> Tensor:
    return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])


def authors_answer(state: State, noisy: Tensor, step: int) -> Tensor:
    """As the authors compute it; steps count from 0 there."""
    frequency = torch.tensor([math.exp(-math.log(10_000) * i / 63) for i in range(64)])
    told = torch.cat([torch.sin(step * frequency), torch.cos(step * frequency)])[None]
    told = F.silu(_linear(state, "residual_layer.fc_t1", told))
    told = F.silu(_linear(state, "residual_layer.fc_t2", told))
    stream, total = F.relu(_conv(state, "init_conv.0.conv", noisy[:, None])), torch.zeros(())
    for place in range(LAYERS):
        block = f"residual_layer.residual_blocks.{place}"
        stream = stream + _linear(state, f"{block}.fc_t", told)[:, :, None]  # in place there: it stays in the stream
        both = _conv(state, f"{block}.dilated_conv_layer.conv", stream, 2 ** (place % CYCLE))
        gated = torch.tanh(both[:, :RES]) * torch.sigmoid(both[:, RES:])
        total = total + _conv(state, f"{block}.skip_conv", gated)
        stream = (stream + _conv(state, f"{block}.res_conv", gated)) * math.sqrt(0.5)
    hidden = F.relu(_conv(state, "final_conv.0.conv", total * math.sqrt(1 / LAYERS)))
    return _conv(state, "final_conv.2.conv", hidden)[:, 0]


def lmnt_answer(state: State, noisy: Tensor, step: int) -> Tensor:
    """As LMNT computes it."""
    table = step * 10.0 ** (torch.arange(64) * 4.0 / 63.0)
    told = torch.cat([torch.sin(table), torch.cos(table)])[None]
    told = F.silu(_linear(state, "diffusion_embedding.projection1", told))
    told = F.silu(_linear(state, "diffusion_embedding.projection2", told))
    stream, skips = F.relu(_conv(state, "input_projection", noisy[:, None])), []
    for place in range(LAYERS):
        layer = f"residual_layers.{place}"
        stepped = stream + _linear(state, f"{layer}.diffusion_projection", told)[:, :, None]
        both = _conv(state, f"{layer}.dilated_conv", stepped, 2 ** (place % CYCLE))
        gated = torch.sigmoid(both[:, :RES]) * torch.tanh(both[:, RES:])
        both = _conv(state, f"{layer}.output_projection", gated)
        stream, skip = (stream + both[:, :RES]) / math.sqrt(2.0), both[:, RES:]
        skips.append(skip)
    hidden = F.relu(_conv(state, "skip_projection", torch.stack(skips).sum(dim=0) / math.sqrt(LAYERS)))
    return _conv(state, "output_projection", hidden)[:, 0]


PARAMS = {
    "noise_schedule": np.linspace(1e-4, 0.05, 50).tolist(), "dilation_cycle_length": CYCLE, "sample_rate": 16_000,
    "residual_layers": LAYERS, "unconditional": True,
}  # fmt: skip
CONFIG = {
    "diffusion_config": {"T": 200, "beta_0": 0.0001, "beta_T": 0.02},
    "wavenet_config": {"dilation_cycle": CYCLE, "num_res_layers": LAYERS},
    "trainset_config": {"sampling_rate": 16_000},
}


def authors_file(folder: Path, state: State | None = None, config: Any = CONFIG, name: str = "1000000.pkl") -> Path:
    given = {"model_state_dict": authors_state() if state is None else state, "optimizer_state_dict": {"state": {}}}
    torch.save(given, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name


def lmnt_file(folder: Path, state: State | None = None, params: Any = PARAMS, name: str = "weights.pt") -> Path:
    given = {"step": 9, "model": lmnt_state() if state is None else state, "optimizer": {}, "params": params}
    torch.save(given, folder / name)
    return folder / name


def noisy(samples: int = 100) -> Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(1))


class TestNetwork:
    @pytest.mark.parametrize("step", [1, 7, 200])
    def test_the_authors(self, tmp_path, step):
        model = load_diffwave(authors_file(tmp_path))
        expected = authors_answer(authors_state(), noisy(), step - 1)
        torch.testing.assert_close(model.predict_noise(noisy(), step), expected, rtol=1e-4, atol=1e-5)
        assert float(expected.std(dim=1).min()) > 0.005

    @pytest.mark.parametrize("step", [1, 7, 50])
    def test_lmnts(self, tmp_path, step):
        model = load_diffwave(lmnt_file(tmp_path))
        expected = lmnt_answer(lmnt_state(), noisy(), step - 1)
        torch.testing.assert_close(model.predict_noise(noisy(), step), expected, rtol=1e-4, atol=1e-5)
        assert float(expected.std(dim=1).min()) > 0.005

    def test_each_clip_may_have_its_own_step_and_any_length(self, tmp_path):
        model = load_diffwave(authors_file(tmp_path))
        both = model.predict_noise(noisy(333), torch.tensor([3, 90]))
        for row, step in enumerate((3, 90)):
            alone = model.predict_noise(noisy(333)[row : row + 1], step)
            torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=1e-5)

    def test_sizes_are_those_of_the_shapes(self, tmp_path):
        found = load_diffwave(authors_file(tmp_path)).settings
        assert (found.layers, found.channels, found.skip_channels, found.dilation_cycle) == (LAYERS, RES, SKIP, CYCLE)
        assert (found.embedded, found.hidden) == (128, (512, 512))

    def test_it_knows_no_classes(self, tmp_path):
        with pytest.raises(ThreatModelError, match="no classes"):
            load_diffwave(authors_file(tmp_path)).predict_noise(noisy(), 3, torch.ones(2, 1))

    def test_loading_draws_nothing_from_the_global_generator(self, tmp_path):
        path, before = authors_file(tmp_path), torch.get_rng_state()
        load_diffwave(path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_it_purifies(self, tmp_path):
        clips = voices(3, 16_000, seconds=0.02)
        model = load_diffwave(authors_file(tmp_path), samples=clips.shape[1])
        check_contract(DiffusionPurifier(model, 2), clips)
        one_shot = DiffusionPurifier(model, 3, "one-shot")
        drawn = one_shot.draw(clips, generators(3))
        abar = math.prod(1 - beta for beta in np.linspace(1e-4, 0.02, 200)[:3])
        mixed = math.sqrt(abar) * clips + math.sqrt(1 - abar) * drawn["noise"][:, 0]
        expected = (mixed - math.sqrt(1 - abar) * authors_answer(authors_state(), mixed, 2)) / math.sqrt(abar)
        torch.testing.assert_close(one_shot(clips, drawn), expected.clamp(-1, 1), rtol=1e-3, atol=1e-4)


class TestFiles:
    def test_the_schedule_is_the_one_that_is_told(self, tmp_path):
        told = load_diffwave(lmnt_file(tmp_path))
        assert told.steps == 50
        assert float(told.abar(50)) == pytest.approx(float(np.prod(1 - np.linspace(1e-4, 0.05, 50))), rel=1e-5)
        other = {**CONFIG, "diffusion_config": {"T": 100, "beta_0": 0.001, "beta_T": 0.05}}
        theirs = load_diffwave(authors_file(tmp_path, config=other))
        assert theirs.sigma(100) == pytest.approx(
            math.sqrt(1 / np.prod(1 - np.linspace(0.001, 0.05, 100)) - 1), rel=1e-4
        )

    def test_nothing_told_is_diffwaves_own(self, tmp_path):
        model = load_diffwave(authors_file(tmp_path, config=None))
        assert (model.steps, model.settings.dilation_cycle, model.sample_rate) == (200, 10, 16_000)
        assert load_diffwave(authors_file(tmp_path, config=None), dilation_cycle=CYCLE).settings.dilation_cycle == CYCLE
        block = "residual_layer.residual_blocks.0."
        long = {
            name.replace(block, block.replace("0", str(place))): value
            for name, value in authors_state().items()
            for place in (range(36) if name.startswith(block) else [0])
            if name.startswith(block) or "residual_blocks" not in name
        }
        assert load_diffwave(authors_file(tmp_path, long, config=None)).settings.dilation_cycle == 12

    @pytest.mark.parametrize("kind", ["safetensors", "bare", "parallel", "parametrised"])
    def test_the_same_weights_in_other_files(self, tmp_path, kind):
        state = authors_state()
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
        if kind == "safetensors":
            path = tmp_path / "one.safetensors"
            save_file(state, path)
        else:
            if kind == "parallel":
                state = {f"module.{name}": value for name, value in state.items()}
            if kind == "parametrised":
                names = {
                    "weight_g": "parametrizations.weight.original0",
                    "weight_v": "parametrizations.weight.original1",
                }
                state = {
                    ".".join([*name.split(".")[:-1], names.get(name.split(".")[-1], name.split(".")[-1])]): value
                    for name, value in state.items()
                }
            path = tmp_path / "one.pth"
            torch.save(state, path)
        expected = load_diffwave(authors_file(tmp_path)).predict_noise(noisy(), 5)
        assert torch.equal(load_diffwave(path).predict_noise(noisy(), 5), expected)


class _Runs:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


class TestRefusals:
    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(RobustError, match="no DiffWave checkpoint at"):
            load_diffwave(tmp_path / "none.pt")

    @pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
    def test_a_file_of_something_else(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(RobustError, match="cannot be read as weights"):
            load_diffwave(tmp_path / name)

    def test_code_is_not_run(self, tmp_path, capsys):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model_state_dict": _Runs()}, protocol=2))
        torch.save({"model_state_dict": _Runs()}, tmp_path / "evil.pt")
        for name in ("evil.pkl", "evil.pt"):
            with pytest.raises(RobustError, match="refused"):
                load_diffwave(tmp_path / name)
        assert "code ran" not in capsys.readouterr().out

    @pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], {"model": {"a": 1}}])
    def test_no_state_dict(self, tmp_path, content):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(RobustError, match="no state dict"):
            load_diffwave(tmp_path / "a.pt")

    def test_weights_of_another_network(self, tmp_path):
        with pytest.raises(RobustError, match=r"lacks 'input_projection\.weight'"):
            load_diffwave(lmnt_file(tmp_path, {"conv.weight": torch.zeros(1)}))

    def test_a_weight_missing_or_left_over_or_misshapen(self, tmp_path):
        state = authors_state()
        less = {name: value for name, value in state.items() if name != "residual_layer.residual_blocks.2.fc_t.bias"}
        with pytest.raises(RobustError, match=r"lacks 'residual_layer.residual_blocks.2.fc_t.bias'"):
            load_diffwave(authors_file(tmp_path, less))
        with pytest.raises(RobustError, match=r"has not: extra.weight\."):
            load_diffwave(authors_file(tmp_path, {**state, "extra.weight": torch.zeros(2)}))
        odd = {**state, "residual_layer.residual_blocks.2.fc_t.bias": torch.zeros(3)}
        with pytest.raises(RobustError, match="do not fit each other"):
            load_diffwave(authors_file(tmp_path, odd))

    def test_a_vocoder(self, tmp_path):
        state = {**lmnt_state(), "residual_layers.0.conditioner_projection.weight": torch.zeros(2 * RES, 80, 1)}
        with pytest.raises(RobustError, match="needs an unconditional one"):
            load_diffwave(lmnt_file(tmp_path, state))

    def test_another_sample_rate_is_told_with_both(self, tmp_path):
        with pytest.raises(RobustError, match=r"22050 Hz.*16000 Hz"):
            load_diffwave(lmnt_file(tmp_path, params={**PARAMS, "sample_rate": 22_050}))
        assert load_diffwave(lmnt_file(tmp_path), sample_rate=16_000, samples=800).samples == 800

    @pytest.mark.parametrize(
        "params", [{**PARAMS, "noise_schedule": [1e-4, 0.3, 0.02]}, {**PARAMS, "noise_schedule": []}]
    )
    def test_a_schedule_that_is_not_linear(self, tmp_path, params):
        with pytest.raises(RobustError, match="configuration of the DiffWave checkpoint"):
            load_diffwave(lmnt_file(tmp_path, params=params))

    @pytest.mark.parametrize("config", [{"diffusion_config": {"T": 200}}, {"diffusion_config": 3}])
    def test_a_configuration_that_says_too_little(self, tmp_path, config):
        with pytest.raises(RobustError, match="beta_0"):
            load_diffwave(authors_file(tmp_path, config=config))
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(RobustError, match=r"config\.json, beside the checkpoint, cannot be read"):
            load_diffwave(tmp_path / "1000000.pkl")


def test_it_is_a_diffusion_model_as_others(tmp_path):
    model = load_diffwave(authors_file(tmp_path), samples=100)
    assert isinstance(model, DiffWave)
    low, high = model.sigma_range
    assert model.step_for(low) == 1
    assert model.step_for(high) == 200
    clean = 0.1 * noisy()
    denoised = model.denoise(clean, 0.05)
    step = model.step_for(0.05)
    abar = float(model.abar(step))
    expected = clean - math.sqrt((1 - abar) / abar) * authors_answer(authors_state(), math.sqrt(abar) * clean, step - 1)
    torch.testing.assert_close(denoised, expected.clamp(-1, 1), rtol=1e-3, atol=1e-4)
    assert json.loads(json.dumps(model.describe()))["domain"] == "waveform"
