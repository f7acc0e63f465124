"""Noisy copies of one clip, in batches whose noise does not depend on their size."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from attacks.gradients import LANES


class NoisyCopies:
    """Copies of a clip with white Gaussian noise.

    The noise is drawn in blocks of eight copies from one generator, so that a copy is the same in batches of any size.

    Args:
        clip: (T,) or of any other shape.
        sigma: Standard deviation of the noise.
        generator: On the CPU.
    """

    def __init__(self, clip: Tensor, sigma: float, generator: torch.Generator) -> None:
        self.clip, self.sigma, self.generator = clip, sigma, generator

    def batches(self, sizes: Sequence[int]) -> Generator[Tensor, None, None]:
        """Batches of these numbers of copies, each a multiple of eight; close it where not all are taken.

        Drawing takes one thread: where there are several, the noise of the next batch is drawn while one is used.
        """
        if len(sizes) == 1 or torch.get_num_threads() == 1:
            yield from (self._heard(self._drawn(size)) for size in sizes)
            return
        with ThreadPoolExecutor(1) as beside:  # waits for a draw under way, also where the consumer stops early
            coming = beside.submit(self._drawn, sizes[0])
            for place in range(len(sizes)):
                noise = coming.result()
                if place + 1 < len(sizes):
                    coming = beside.submit(self._drawn, sizes[place + 1])
                yield self._heard(noise)

    def _drawn(self, size: int) -> Tensor:
        noise = torch.empty(size, *self.clip.shape, dtype=self.clip.dtype)
        for first in range(0, size, LANES):
            noise[first : first + LANES].normal_(generator=self.generator)
        return noise

    def _heard(self, noise: Tensor) -> Tensor:
        return noise.to(self.clip.device).mul_(self.sigma).add_(self.clip)


__all__ = ["NoisyCopies"]
