"""Convolution by FFT with responses whose spectra are computed once, differentiable in the clips.

A gradient is correlation: the same two transforms with the conjugate spectrum. Written so, a backward pass costs what a
forward pass does, and can itself be differentiated; torch's own gradient of a real FFT takes a complex one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attacks.gradients import LANES
from robust.channels.spectra import fast_length

ROWS = 16
"""Clips in rooms transformed at once: fewer pay more for planning, more leave the processor's cache."""


def convolve(clips: Tensor, responses: Tensor) -> Tensor:
    """Clips (B, T) through responses (B, L), cut to T; nothing is cached, differentiable in both."""
    length = fast_length(clips.shape[1] + responses.shape[1] - 1)
    spectrum = torch.fft.rfft(clips, length) * torch.fft.rfft(responses, length)
    heard: Tensor = torch.fft.irfft(spectrum, length)
    return heard[:, : clips.shape[1]]


class Responses:
    """Responses and their spectra, which are kept for the last length and type of clips.

    Attributes:
        samples: (N, L) float32.
    """

    def __init__(self, samples: Tensor) -> None:
        self.samples = samples
        self._key: tuple[int, torch.dtype, torch.device] | None = None
        self._spectra, self._length = torch.zeros(0), 0

    def __len__(self) -> int:
        return len(self.samples)

    def spectra(self, clips: Tensor) -> tuple[Tensor, int]:
        """(N, F) complex, of the type that fits clips (..., T), and the length of the FFT.

        What arrives after T samples is not heard and is cut off first.
        """
        key = (clips.shape[-1], clips.dtype, clips.device)
        if key != self._key:
            heard = self.samples[:, : clips.shape[-1]]
            length = fast_length(clips.shape[-1] + heard.shape[1] - 1)
            with torch.inference_mode(False), torch.no_grad():  # kept for calls that want gradients
                pieces = [torch.fft.rfft(piece.to(clips), length) for piece in torch.split(heard, LANES)]
                self._spectra, self._length, self._key = torch.cat(pieces), length, key
        return self._spectra, self._length

    def one_each(self, clips: Tensor, index: Tensor) -> Tensor:
        """Clips (B, T), each through the response of its index (B,) int64: (B, T).

        They go in lanes of 8, so that no row depends on how many lanes there are.
        """
        spectra, length = self.spectra(clips)
        pieces = zip(torch.split(clips, LANES), torch.split(index.to(spectra.device), LANES), strict=True)
        return torch.cat([_Filtered.apply(piece, spectra[rows], length) for piece, rows in pieces])

    def every(self, clips: Tensor, index: Tensor | None = None, *, at_once: int = 8) -> Iterator[tuple[Tensor, Tensor]]:
        """Clips (B, T) through every response, some at a time, so that memory does not grow with their number.

        Args:
            clips: May require a gradient; each yield is a graph of its own, to be taken backward before the next.
            index: (R,) int64, which responses; all when None.
            at_once: Responses in one yield.

        Yields:
            Indices (R,), R being `at_once` or less at the end, and what is heard (R, B, T).
        """
        spectra, length = self.spectra(clips)
        with torch.no_grad():
            transformed = torch.fft.rfft(clips, length)
        wanted = torch.arange(len(self), device=spectra.device) if index is None else index.to(spectra.device)
        for rows in torch.split(wanted, at_once):
            yield rows, _Spread.apply(clips, spectra[rows], length, transformed)


class _Filtered(torch.autograd.Function):
    """(B, T) -> (B, T): the row's own filter (B, F)."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor, spectra: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(spectra)
        ctx.length = length
        return _back(torch.fft.rfft(clips, length) * spectra, length, clips.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (spectra,) = ctx.saved_tensors
        return _Filtered.apply(grads[0], spectra.conj(), ctx.length), None, None


class _Spread(torch.autograd.Function):
    """(B, T) -> (R, B, T): every filter (R, F)."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor, spectra: Tensor, length: int, transformed: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(spectra)
        ctx.length = length
        transformed = torch.fft.rfft(clips, length) if transformed is None else transformed
        heard = clips.new_empty(len(spectra), *clips.shape)
        for rows, filters in _pieces(heard, spectra):
            rows.copy_(_back(transformed * filters, length, clips.shape[-1]))
        return heard

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (spectra,) = ctx.saved_tensors
        return _Gathered.apply(grads[0], spectra.conj(), ctx.length), None, None, None


class _Gathered(torch.autograd.Function):
    """(R, B, T) -> (B, T): each through its filter (R, F), and summed."""

    @staticmethod
    def forward(ctx: Any, heard: Tensor, spectra: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(spectra)
        ctx.length = length
        total = spectra.new_zeros(heard.shape[1], spectra.shape[-1])
        for rows, filters in _pieces(heard, spectra.resolve_conj()):
            for transformed, own in zip(torch.fft.rfft(rows, length), filters, strict=True):
                total.addcmul_(transformed, own)
        return _back(total, length, heard.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (spectra,) = ctx.saved_tensors
        return _Spread.apply(grads[0], spectra.conj(), ctx.length, None), None, None


def _pieces(heard: Tensor, spectra: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of (R, B, T) of about `ROWS` rows each, with their filters (r, 1, F)."""
    size = max(1, ROWS // heard.shape[1])
    return zip(torch.split(heard, size), torch.split(spectra[:, None], size), strict=True)


def _back(spectra: Tensor, length: int, samples: int) -> Tensor:
    heard: Tensor = torch.fft.irfft(spectra, length)
    return heard[..., :samples]
