"""What the benchmarks attack: `ast` and `cnn14` trained on FSDD, and clips they have right."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import robust
from robust.evaluation.engine import AlignedData
from robust.training import train
from robust.victims import Victim


def arguments(description: str) -> argparse.ArgumentParser:
    """Options of both benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path("../shared/data/fsdd"), help="folder of FSDD")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="holds ast-fsdd and cnn14-fsdd")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--victims", nargs="+", default=["ast", "cnn14"])
    return parser


def subject(name: str, options: argparse.Namespace) -> tuple[Victim, Tensor, Tensor]:
    """A victim trained on FSDD, waveforms (N, T) of test clips it has right, and their labels."""
    path = options.checkpoints / f"{name}-fsdd.safetensors"
    if not path.is_file():
        train(name, "fsdd", root=options.root, out=path, init="embedded" if name == "ast" else None)
    victim = robust.load_victim(name, weights=path)
    data = AlignedData(robust.load_data("fsdd", root=options.root, limit=options.clips), victim.spec)
    batch = data.batch(range(len(data)))
    with torch.no_grad():
        right = victim(batch.inputs).argmax(dim=1) == batch.labels
    for parameter in victim.parameters():  # so that no peer pays for gradients that it forgot to switch off
        parameter.requires_grad_(False)
    return victim, batch.inputs["audio"][right], batch.labels[right]
