"""Projections against a general-purpose solver and against bisection, neither of which knows their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from attacks.projections import (
    lengths,
    project_l1,
    project_l1_box,
    project_l2,
    project_l2_box,
    steepest_l1,
    steepest_l2,
)

BALLS = {"l2": project_l2, "l1": project_l1}
BOXES = {"l2": project_l2_box, "l1": project_l1_box}
ORDER = {"l2": 2.0, "l1": 1.0}


def cases(count: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Perturbations, radii below and above their norms, and boxes around 0, some of them with a side at 0."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(count, size, generator=generator, dtype=torch.float64)
    radius = lengths(delta, 1) * torch.rand(count, generator=generator, dtype=torch.float64) ** 2 * 1.2
    low = -torch.rand(count, size, generator=generator, dtype=torch.float64)
    high = torch.rand(count, size, generator=generator, dtype=torch.float64)
    low[:, 0], high[:, 1] = 0.0, 0.0
    return delta, radius, low, high


def by_solver(delta: np.ndarray, radius: float, norm: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Nearest point by sequential quadratic programming; in L1 over positive and negative parts."""
    size = len(delta)
    if norm == "l2":
        room = {"type": "ineq", "fun": lambda z: radius**2 - z @ z, "jac": lambda z: -2 * z}
        bounds, spread = list(zip(low, high, strict=True)), np.eye(size)
    else:
        room = {"type": "ineq", "fun": lambda z: radius - z.sum(), "jac": lambda z: -np.ones_like(z)}
        bounds = [(0, end) for end in high] + [(0, -end) for end in low]
        spread = np.hstack([np.eye(size), -np.eye(size)])
    solved = minimize(
        lambda z: 0.5 * np.sum((spread @ z - delta) ** 2),
        np.full(spread.shape[1], 0.0) if norm == "l2" else np.full(spread.shape[1], 1e-3),
        jac=lambda z: spread.T @ (spread @ z - delta),
        bounds=bounds,
        constraints=[room],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return spread @ solved.x


def by_bisection(delta: np.ndarray, radius: float, norm: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The multiplier of the norm by bisection: L2 shrinks by 1 / (1 + m), L1 by m in absolute value."""

    def shrunk(m: float) -> np.ndarray:
        free = delta / (1 + m) if norm == "l2" else np.sign(delta) * np.maximum(np.abs(delta) - m, 0)
        return np.clip(free, low, high)

    if np.linalg.norm(shrunk(0.0), ORDER[norm]) <= radius:
        return shrunk(0.0)
    small, large = 0.0, 1e9
    for _ in range(300):
        middle = (small * large) ** 0.5 if small > 1e-9 else (small + large) / 2
        small, large = (middle, large) if np.linalg.norm(shrunk(middle), ORDER[norm]) > radius else (small, middle)
    return shrunk(large)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("seed", range(3))
def test_ball_agrees_with_a_general_solver(norm: str, seed: int) -> None:
    delta, radius, _, _ = cases(4, 6, seed)
    found = BALLS[norm](delta, radius)
    wide = np.full(6, 100.0)
    for row in range(4):
        expected = by_solver(delta[row].numpy(), float(radius[row]), norm, -wide, wide)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("norm", BOXES)
@pytest.mark.parametrize("seed", range(3))
def test_ball_and_box_agree_with_a_general_solver(norm: str, seed: int) -> None:
    delta, radius, low, high = cases(4, 6, seed)
    found = BOXES[norm](delta, radius, low, high)
    for row in range(4):
        expected = by_solver(delta[row].numpy(), float(radius[row]), norm, low[row].numpy(), high[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("norm", BOXES)
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 50, 700])
def test_agrees_with_bisection(norm: str, boxed: bool, size: int) -> None:
    delta, radius, low, high = cases(8, max(size, 2), size)
    delta, low, high = delta[:, :size], low[:, :size], high[:, :size]
    if not boxed:
        low, high = torch.full_like(low, -1e3), torch.full_like(high, 1e3)
    found = BOXES[norm](delta, radius, low, high) if boxed else BALLS[norm](delta, radius)
    for row in range(8):
        arguments = (delta[row].numpy(), float(radius[row]), norm, low[row].numpy(), high[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), by_bisection(*arguments), atol=1e-9)


@pytest.mark.parametrize("norm", BALLS)
def test_what_is_inside_stays_bit_for_bit(norm: str) -> None:
    delta = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    radius = lengths(delta, ORDER[norm]) * 1.001
    far = torch.full_like(delta, 10.0)
    assert torch.equal(BALLS[norm](delta, radius), delta)
    torch.testing.assert_close(BOXES[norm](delta, radius, -far, far), delta, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", BALLS)
def test_radius_zero_gives_zero(norm: str) -> None:
    delta, _, low, high = cases(4, 30, 1)
    zero = torch.zeros(4, dtype=torch.float64)
    assert bool((BALLS[norm](delta, zero) == 0).all())
    assert bool((BOXES[norm](delta, zero, low, high) == 0).all())
    nothing = torch.zeros(4, 30, dtype=torch.float64)
    assert bool((BOXES[norm](nothing, zero, low, high) == 0).all())


@pytest.mark.parametrize("norm", BALLS)
def test_rows_do_not_see_each_other(norm: str) -> None:
    delta, radius, low, high = cases(6, 30, 2)
    together, boxed = BALLS[norm](delta, radius), BOXES[norm](delta, radius, low, high)
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(BALLS[norm](delta[one], radius[one])[0], together[row])
        assert torch.equal(BOXES[norm](delta[one], radius[one], low[one], high[one])[0], boxed[row])


@pytest.mark.parametrize("norm", BALLS)
def test_ties_and_huge_values(norm: str) -> None:
    delta = torch.tensor([[1.0, 1.0, -1.0, 0.0], [1e15, 1.0, 0.0, -1.0]])
    found = BALLS[norm](delta, torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(lengths(found, ORDER[norm]), torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(found[0, :2], -found[0, 2] * torch.ones(2))
    torch.testing.assert_close(found[1], torch.tensor([2.0, 0, 0, 0]), rtol=1e-5, atol=1e-6)


def test_steepest_l2_is_the_unit_gradient_and_zero_at_zero() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [-1e25, 0.0]])
    torch.testing.assert_close(steepest_l2(gradient), torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))


def test_steepest_l1_by_hand() -> None:
    gradient = torch.tensor([[1.0, -4.0, 2.0, 0.5], [0.0, 0.0, -3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = steepest_l1(gradient, torch.tensor([2, 3, 1]))
    # The second row asks for three coordinates, but only one has a gradient.
    expected = torch.tensor([[0.0, -0.5, 0.5, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)
