"""`conformer`: the paper's formulas written anew, transformers' encoder, the published size, what is refused."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerRotaryPositionalEmbedding,
)

from robust.errors import VictimError
from robust.victims import conformer as module
from robust.victims.registry import build_victim
from tests.robust.victim_contract import LABELS, VictimContract, build_seeded
from tests.robust.victims.drawn import drawn, features


class TestContract(VictimContract):
    name: ClassVar[str] = "conformer"
    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "embedding": 32, "hidden": 48}
    largest: ClassVar[float] = 1.4e6


CONFIG: dict[str, Any] = {**module.SMALL, **TestContract.tiny, "hears": "logmel"}
HEADS = module.SMALL["heads"]


def normed(steps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = steps.mean(-1, keepdim=True), steps.var(-1, keepdim=True, correction=0)
    return (steps - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(steps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return steps @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def half_step(steps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Half of a feed-forward module, with its residual."""
    hidden = linear(normed(steps, state, f"{name}_layer_norm"), state, f"{name}.intermediate_dense")
    return steps + 0.5 * linear(hidden * hidden.sigmoid(), state, f"{name}.output_dense")


def turned(heads: Tensor) -> Tensor:
    """Heads (B, S, H, D) turned as complex numbers whose parts stand in the first and second half (RoFormer)."""
    real, imaginary = heads.double().chunk(2, dim=-1)
    pairs = torch.arange(real.shape[-1])
    angle = torch.arange(heads.shape[1])[:, None] * 10_000.0 ** (-pairs / len(pairs))
    whole = torch.complex(real, imaginary) * torch.exp(1j * angle)[:, None]
    return torch.cat([whole.real, whole.imag], dim=-1).float()


def attended(steps: Tensor, state: dict[str, Tensor]) -> Tensor:
    inner = normed(steps, state, "self_attn_layer_norm")
    split = inner.unflatten(-1, (HEADS, -1))
    around = turned(split).flatten(2)
    queries, keys = (linear(around, state, f"self_attn.linear_{part}").unflatten(-1, (HEADS, -1)) for part in "qk")
    values = linear(inner, state, "self_attn.linear_v").unflatten(-1, (HEADS, -1))
    scores = torch.einsum("bqhd,bkhd->bhqk", queries, keys) / queries.shape[-1] ** 0.5
    mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), values).flatten(2)
    return steps + linear(mixed, state, "self_attn.linear_out")


def convolved(steps: Tensor, state: dict[str, Tensor]) -> Tensor:
    inner = normed(steps, state, "conv_module.layer_norm") @ state["conv_module.pointwise_conv1.weight"][:, :, 0].T
    values, gates = inner.chunk(2, dim=-1)
    kernel = state["conv_module.depthwise_conv.weight"]
    wide = functional.pad((values * gates.sigmoid()).transpose(1, 2), (kernel.shape[-1] // 2,) * 2)
    maps = (wide.unfold(2, kernel.shape[-1], 1) * kernel[:, 0, None]).sum(-1).transpose(1, 2)
    mean, variance = (state[f"conv_module.batch_norm.running_{what}"] for what in ("mean", "var"))
    maps = (maps - mean) / (variance + 1e-5).sqrt()
    maps = maps * state["conv_module.batch_norm.weight"] + state["conv_module.batch_norm.bias"]
    return steps + (maps * maps.sigmoid()) @ state["conv_module.pointwise_conv2.weight"][:, :, 0].T


def by_the_paper(frames: Tensor, state: dict[str, Tensor], layers: int) -> Tensor:
    """Latents of section 2 of the paper: half a feed-forward, attention, convolution, half a feed-forward, norm."""
    steps = linear(frames.unflatten(1, (-1, 4)).flatten(2), state, "projection")
    for layer in range(layers):
        prefix = f"layers.{layer}."
        block = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        steps = convolved(attended(half_step(steps, block, "ffn1"), block), block)
        steps = normed(half_step(steps, block, "ffn2"), block, "final_layer_norm")
    return steps


def test_latents_are_those_of_the_paper() -> None:
    victim = build_victim("conformer", labels=LABELS, **CONFIG).eval()
    state = drawn({key: list(value.shape) for key, value in victim.state_dict().items()})
    victim.load_state_dict(state)
    with torch.no_grad():
        latent = victim.embed({"logmel": features(64)})["fused"]
    expected = by_the_paper(features(64), state, CONFIG["layers"])
    assert latent.shape == (2, 16, 32)
    assert expected.std() > 0.3
    torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-4)


def test_positions_are_transformers() -> None:
    settings = module.ConformerSettings()
    theirs = Wav2Vec2ConformerRotaryPositionalEmbedding(settings.transformers_config())
    like = torch.zeros(1, 25, 768)
    torch.testing.assert_close(module.rotations(25, 64, like), theirs(like), rtol=1e-5, atol=1e-5)


def test_the_size_is_the_published_one() -> None:
    victim = build_victim("conformer", labels=tuple(map(str, range(527))), pooling="average")
    assert len(victim.layers) == 12
    assert sum(value.numel() for value in victim.parameters()) == pytest.approx(88.1e6, rel=0.01)  # table 6.2


def test_the_order_of_steps_matters() -> None:
    victim = build_seeded("conformer", **CONFIG)
    blocks = features(64).unflatten(1, (16, 4))
    swapped = blocks.flip(1).flatten(1, 2)
    assert float((victim({"logmel": swapped}) - victim({"logmel": features(64)})).abs().max()) > 1e-4


@pytest.mark.parametrize("config", [{"heads": 7}, {"kernel_size": 8}, {"layers": 0}, {"stacked_frames": 0}])
def test_sizes_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    name, value = next(iter(config.items()))
    with pytest.raises(VictimError, match=f"{name}={value}"):
        build_victim("conformer", labels=LABELS, **config)
