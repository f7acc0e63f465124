"""R(2+1)D-18 of torchvision as a visual branch.

Paper: D. Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018.
Weights come by path and never from the network: torchvision's `r2plus1d_18` state dict, its classifier left out.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from robust.errors import CheckpointError
from robust.victims.checkpoints import load_strictly, read_safetensors

LATENT = 512
"""Length of the latent of one step."""

FRAMES_PER_STEP = 8
"""Frames to one latent: layers 2 to 4 each halve the time, rounding up."""

# Mean and standard deviation of red, green and blue in Kinetics-400, which torchvision's weights were trained with.
_MEAN = (0.43216, 0.394666, 0.37645)
_STD = (0.22803, 0.22145, 0.216989)


class R2Plus1D(nn.Module):
    """Frames to latents, normalisation inside.

    Attributes:
        network: torchvision's `VideoResNet` without its classifier; the keys of its state dict are torchvision's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        """Makes the branch, with random weights or those of a file.

        Args:
            weights: A state dict of `r2plus1d_18`, `.safetensors` or as `torch.save` writes it; `fc.*` is left out.

        Raises:
            CheckpointError: If the file is missing or unreadable, holds anything but tensors, or lacks a weight or has
                one too many or of another shape.
        """
        super().__init__()
        from torchvision.models.video import r2plus1d_18

        self.network = r2plus1d_18(weights=None)
        self.network.fc = nn.Identity()
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1, 1), persistent=False)
        if weights is not None:
            state = {name: value for name, value in _read(weights).items() if not name.startswith("fc.")}
            load_strictly(self.network, state, weights)

    def forward(self, video: Tensor) -> Tensor:
        """(B, S, 512) from video (B, F, 3, H, W) in [0, 1]; S is F / 8, rounded up. Pixels are averaged out."""
        latents = (video.transpose(1, 2) - self.mean) / self.std  # (B, 3, F, H, W)
        for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
            latents = getattr(self.network, name)(latents)
        return latents.mean(dim=(3, 4)).transpose(1, 2)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a state dict; no code in it is run."""
    if not path.is_file():
        raise CheckpointError(f"There is no file of weights at {path}; pass torchvision's r2plus1d_18 state dict.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is not a readable state dict of tensors: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no plain state dict: expected parameter names and tensors, as "
            "torch.save(model.state_dict()) writes them."
        )
    return state
