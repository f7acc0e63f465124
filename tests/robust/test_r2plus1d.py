"""R(2+1)D-18 as a visual branch: torchvision's weights by path, its latents, files refused that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from robust.errors import CheckpointError
from robust.victims.sight_r2plus1d import FRAMES_PER_STEP, LATENT, R2Plus1D


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """torchvision's whole network with random weights and statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = r2plus1d_18(weights=None).eval()
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def weights(reference, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "r2plus1d_18.pth"
    torch.save(reference.state_dict(), path)
    return path


def video(batch: int = 2, frames: int = 16, side: int = 32) -> Tensor:
    return torch.rand(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_latents_are_those_under_torchvisions_classifier(reference, weights):
    """Their mean over time, through the classifier left out, gives torchvision's logits on normalised video."""
    branch = R2Plus1D(weights).eval()
    clips = video()
    mean = torch.tensor([0.43216, 0.394666, 0.37645])
    std = torch.tensor([0.22803, 0.22145, 0.216989])
    normalised = ((clips.permute(0, 1, 3, 4, 2) - mean) / std).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        assert torch.allclose(reference.fc(branch(clips).mean(dim=1)), reference(normalised), atol=1e-5)


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (8, 1), (9, 2), (16, 2), (24, 3)])
def test_one_latent_for_eight_frames(weights, frames, steps):
    with torch.no_grad():
        found = R2Plus1D(weights).eval()(video(1, frames))
    assert found.shape == (1, steps, LATENT)
    assert steps == -(-frames // FRAMES_PER_STEP)


def test_batch_does_not_matter_and_gradients_reach_the_pixels(weights):
    branch = R2Plus1D(weights).eval()
    clips = video(3, 8).requires_grad_()
    together = branch(clips)
    alone = torch.cat([branch(clip[None]) for clip in clips])
    assert torch.allclose(together, alone, atol=1e-5)
    (gradient,) = torch.autograd.grad(together.sum(), clips)
    assert (gradient.abs().amax(dim=(2, 3, 4)) > 0).all(), "every frame counts"


def test_safetensors_with_or_without_classifier(reference, weights, tmp_path):
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "bare.safetensors")
    first, second = R2Plus1D(weights).state_dict(), R2Plus1D(tmp_path / "bare.safetensors").state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_weights_are_random_ones():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = R2Plus1D()
        second = R2Plus1D()
    assert not torch.equal(first.network.stem[0].weight, second.network.stem[0].weight)
    assert not any(name.startswith("network.fc") for name in first.state_dict())


def _missing(state: dict[str, Tensor]) -> None:
    del state["layer3.1.conv2.0.3.weight"]


def _unexpected(state: dict[str, Tensor]) -> None:
    state["layer5.weight"] = torch.zeros(1)


def _reshaped(state: dict[str, Tensor]) -> None:
    state["stem.0.weight"] = torch.zeros(45, 1, 1, 7, 7)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(_missing, "1 missing"), (_unexpected, r"1 unexpected \(layer5"), (_reshaped, r"another shape \(stem")],
)
def test_weights_that_do_not_fit(reference, tmp_path, spoil, told):
    state = dict(reference.state_dict())
    spoil(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=told):
        R2Plus1D(tmp_path / "other.pth")


class Evil:
    """Unpickled with code allowed, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", [torch.zeros(1)], {"epoch": 3, "state_dict": {}}, "evil"],
    ids=["empty", "text", "list", "nested", "code"],
)
def test_files_that_are_no_state_dict(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"x": Evil(tmp_path / "ran")} if content == "evil" else content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        R2Plus1D(path)
    assert not (tmp_path / "ran").exists()


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="no file of weights"):
        R2Plus1D(tmp_path / "none.pth")
