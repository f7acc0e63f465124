"""Stickers pixel by pixel, their gradients, and a search that must find what is there to be found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError
from attacks.losses import Goal
from attacks.sticker import STILL, Stickers, View, Views, opacity, printable, random_stickers, seen, stuck
from attacks.sticker_search import StickerResult, StickerSearch, fit_stickers

PALETTE = torch.tensor(list(printable().values()))


def video(count: int = 3, frames: int = 2, height: int = 12, width: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def sheet(dots: int = 3, seed: int = 1, **blend: float) -> Stickers:
    generator = torch.Generator().manual_seed(seed)
    return Stickers(torch.rand(dots, 2, generator=generator), torch.rand(dots, 3, generator=generator), **blend)


def views(count: int, seed: int = 0, spread: Views | None = None) -> View:
    return (spread or Views()).draw([torch.Generator().manual_seed(seed + row) for row in range(count)])


def test_every_pixel_is_as_the_formula_says() -> None:
    clips, dots = video(), sheet(radius=0.2, alpha_max=0.7, beta=1.3)
    found = stuck(clips, dots)
    for i, j in ((0, 0), (5, 7), (11, 15), (3, 12)):
        pixel = clips[:, :, :, i, j].double()
        for centre, colour in zip(dots.centres.double(), dots.colours.double(), strict=True):  # one after the other
            down, across = i + 0.5 - 12 * float(centre[0]), j + 0.5 - 16 * float(centre[1])
            distance = (down**2 + across**2) / (0.2 * 12) ** 2
            alpha = 0.7 * math.exp(-(distance**1.3))
            pixel = (1 - alpha) * pixel + alpha * colour
        assert torch.allclose(found[:, :, :, i, j].double(), pixel, atol=1e-6)


def test_no_dots_change_nothing_and_an_opaque_one_hides_what_is_behind() -> None:
    clips = video()
    assert torch.equal(stuck(clips, Stickers(torch.zeros(0, 2), torch.zeros(0, 3))), clips)
    wide = Stickers(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.2, 0.4, 0.6]]), radius=50.0, alpha_max=1.0)
    assert torch.allclose(stuck(clips, wide), torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand_as(clips), atol=1e-4)


def test_other_data_ranges_see_the_same_colours() -> None:
    clips, dots, view = video(), sheet(), views(3)
    assert torch.allclose(stuck(2 * clips - 1, dots, view, low=-1.0), 2 * stuck(clips, dots, view) - 1, atol=1e-5)


@pytest.mark.parametrize("beta", [0.6, 2.0])
def test_gradients_are_those_of_finite_differences(beta: float) -> None:
    clips, drawn = video(2, 1, 5, 6).double() * 0.6 + 0.2, views(2)
    start = sheet(2)
    centres, colours = start.centres.double().requires_grad_(), start.colours.double().requires_grad_()

    def rendered(centres: Tensor, colours: Tensor, clips: Tensor) -> Tensor:
        return stuck(clips, Stickers(centres, colours, radius=0.3, beta=beta), drawn)

    assert torch.autograd.gradcheck(rendered, (centres, colours, clips.requires_grad_()))


def test_a_gradient_in_the_very_middle_of_a_dot_is_finite() -> None:
    centres = torch.tensor([[0.5 / 4, 0.5 / 4]], requires_grad=True)  # the middle of pixel (0, 0)
    opacity(Stickers(centres, torch.zeros(1, 3), beta=0.5), torch.zeros(1, 2), 4, 4).sum().backward()
    assert centres.grad is not None
    assert centres.grad.isfinite().all()


def test_jitter_moves_the_sheet_and_not_the_picture() -> None:
    blank = torch.zeros(1, 1, 3, 16, 16)
    dot = Stickers(torch.tensor([[0.5, 0.5]]), torch.ones(1, 3))
    still = View(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1), torch.ones(1))
    moved = replace(still, shift=torch.tensor([[2 / 16, -1 / 16]], dtype=torch.float64))
    assert torch.allclose(stuck(blank, dot, moved), stuck(blank, dot, still).roll((2, -1), (3, 4)), atol=1e-6)
    assert torch.equal(seen(video(1), moved), seen(video(1), still))


def test_blur_is_gaussian_and_brightness_a_factor() -> None:
    impulse = torch.zeros(1, 1, 3, 15, 15)
    impulse[..., 7, 7] = 1.0
    sigma = 1.5
    view = View(torch.zeros(1, 2), torch.tensor([sigma / 15]), torch.ones(1))
    spread = seen(impulse, view)[0, 0, 0]
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(spread[7, 8] / spread[7, 7]) == pytest.approx(math.exp(-0.5 / sigma**2), rel=1e-4)
    flat = torch.full((1, 1, 3, 8, 8), 0.4)
    assert torch.allclose(seen(flat, replace(view, gain=torch.tensor([1.2]))), torch.tensor(0.48))
    assert torch.allclose(seen(flat, replace(view, gain=torch.tensor([3.0]))), torch.tensor(1.0))  # cut at white


def test_views_stay_in_their_spread_and_come_from_the_generators() -> None:
    drawn = views(200)
    assert float(drawn.shift.abs().max()) <= 2 / 224
    assert float(drawn.shift.abs().max()) > 1.9 / 224
    assert 0 <= float(drawn.blur.min()) < float(drawn.blur.max()) <= 4 / 224
    assert 0.8 <= float(drawn.gain.min()) < 0.82 < 1.18 < float(drawn.gain.max()) <= 1.2
    assert torch.equal(views(3, seed=5).shift[1:], views(2, seed=6).shift)
    still = views(3, spread=STILL)
    assert torch.equal(seen(video(), still), video())


def test_clips_do_not_depend_on_their_company() -> None:
    clips, dots, drawn = video(8), sheet(), views(8)
    together = stuck(clips, dots, drawn)
    for row in range(8):
        assert torch.equal(stuck(clips[row : row + 1], dots, drawn.select(slice(row, row + 1)))[0], together[row])


def test_random_dots_are_of_the_palette_and_of_their_generators() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    drawn = random_stickers(sheet(5), PALETTE, generators)
    assert drawn.centres.shape == (4, 5, 2)
    assert (torch.cdist(drawn.colours.flatten(0, 1), PALETTE).min(dim=1).values < 1e-6).all()
    again = random_stickers(sheet(5), PALETTE, [torch.Generator().manual_seed(2)])
    assert torch.equal(again.centres[0], drawn.centres[2])
    assert not torch.equal(drawn.centres[0], drawn.centres[1])


class Corner(nn.Module):
    """Says 1 where the lower right corner is red, 2 where the upper left is blue, 0 otherwise."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        pictures = inputs["video"].mean(dim=1)  # (B, 3, H, W)
        height, width = pictures.shape[2] // 3, pictures.shape[3] // 3
        low, high = pictures[..., -height:, -width:].mean(dim=(2, 3)), pictures[..., :height, :width].mean(dim=(2, 3))
        red, blue = low[:, 0] - low[:, 1:].mean(dim=1), high[:, 2] - high[:, :2].mean(dim=1)
        return torch.stack([torch.full_like(red, 0.15), red, blue], dim=1) * 10


