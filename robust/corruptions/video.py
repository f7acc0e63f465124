"""Damage to frames, by torchvision where it has it. Randomness is drawn here: torchvision draws from global state."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.corruptions.base import Corruption, Make, Transform, on_frames, register_corruption
from robust.corruptions.measures import BLACK_FRAMES, CHANGED_PIXELS, PSNR, REPEATED_FRAMES, Measure

FRAME_SHARES = (0.125, 0.25, 0.375, 0.5, 0.75)


def noise(sd: float, sample_rate: int) -> Transform:
    """Gaussian noise on every pixel, cut to [0, 1]."""

    def noisy(frames: Tensor, generator: np.random.Generator) -> Tensor:
        return frames + sd * torch.from_numpy(generator.standard_normal(tuple(frames.shape), dtype=np.float32))

    return on_frames(noisy)


def blur(share: float, sample_rate: int) -> Transform:
    """Gaussian blur, its standard deviation a share of the height."""
    return on_frames(lambda frames, generator: blurred(frames, share))


def blurred(frames: Tensor, share: float) -> Tensor:
    """Frames (F, C, H, W) out of focus by a share of their height."""
    from torchvision.transforms.v2 import functional

    sigma = share * frames.shape[-2]
    # The frame is mirrored at its edges, so that a kernel cannot reach further than it.
    reach = min(int(np.ceil(3 * sigma)), min(frames.shape[-2:]) - 1)
    size = 2 * reach + 1
    found: Tensor = functional.gaussian_blur(frames, [size, size], [sigma, sigma])
    return found


def jpeg(quality: float, sample_rate: int) -> Transform:
    """Each frame by itself through JPEG, in 8 bits; for one or three channels of colour."""

    def coded(frames: Tensor, generator: np.random.Generator) -> Tensor:
        if frames.shape[1] not in (1, 3):
            return frames
        eight_bit = (frames * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(np.stack([_jpeg(frame, round(quality)) for frame in eight_bit])).permute(0, 3, 1, 2)

    return on_frames(coded)


def _jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.float32]:
    """One frame (H, W, C) encoded and decoded, in [0, 1]; by Pillow, as torchvision means to give its own up."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame if frame.shape[2] == 3 else frame[..., 0]).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image, dtype=np.float32).reshape(frame.shape) / np.float32(255)


def darkness(factor: float, sample_rate: int) -> Transform:
    """All pixels times a factor."""

    def dark(frames: Tensor, generator: np.random.Generator) -> Tensor:
        from torchvision.transforms.v2 import functional

        found: Tensor = functional.adjust_brightness(frames, factor) if frames.shape[1] in (1, 3) else frames * factor
        return found

    return on_frames(dark)


def occlusion(share: float, sample_rate: int) -> Transform:
    """A grey rectangle of the shape of the frame, at one place through the clip; it grows with the share of area."""

    def occluded(frames: Tensor, generator: np.random.Generator) -> Tensor:
        height, width = frames.shape[-2:]
        rows, columns = (max(1, round(side * share**0.5)) for side in (height, width))
        top, left = (round(generator.uniform() * (side - size)) for side, size in ((height, rows), (width, columns)))
        found = frames.clone()
        found[..., top : top + rows, left : left + columns] = 0.5
        return found

    return on_frames(occluded)


def dropped(share: float, sample_rate: int) -> Transform:
    """Some frames are black; those of one severity are among those of the next."""

    def blackened(frames: Tensor, generator: np.random.Generator) -> Tensor:
        found = frames.clone()
        found[generator.permutation(len(frames))[: _frames(share, len(frames))]] = 0.0
        return found

    return on_frames(blackened)


def frozen_stream(share: float, sample_rate: int) -> Transform:
    """The picture stands still for a stretch of frames; that of one severity lies within that of the next."""

    def standing(frames: Tensor, generator: np.random.Generator) -> Tensor:
        count = min(_frames(share, len(frames)), len(frames) - 1)
        first = 1 + round(generator.uniform() * (len(frames) - 1 - count))
        found = frames.clone()
        found[first : first + count] = frames[first - 1]
        return found

    return on_frames(standing)


def _frames(share: float, count: int) -> int:
    return min(count, max(1, round(share * count)))


_VIDEO: tuple[tuple[str, str, tuple[float, ...], Make, Measure, str], ...] = (
    ("video-noise", "sd (full scale)", (0.04, 0.08, 0.13, 0.2, 0.3), noise, PSNR, "Gaussian noise on pixels"),
    ("video-blur", "sd (share of the height)", (0.02, 0.035, 0.055, 0.08, 0.12), blur, PSNR, "out of focus"),
    ("video-jpeg", "quality", (60.0, 30.0, 15.0, 8.0, 4.0), jpeg, PSNR, "JPEG, frame by frame"),
    ("video-dark", "brightness (factor)", (0.7, 0.5, 0.35, 0.2, 0.1), darkness, PSNR, "too little light"),
    ("video-occlusion", "area (share)", (0.05, 0.12, 0.22, 0.36, 0.55), occlusion, CHANGED_PIXELS, "a grey rectangle"),
    ("video-drop", "frames lost (share)", FRAME_SHARES, dropped, BLACK_FRAMES, "frames are black"),
    ("video-freeze", "frames frozen (share)", FRAME_SHARES, frozen_stream, REPEATED_FRAMES, "the picture stands still"),
)

for _name, _parameter, _values, _make, _measure, _summary in _VIDEO:
    register_corruption(Corruption(_name, "video", "video", _parameter, _values, _make, _measure, _summary))
