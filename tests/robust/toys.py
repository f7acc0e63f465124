"""Small victims and data sets for tests of the engine: fast by size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.types import Clip, Dataset, VictimSpec
from robust.victims import Victim

LABELS = ("high", "low", "middle")
SAMPLE_RATE, CLIP_SECONDS = 8000, 0.05
SAMPLES = round(SAMPLE_RATE * CLIP_SECONDS)


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    """A small convolutional net on (B, T) waveforms."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, 8, 32, stride=4),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 16, 9),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )
        nn.init.normal_(net[-1].weight, std=3.0)
        net.eval()
        with torch.no_grad():  # so that noise is heard as every class
            net[-1].bias -= net(0.2 * torch.randn(200, SAMPLES)).mean(dim=0)
    return net


def victim(task: str = "multiclass", seed: int = 0) -> Victim:
    """The network behind the contract."""
    return Victim.wrap(
        network(seed=seed), sample_rate=SAMPLE_RATE, labels=LABELS, task=task, clip_seconds=CLIP_SECONDS, name="toy"
    ).eval()


class ToyData(Dataset):
    """Noise clips whose labels are what `victim` answers, apart from every eighth."""

    name, split, labels = "toys", "test", LABELS

    def __init__(self, count: int, teacher: Victim, padded: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.audio = 0.2 * torch.randn(count, SAMPLES, generator=generator).clamp(-4, 4)
        self.valid = torch.ones(count, SAMPLES, dtype=torch.bool)
        if padded:
            self.valid[:, SAMPLES * 3 // 4 :] = False
            self.audio[~self.valid] = 0
        self.task = teacher.spec.task
        with torch.no_grad():
            logits = teacher({"audio": self.audio})
        if self.task == "multilabel":
            self.target: Tensor = (logits > logits.median(dim=0).values).float()
        else:
            self.target = logits.argmax(dim=1)
            self.target[::8] = (self.target[::8] + 1) % 3

    def __len__(self) -> int:
        return len(self.audio)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return Clip(f"toy/{index}", {"audio": self.audio[index]}, self.target[index], {"audio": self.valid[index]})

    def fingerprint(self) -> str:
        return f"toys-{len(self)}"
