"""Original and adversarial video frames to look at, with the difference amplified."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust.atomic import Folder, write_atomically
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.evaluation.listening import attack_again, clip_stem
from robust.victims.base import Victim

if TYPE_CHECKING:
    import pandas as pd

MOST_GAIN = 1024
MARGIN = 0.9
"""The amplified difference fills so much of the way from grey to black or white."""


def save_frames(
    folder: Folder,
    victim: Victim,
    data: AlignedData,
    attack: Attack,
    records: pd.DataFrame,
    seed: int,
    count: int = 4,
    frames: int = 3,
) -> list[Folder]:
    """Writes frames of `count` clips whose video was attacked, broken ones first, as PNG of 8 bit.

    The names are `video/PLACE-CLIP-original-FF.png`, `...-adversarial-FF.png` and `...-difference-xG-FF.png`: frame
    FF of the clip, and 0.5 + G times the difference, of mid grey where nothing changed. Place and clip are those of
    `robust.evaluation.listening.save_triples`. A change below half a grey level is lost in the first two and seen in
    the third.

    Args:
        folder: The run.
        victim: As attacked.
        data: Its clips.
        attack: As it was run.
        records: Of the run.
        seed: Of the run.
        count: Clips at most.
        frames: Frames of each, evenly spaced.

    Raises:
        StoreError: If the folder cannot be written.
    """
    again = attack_again(victim, data, attack, records, seed, count, "video")
    if again is None or again.before["video"].shape[2] not in (1, 3):  # no picture of other channels
        return []
    low, high = data.spec.bounds["video"]
    written = []
    for place, clip in enumerate(again.ids):
        before, after = (
            (side["video"][place].detach().cpu().double() - low) / (high - low) for side in (again.before, again.after)
        )
        gain = amplification(after - before)
        pictures = {
            "original": before,
            "adversarial": after,
            f"difference-x{gain}": 0.5 + gain * (after - before),
        }
        for frame in spread(len(before), frames):
            for kind, video in pictures.items():
                path = folder / "video" / f"{clip_stem(place, clip)}-{kind}-{frame:02d}.png"
                write_atomically(path, png(video[frame]))
                written.append(path)
    return written


def amplification(difference: Tensor) -> int:
    """The largest power of two, up to 1024, by which a difference can be multiplied without leaving [-0.5, 0.5]."""
    largest = float(difference.abs().max())
    if largest == 0:
        return 1
    return int(min(MOST_GAIN, max(1, 2 ** math.floor(math.log2(0.5 * MARGIN / largest)))))


def spread(length: int, count: int) -> list[int]:
    """Up to `count` places, evenly spread over `length`, each once."""
    places = min(count, length)
    return [math.floor((place + 0.5) * length / places) for place in range(places)]


def png(picture: Tensor) -> bytes:
    """A picture (C, H, W) in [0, 1] with 1 or 3 channels as PNG of 8 bit."""
    from PIL import Image

    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(buffer, format="PNG")
    return buffer.getvalue()