SEARCH = StickerSearch(dots=1, radius=0.2, grid=3, search_clips=8, steps=15, clips_per_step=8, step_size=0.05)
CLIPS, LABELS = video(12, height=12, width=12) * 0.5 + 0.25, torch.zeros(12, dtype=torch.int64)


def fitted(target: int, batch_size: int = 64, config: StickerSearch = SEARCH) -> StickerResult:
    goal = Goal(LABELS, torch.full_like(LABELS, target))
    return fit_stickers(
        Corner(), {"video": CLIPS}, goal, config=config, batch_size=batch_size,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip


@pytest.mark.parametrize(("target", "colours", "half"), [(1, {"red", "magenta"}, 1), (2, {"blue", "cyan"}, 0)])
def test_the_search_finds_the_corner_and_the_colour(target: int, colours: set[str], half: int) -> None:
    result = fitted(target)
    assert ((result.stickers.centres > 0.5) == bool(half)).all()
    assert set(result.colour_names) <= colours
    assert (Corner()({"video": stuck(CLIPS, result.stickers)}).argmax(dim=1) == target).all()
    assert torch.equal(result.stickers.colours, torch.tensor([printable()[name] for name in result.colour_names]))


def test_untargeted_stickers_take_whichever_wrong_class_is_nearer() -> None:
    result = fit_stickers(Corner(), {"video": CLIPS}, Goal(LABELS), config=SEARCH)
    assert (Corner()({"video": stuck(CLIPS, result.stickers)}).argmax(dim=1) != 0).all()


def test_refinement_is_kept_only_where_it_helps() -> None:
    unbounded = replace(SEARCH, confidence=50.0, grid=2)
    greedy = fitted(1, config=replace(unbounded, steps=0))
    result = fitted(1, config=unbounded)
    assert greedy.greedy_loss == greedy.loss == result.greedy_loss
    assert result.loss > result.greedy_loss
    worse = fitted(1, config=replace(unbounded, steps=1, step_size=5.0))  # one leap off the picture
    assert worse.loss == worse.greedy_loss == greedy.loss
    assert torch.equal(worse.stickers.centres, greedy.stickers.centres)


def test_results_do_not_depend_on_the_batch_size_and_follow_the_generator() -> None:
    one, other = fitted(1, batch_size=64), fitted(1, batch_size=5)
    assert torch.allclose(one.stickers.centres, other.stickers.centres, atol=1e-4)
    assert one.colour_names == other.colour_names
    assert one.trace == pytest.approx(other.trace, abs=1e-4)
    assert (one.forwards, one.backwards) == (other.forwards, other.backwards)
    assert one.trace == fitted(1).trace


def test_more_dots_reach_further_and_sweeps_do_not_lose() -> None:
    weak = replace(SEARCH, steps=0, radius=0.12, alpha_max=0.4, confidence=5.0)
    losses = [fitted(1, config=replace(weak, dots=dots)).greedy_loss for dots in (1, 2, 4)]
    assert losses == sorted(losses)
    assert (
        fitted(1, config=replace(weak, dots=2, sweeps=2)).trace[-1] >= fitted(1, config=replace(weak, dots=2)).trace[-1]
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Stickers(torch.zeros(2, 2), torch.zeros(3, 3)), "as many dots"),
        (lambda: sheet(alpha_max=1.5), "alpha_max"),
        (lambda: StickerSearch(radius=0.0), "radius"),
        (lambda: StickerSearch(dots=0), "dots"),
        (lambda: StickerSearch(steps=-1), "steps"),
        (lambda: Views(jitter_pixels=-1), "jitter_pixels"),
        (lambda: Views(brightness=1.0), "brightness"),
        (lambda: stuck(torch.zeros(2, 3, 8, 8), sheet()), "colour video"),
        (lambda: fit_stickers(Corner(), {"video": CLIPS}, Goal(LABELS), palette={}), "palette is empty"),
        (lambda: fit_stickers(Corner(), {"video": CLIPS[:0]}, Goal(LABELS[:0])), "no"),
        (lambda: fit_stickers(Corner(), {"video": CLIPS}, Goal(torch.zeros(12, 3))), "many labels"),
    ],
)
def test_bad_settings(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ThreatModelError, match=said):
        make()
