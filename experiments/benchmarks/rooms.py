"""What rooms cost: convolution with cached spectra beside its peers, and what it takes to build a bank.

    python experiments/benchmarks/rooms.py --rounds 7
    python experiments/benchmarks/rooms.py --bank

Ratios are of processor time, in runs that take turns in one process with one thread: the median over rounds, and
quartiles. All but audiomentations, which has no gradients, go forward and backward; audiomentations goes clip by clip
from tensor to array and back, with the files that it reads in its cache, or (`read`) read anew, as it does beyond 128
files. Uncached transforms are of length T + L - 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from robust.channels.bank import load_bank
from robust.channels.convolution import Responses

RATE = 16_000
EVERY = "every clip in every room, cached spectra"
EACH = "a room for each clip, cached spectra"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--responses", type=int, default=100)
    parser.add_argument("--clip-seconds", type=float, default=1.0)
    parser.add_argument("--response-seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bank", action="store_true", help="time a bank of 500 + 100 rooms instead, built anew")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.bank:
        bank()
        return
    draw = torch.Generator().manual_seed(0)
    clips = 0.1 * torch.randn(given.clips, round(given.clip_seconds * RATE), generator=draw)
    length = round(given.response_seconds * RATE)
    decay = 10 ** (-3 * torch.arange(length) / length)
    responses = decay * torch.randn(given.responses, length, generator=draw)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(subjects(clips, responses, Path(folder)), given.rounds, given.clips * given.responses)


def subjects(clips: Tensor, responses: Tensor, folder: Path) -> dict[str, tuple[str, Callable[[], object]]]:
    """Name -> which of ours it stands beside, and all clips through all responses, and back where gradients are."""
    kept, count, whole = Responses(responses), len(responses), clips.shape[1] + responses.shape[1] - 1
    two = 1 << (whole - 1).bit_length()
    rooms = torch.arange(len(clips))
    works: dict[str, tuple[str, Callable[[Tensor], None]]] = {
        EVERY: (EVERY, lambda leaf: every(leaf, kept)),
        "  uncached FFT, all responses at once": (EVERY, lambda leaf: every_uncached(leaf, responses, count, whole)),
        "  uncached FFT, 8 responses at once": (EVERY, lambda leaf: every_uncached(leaf, responses, 8, whole)),
        "  uncached FFT, power of two, 8 at once": (EVERY, lambda leaf: every_uncached(leaf, responses, 8, two)),
        EACH: (EACH, lambda leaf: each(leaf, kept, rooms)),
        "  uncached FFT": (EACH, lambda leaf: each_uncached(leaf, responses, rooms, whole)),
    }
    found = {name: (ours, both_ways(work, clips)) for name, (ours, work) in works.items()}
    for rate in (RATE, 48_000):
        for read in (False, True):
            name = f"  audiomentations, {rate // 1000} kHz files{', read' if read else ''}, forward alone"
            found[name] = EVERY, per_clip(clips, responses, folder / str(rate), rate, read)
    return found


def both_ways(work: Callable[[Tensor], None], clips: Tensor) -> Callable[[], object]:
    """Runs `work`, which goes backward, on clips that want a gradient."""

    def run() -> object:
        leaf = clips.clone().requires_grad_()
        work(leaf)
        return leaf.grad

    return run


def every(leaf: Tensor, kept: Responses) -> None:
    for _, some in kept.every(leaf):
        some.sum().backward()


def every_uncached(leaf: Tensor, responses: Tensor, at_once: int, size: int) -> None:
    for some in responses.split(at_once):
        uncached(leaf, some[:, None], size).sum().backward()


def each(leaf: Tensor, kept: Responses, rooms: Tensor) -> None:
    for shift in range(len(kept)):
        kept.one_each(leaf, (rooms + shift) % len(kept)).sum().backward()


def each_uncached(leaf: Tensor, responses: Tensor, rooms: Tensor, size: int) -> None:
    for shift in range(len(responses)):
        uncached(leaf, responses[(rooms + shift) % len(responses)], size).sum().backward()


def uncached(clips: Tensor, responses: Tensor, size: int) -> Tensor:
    """As torchaudio's fftconvolve, whose length is that of the whole result."""
    spectrum = torch.fft.rfft(clips, size) * torch.fft.rfft(responses, size)
    return torch.fft.irfft(spectrum, size)[..., : clips.shape[-1]]


def per_clip(clips: Tensor, responses: Tensor, folder: Path, rate: int, read: bool) -> Callable[[], object]:
    """`ApplyImpulseResponse` on one clip after the other, a room each time, from tensors to tensors."""
    from audiomentations import ApplyImpulseResponse
    from scipy.signal import resample_poly

    if not folder.exists():
        folder.mkdir()
        for number, response in enumerate(responses.numpy()):
            soundfile.write(folder / f"{number:03d}.wav", resample_poly(response, rate // 1000, RATE // 1000), rate)
    apply = ApplyImpulseResponse(folder, p=1.0, lru_cache_size=0 if read else 128)

    def work() -> None:
        for file in apply.ir_files:
            apply.parameters = {"should_apply": True, "ir_file_path": file}
            for clip in clips:
                torch.from_numpy(apply.apply(clip.numpy(), RATE))

    return work


def compare(subjects: dict[str, tuple[str, Callable[[], object]]], rounds: int, pairs: int) -> None:
    """Prints a row for each subject."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, (_, work) in subjects.items():
            started = time.process_time()
            work()
            if turn:  # the first fills caches
                seconds[name].append(time.process_time() - started)
    print(f"{'':54} {'ms a pair':>9}   over ours [quartiles]")
    for name, (ours, _) in subjects.items():
        low, middle, high = np.percentile(np.divide(seconds[name], seconds[ours]), [25, 50, 75])
        print(f"{name:54} {1000 * np.median(seconds[name]) / pairs:9.3f} {middle:7.1f} [{low:.1f}, {high:.1f}]")


def bank() -> None:
    """Builds one in an empty cache, and loads it again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROBUST_CACHE"] = folder
        for what in ("built", "loaded"):
            started = time.perf_counter()
            found = load_bank("generic")
            wall = time.perf_counter() - started
            used = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
            print(f"{len(found.table)} rooms {what} in {wall:.2f} s; {used:.0f} s of processor so far")
        off = [abs(row["rt60_s_measured"] / row["rt60_s"] - 1) for row in found.table]
        print(f"RT60 off by {100 * np.mean(off):.1f} % in the mean, {100 * max(off):.1f} % at most")


if __name__ == "__main__":
    main()
