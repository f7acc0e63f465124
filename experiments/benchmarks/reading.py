"""What reading video costs: clips a second, cores kept busy, memory kept, for threads and for worker processes.

    python experiments/benchmarks/reading.py --clips 1000 --height 240 --width 320

Writes H.264 and AAC clips of one second into a temporary folder, and reads them as VGGSound for a victim of 16 kHz
sound and 8 frames of 112 x 112 pixels. One thread is measured before and after the others, since other work on the
machine moves all figures: compare ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from robust.data import load_data
from robust.data.reading import default_workers, read_clips
from robust.types import Clip, Dataset, VictimSpec

DISTINCT = 40
WARM = 0.2  # share of the clips after which memory must not grow
RATE = 44_100
FPS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--size", type=int, default=112, help="pixels of a side that the victim takes")
    parser.add_argument("--workers", type=int, default=default_workers())
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = write_set(Path(folder), given.clips, given.height, given.width)
        spec = VictimSpec(
            "benchmark",
            data.labels,
            modalities=("audio", "video"),
            shapes={"video": (8, 3, given.size, given.size)},
        )
        print(f"{'':>14} {'clips/s':>8} {'cores busy':>10} {'MiB at ' + format(WARM, '.0%'):>10} {'MiB at end':>10}")
        for name, workers in (("threads", 1), ("threads", given.workers), ("processes", given.workers), ("threads", 1)):
            clips = read_clips(data, spec, range(len(data)), workers=workers)
            measure(f"{workers} {name}", processes(data, spec, workers) if name == "processes" else clips, len(data))


def measure(name: str, clips: Iterator[Clip], count: int) -> None:
    """Prints a row: the clips are read and dropped."""
    busy, started = cpu_seconds(), time.perf_counter()
    warm = 0.0
    for place, _ in enumerate(clips):
        if place == int(WARM * count):
            warm = memory_mib()
    wall = time.perf_counter() - started
    cores = (cpu_seconds() - busy) / wall
    print(f"{name:>14} {count / wall:8.0f} {cores:10.2f} {warm:10.0f} {memory_mib():10.0f}", flush=True)


def processes(data: Dataset, spec: VictimSpec, workers: int) -> Iterator[Clip]:
    """The same by worker processes of torch's DataLoader."""

    class Clips(torch.utils.data.Dataset[Clip]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> Clip:
            return data.clip(index, spec)

    yield from torch.utils.data.DataLoader(Clips(), batch_size=None, num_workers=workers)


def cpu_seconds() -> float:
    """User and system time of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def memory_mib() -> float:
    """Resident memory of this process, as Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_set(root: Path, clips: int, height: int, width: int) -> Dataset:
    """VGGSound's layout: a table and `clips` files, of which `DISTINCT` differ."""
    generator = np.random.default_rng(0)
    names = [f"clip{place:07d}" for place in range(clips)]
    for place, name in enumerate(names):
        path = root / "video" / f"{name}_000000.mp4"
        if place < DISTINCT:
            path.parent.mkdir(exist_ok=True)
            write_clip(path, height, width, generator)
        else:
            shutil.copy(root / "video" / f"{names[place % DISTINCT]}_000000.mp4", path)
    lines = [f"{name},0,class {place % 10},test" for place, name in enumerate(names)]
    (root / "vggsound.csv").write_text("\n".join([*lines, "absent,0,class 0,train"]))
    return load_data("vggsound", split="test", root=root)


def write_clip(path: Path, height: int, width: int, generator: np.random.Generator) -> None:
    """A second of a moving pattern and of noise."""
    pattern = generator.integers(0, 256, (height // 8 + FPS, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        seen = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
        seen.width, seen.height, seen.pix_fmt = width, height, "yuv420p"
        heard = container.add_stream("aac", rate=RATE)
        heard.layout = "mono"
        for place in range(FPS):
            picture = np.ascontiguousarray(pattern[8 * place : 8 * place + height, :width])
            container.mux(seen.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(seen.encode(None))
        sound = generator.uniform(-0.3, 0.3, (1, RATE)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(heard.encode(frame))
        container.mux(heard.encode(None))


if __name__ == "__main__":
    main()
