"""Gradients by example: right, the same in any company, counted, and without a trace on the victim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.gradients import LANES, Oracle, frozen, pad_to_lanes
from attacks.losses import LOSSES, Goal
from tests.oracles.toy import AttentionVictim, ConvVictim, TwoSenses, waves

CPU = torch.device("cpu")
AUDIO = waves(20)
LABELS = torch.arange(20) % 5


def gradients_of(victim: nn.Module, rows: Tensor, loss: str = "ce") -> tuple[Tensor, Tensor, Tensor]:
    goal = Goal(LABELS[rows])
    with frozen(victim):
        oracle = Oracle(victim, len(rows), CPU)
        logits, losses, grads = oracle.gradients({"audio": AUDIO[rows]}, goal, LOSSES[loss], torch.arange(len(rows)))
    return logits, losses, grads["audio"]


@pytest.mark.parametrize("victim", [ConvVictim(), AttentionVictim()], ids=["conv", "attention"])
def test_bit_identical_in_any_company(victim: nn.Module) -> None:
    alone = [gradients_of(victim, torch.tensor([row])) for row in range(20)]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for count in (1, 3, 7, 8, 20):
        rows = order[:count]
        together = gradients_of(victim, rows)
        for place, row in enumerate(rows.tolist()):
            for part, own in zip(together, alone[row], strict=True):
                assert torch.equal(part[place], own[0]), (count, row)


@pytest.mark.parametrize("victim", [ConvVictim(), AttentionVictim()], ids=["conv", "attention"])
@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
def test_agree_with_finite_differences(victim: nn.Module, loss: str) -> None:
    _, _, gradient = gradients_of(victim, torch.arange(6), loss)
    generator = torch.Generator().manual_seed(1)
    exact = victim.double().eval()
    try:
        for _ in range(5):
            direction = torch.randn(6, 400, generator=generator, dtype=torch.float64)
            step = 1e-6 * direction
            with torch.no_grad():
                ends = [
                    LOSSES[loss](exact({"audio": AUDIO[:6].double() + side * step}), Goal(LABELS[:6]))
                    for side in (1, -1)
                ]
            slope = (ends[0] - ends[1]) / 2e-6
            torch.testing.assert_close((gradient * direction).sum(1), slope, rtol=2e-3, atol=2e-3)
    finally:
        victim.float()


def test_every_modality_has_its_gradient() -> None:
    victim = TwoSenses().eval()
    inputs = {"audio": AUDIO[:3], "video": torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))}
    oracle = Oracle(victim, 3, CPU)
    _, _, grads = oracle.gradients(inputs, Goal(LABELS[:3]), LOSSES["margin"], torch.arange(3))
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    LOSSES["margin"](victim(leaves), Goal(LABELS[:3])).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(grads[name], leaf.grad)


def test_what_is_not_wanted_costs_no_backward_pass() -> None:
    victim = TwoSenses().eval()
    inputs = {"audio": AUDIO[:3], "video": torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))}
    visits: list[str] = []
    victim.video.register_full_backward_hook(lambda *_: visits.append("video"))
    with frozen(victim):
        oracle, goal, rows = Oracle(victim, 3, CPU), Goal(LABELS[:3]), torch.arange(3)
        logits, losses, every = oracle.gradients(inputs, goal, LOSSES["margin"], rows)
        assert visits == ["video"]
        found = oracle.gradients(inputs, goal, LOSSES["margin"], rows, {"audio"})
    assert visits == ["video"]
    assert set(found[2]) == {"audio"}
    for one, other in ((logits, found[0]), (losses, found[1]), (every["audio"], found[2]["audio"])):
        assert torch.equal(one, other)


def fail_within(victim: nn.Module) -> None:
    with frozen(victim):
        assert not any(module.training for module in victim.modules())
        assert not any(parameter.requires_grad for parameter in victim.parameters())
        raise RuntimeError("on purpose")


def test_frozen_leaves_no_trace() -> None:
    victim = ConvVictim().train()
    norm = victim.body[1]
    norm.eval()
    victim.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    modes = [module.training for module in victim.modules()]
    gradients_of(victim, torch.arange(5))
    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within(victim)
    assert [module.training for module in victim.modules()] == modes
    assert [name for name, value in victim.named_parameters() if not value.requires_grad] == ["head.weight"]
    assert all(parameter.grad is None for parameter in victim.parameters())
    for name, value in victim.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_frozen_takes_any_callable() -> None:
    with frozen(lambda inputs: inputs["audio"]):
        pass


def test_passes_are_counted_by_example() -> None:
    oracle = Oracle(ConvVictim().eval(), 5, CPU)
    goal = Goal(LABELS[:2])
    oracle.logits({"audio": AUDIO[:5]}, torch.arange(5))
    oracle.gradients({"audio": AUDIO[[1, 3]]}, goal, LOSSES["ce"], torch.tensor([1, 3]))
    oracle.gradients({"audio": AUDIO[[3, 4]]}, goal, LOSSES["ce"], torch.tensor([3, 4]))
    assert oracle.forwards.tolist() == [1, 2, 1, 3, 2]
    assert oracle.backwards.tolist() == [0, 1, 0, 2, 1]


def test_gradients_that_are_not_finite_become_zero_where_they_are_not() -> None:
    def victim(inputs: dict[str, Tensor]) -> Tensor:
        audio = inputs["audio"]
        return torch.stack([audio[:, 0].sqrt() + audio[:, 1], audio[:, 2]], dim=1)

    audio = torch.tensor([[0.0, 0.5, 0.5]])
    oracle = Oracle(victim, 1, CPU)
    _, _, grads = oracle.gradients({"audio": audio}, Goal(torch.tensor([0])), LOSSES["margin"], torch.tensor([0]))
    assert grads["audio"].tolist() == [[0.0, -1.0, 1.0]]


@pytest.mark.parametrize("count", [1, LANES - 1, LANES, LANES + 1])
def test_padding_to_full_blocks(count: int) -> None:
    padded, real = pad_to_lanes({"audio": AUDIO[:count]})
    assert real == count
    assert len(padded["audio"]) % LANES == 0
    assert len(padded["audio"]) < count + LANES
    assert torch.equal(padded["audio"][:count], AUDIO[:count])
