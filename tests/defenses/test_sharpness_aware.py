"""SAM and ASAM on a quadratic, where each step can be written down; and inside Lightning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from defenses.defense import DefenseSettings, load_defense
from defenses.sharpness_aware import SharpnessAware
from tests.defenses.pupil import Duet, Pupil, batch, one_label, seeded

HESSIAN = np.diag([1.0, 4.0, 9.0]) + 0.5
START = np.array([1.0, -2.0, 0.5])


def quadratic() -> tuple[nn.Parameter, Any]:
    weight, hessian = nn.Parameter(torch.tensor(START)), torch.tensor(HESSIAN)

    def closure(optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * weight @ hessian @ weight
        loss.backward()
        return loss

    return weight, closure


@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_on_a_quadratic_are_those_of_the_papers(adaptive: bool) -> None:
    weight, closure = quadratic()
    sharp = SharpnessAware(torch.optim.SGD([weight], lr=0.02), 0.3, adaptive=adaptive)
    expected = START
    for _ in range(3):
        gradient = HESSIAN @ expected
        if adaptive:
            climb = 0.3 * expected**2 * gradient / np.linalg.norm(np.abs(expected) * gradient)
        else:
            climb = 0.3 * gradient / np.linalg.norm(gradient)
        before = 0.5 * expected @ HESSIAN @ expected
        expected = expected - 0.02 * HESSIAN @ (expected + climb)
        loss = sharp.step(lambda: closure(sharp))
        assert loss.item() == pytest.approx(before, rel=1e-12)
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-10)


def test_the_radius_is_measured_over_all_weights_together() -> None:
    first, second = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    seen: list[tuple[float, float]] = []

    def closure() -> Tensor:
        sharp.zero_grad()
        seen.append((first.item(), second.item()))
        loss = (first**2 + second**2).sum() / 2
        loss.backward()
        return loss

    groups = [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.0}]
    sharp = SharpnessAware(torch.optim.SGD(groups), 0.5)
    sharp.step(closure)
    assert seen[1] == pytest.approx((3 + 0.5 * 0.6, 4 + 0.5 * 0.8))
    assert first.item() == pytest.approx(3 - 0.1 * 3.3)
    assert second.item() == 4.0  # back to the bit: its rate is 0


def test_rescaling_adjacent_layers_changes_nothing_for_asam_and_something_for_sam() -> None:
    def ascended(scale: float, adaptive: bool) -> float:
        weights = [nn.Parameter(torch.tensor([0.7 * scale])), nn.Parameter(torch.tensor([-1.3 / scale]))]
        losses: list[float] = []

        def closure() -> Tensor:
            sharp.zero_grad()
            loss = (weights[0] * weights[1] - 2).square().sum()
            loss.backward()
            losses.append(loss.item())
            return loss

        sharp = SharpnessAware(torch.optim.SGD(weights, lr=0.0), 0.2, adaptive=adaptive)
        sharp.step(closure)
        return losses[1]

    assert ascended(5.0, True) == pytest.approx(ascended(1.0, True), rel=1e-5)
    assert ascended(5.0, False) != pytest.approx(ascended(1.0, False), rel=1e-2)


def test_weights_are_put_back_when_the_second_pass_fails() -> None:
    weight, closure = quadratic()
    sharp = SharpnessAware(torch.optim.SGD([weight], lr=0.1), 0.3)

    def failing() -> Tensor:
        if sharp.climbed:
            raise RuntimeError("out of memory")
        return closure(sharp)

    with pytest.raises(RuntimeError, match="out of memory"):
        sharp.step(failing)
    assert torch.equal(weight.detach(), torch.tensor(START))
    assert not sharp.climbed


def test_a_flat_or_broken_place_is_not_climbed() -> None:
    weight = nn.Parameter(torch.zeros(3))
    sharp = SharpnessAware(torch.optim.SGD([weight], lr=0.1), 0.3)

    def closure() -> Tensor:
        sharp.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    sharp.step(closure)
    assert torch.equal(weight.detach(), torch.zeros(3))


def test_rates_and_states_are_those_of_the_optimiser_within() -> None:
    weight, closure = quadratic()
    inner = torch.optim.SGD([weight], lr=0.05, momentum=0.9)
    sharp = SharpnessAware(inner, 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(sharp, lambda step: 0.5**step)
    for _ in range(3):
        sharp.step(lambda: closure(sharp))
        schedule.step()
    assert inner.param_groups[0]["lr"] == pytest.approx(0.05 / 8)
    assert len(sharp.state_dict()["state"]) == 1

    other, again = quadratic()
    other.data.copy_(weight.data)
    resumed = SharpnessAware(torch.optim.SGD([other], lr=0.05, momentum=0.9), 0.1)
    resumed.load_state_dict(copy.deepcopy(sharp.state_dict()))
    sharp.step(lambda: closure(sharp))
    resumed.step(lambda: again(resumed))
    assert torch.equal(weight, other)


def test_it_says_what_it_needs() -> None:
    weight, _ = quadratic()
    with pytest.raises(ThreatModelError, match=r"needs a closure.*bf16"):
        SharpnessAware(torch.optim.SGD([weight], lr=0.1), 0.05).step()
    for rho in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ThreatModelError, match="rho must be a positive number"):
            SharpnessAware(torch.optim.SGD([weight], lr=0.1), rho)


def test_running_statistics_learn_once_a_step() -> None:
    """As after one plain pass at the weights as they were, to the bit; and the step itself sees batch statistics."""
    pupil, plain = Pupil(Duet(batch_norm=True)), Duet(batch_norm=True)
    plain(batch())
    defense = load_defense(DefenseSettings("sam", rho=0.5))
    optimizer = defense.wrap(torch.optim.SGD(pupil.victim.parameters(), lr=0.1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = defense.loss(pupil, batch(), one_label(), seeded())
        loss.backward()
        defense.after_backward()
        return loss

    optimizer.step(closure)
    told, expected = pupil.victim.norm.state_dict(), plain.norm.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(told[name], expected[name]), name
    assert (defense.spent.forwards, defense.spent.backwards) == (12, 12)
    assert not torch.equal(pupil.victim.last.weight, plain.last.weight)


class Module(lightning.LightningModule):
    """A duet trained by SAM through Lightning's automatic optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.pupil, self.losses = Duet(batch_norm=True), []
        self.defense = load_defense(DefenseSettings("mixup+sam", rho=0.1))

    def training_step(self, rows: list[Tensor], index: int) -> Tensor:
        loss = self.defense.loss(Pupil(self.pupil), batch(6, index), one_label(), seeded(self.global_step))
        self.losses.append(loss.item())
        return loss

    def on_after_backward(self) -> None:
        self.defense.after_backward()

    def configure_optimizers(self) -> Any:
        optimizer = self.defense.wrap(torch.optim.AdamW(self.parameters(), lr=0.01))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fitted(folder: Path, epochs: int, state: Path | None = None) -> tuple[Module, Path]:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(3)), batch_size=1)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, data, ckpt_path=state, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module, folder / f"{epochs}.ckpt"


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_it_and_resumes(tmp_path: Path) -> None:
    whole, _ = fitted(tmp_path, 2)
    assert len(whole.losses) == 2 * 2 * 3  # two passes a step
    assert whole.defense.spent.backwards == 12 * 6
    assert int(whole.pupil.norm.num_batches_tracked) == 6
    _, state = fitted(tmp_path, 1)
    resumed, _ = fitted(tmp_path, 2, state)
    for name, value in whole.pupil.state_dict().items():
        assert torch.equal(resumed.pupil.state_dict()[name], value), name
