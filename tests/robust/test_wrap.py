"""Modules that the suite has never seen, behind `Victim.wrap`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robust
from robust.errors import VictimError
from robust.frontends.logmel import LogMel
from robust.types import Clip, Dataset, VictimSpec
from robust.victims.loading import load_victim

LABELS = ("a", "b", "c", "d")
RATE, SECONDS = 16_000, 0.5


class MelResNet(nn.Module):
    """torchvision's ResNet-18 on the log-mel of a waveform."""

    def __init__(self, task: str) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.mel = LogMel(sample_rate=RATE, n_fft=512, hop_length=320, n_mels=32, fmin=50, fmax=8000)
        self.net = resnet18(num_classes=len(LABELS))
        self.task = task

    def forward(self, audio: Tensor) -> Tensor:
        image = self.mel(audio)[:, None].expand(-1, 3, -1, -1) / 20
        return self.net(image)


class Tones(Dataset):
    """Tones of four pitches in noise: one of them (multiclass) or any number (multilabel)."""

    name, split, labels = "tones", "test", LABELS

    def __init__(self, count: int, task: str, seed: int) -> None:
        self.task = task
        generator = np.random.default_rng(seed)
        present = np.eye(4)[np.arange(count) % 4] if task == "multiclass" else generator.random((count, 4)) < 0.4
        time = np.arange(round(RATE * SECONDS)) / RATE
        waves = np.sin(2 * np.pi * np.array([300, 900, 1800, 3600])[:, None] * time)
        mixed = 0.1 * present @ waves + 0.05 * generator.standard_normal((count, len(time)))
        self.audio = torch.from_numpy(mixed.clip(-1, 1).astype(np.float32))
        self.target = torch.from_numpy(present.argmax(1) if task == "multiclass" else present.astype(np.float32))

    def __len__(self) -> int:
        return len(self.audio)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return Clip(f"tone/{index}", {"audio": self.audio[index]}, self.target[index])

    def fingerprint(self) -> str:
        return "tones"


def trained(task: str) -> robust.Victim:
    """A ResNet-18 that has heard a few dozen tones, wrapped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MelResNet(task)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.5  # sixteen steps must do
    data = Tones(96, task, seed=1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    loss = nn.CrossEntropyLoss() if task == "multiclass" else nn.BCEWithLogitsLoss()
    for _ in range(4):
        for first in range(0, 96, 24):
            optimizer.zero_grad()
            loss(module(data.audio[first : first + 24]), data.target[first : first + 24]).backward()
            optimizer.step()
    return robust.Victim.wrap(module.eval(), sample_rate=RATE, labels=LABELS, task=task, clip_seconds=SECONDS)


@pytest.mark.parametrize(("task", "metric"), [("multiclass", "accuracy"), ("multilabel", "mAP")])
def test_resnet18_on_a_log_mel(task: str, metric: str) -> None:
    victim = trained(task)
    statistics = {name: value.clone() for name, value in victim.state_dict().items()}
    result = robust.attack(victim, Tones(24, task, seed=2), norm="linf", eps=0.02, steps=10)
    assert result.clean.metric == result.robust.metric == metric
    assert result.clean.score > 0.8
    assert result.robust.score < result.clean.score - 0.3
    assert result.summary["audit"]["violations"] == 0
    assert not [check for check in result.checks if check.verdict == "fail"]
    for name, value in victim.state_dict().items():  # BatchNorm's statistics above all
        assert torch.equal(value, statistics[name]), name


class Speaks(nn.Module):
    """Returns its logits in one of the ways that people return them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear, self.how = nn.Linear(160, 3), how

    def forward(self, audio: Tensor) -> Tensor | Mapping[str, Tensor] | tuple[Tensor, None] | object:
        logits = self.linear(audio)
        if self.how == "attribute":
            return type("Output", (), {"logits": logits})()
        return {"tensor": logits, "mapping": {"logits": logits}, "tuple": (logits, None), "text": "dog"}[self.how]


def wrap(module: nn.Module, **options: object) -> robust.Victim:
    given = {"sample_rate": 1600, "labels": ["x", "y", "z"], "clip_seconds": 0.1, **options}
    return robust.Victim.wrap(module, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["tensor", "mapping", "tuple", "attribute"])
def test_logits_are_found_where_people_put_them(how: str) -> None:
    module = Speaks(how)
    audio = torch.zeros(2, 160)
    torch.testing.assert_close(wrap(module)({"audio": audio}), module.linear(audio))


class Detaching(Speaks):
    def forward(self, audio: Tensor) -> Tensor:
        with torch.no_grad():
            return self.linear(audio)


class Deaf(Speaks):
    def forward(self, audio: Tensor) -> Tensor:
        return self.linear(torch.ones_like(audio)) + 0 * audio[:, :3]


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (Speaks("text"), {}, "did not return logits"),
        (Detaching("tensor"), {}, "detaches gradients"),
        (Deaf("tensor"), {}, "gives no gradient to 'audio'"),
        (Speaks("tensor"), {"labels": ["x", "y"]}, r"expected\s+\(batch, 2\)"),
        (Speaks("tensor"), {"sample_rate": 8000}, "fails on inputs of its own spec"),
        (Speaks("tensor"), {"modalities": ["audio", "depth"]}, "needs a shape and bounds"),
    ],
)
def test_what_cannot_be_attacked_honestly_is_refused(module: nn.Module, options: dict[str, object], words: str) -> None:
    with pytest.raises(VictimError, match=words):
        wrap(module, **options)


class Overwhelmed(Speaks):
    """Every unit is off where the sound is loud, as happens to trained networks on noise."""

    def forward(self, audio: Tensor) -> Tensor:
        return self.linear(audio) * (0.01 - audio.square().mean(dim=1, keepdim=True)).clamp_min(0)


def test_a_victim_that_is_deaf_to_loud_noise_alone_is_taken() -> None:
    assert wrap(Overwhelmed("tensor")).spec.labels == ("x", "y", "z")


def test_two_modalities_reach_the_module_in_order() -> None:
    class Both(nn.Module):
        def forward(self, audio: Tensor, video: Tensor) -> Tensor:
            return torch.stack([audio.sum(1), video.flatten(1).sum(1)], dim=1)

    victim = wrap(Both(), labels=["x", "y"], modalities=["audio", "video"], shapes={"video": (2, 3, 4, 4)})
    out = victim({"video": torch.ones(1, 2, 3, 4, 4), "audio": torch.ones(1, 160)})
    assert out.tolist() == [[160.0, 96.0]]


def test_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python of the README, on a module and recordings made here."""
    import re

    import soundfile

    generator = np.random.default_rng(0)
    for label in ("dog", "rain", "siren"):
        (tmp_path / "my_recordings" / "test" / label).mkdir(parents=True)
        (tmp_path / "my_recordings" / "train" / label).mkdir(parents=True)
        for split in ("test", "train"):
            for index in range(4):
                path = tmp_path / "my_recordings" / split / label / f"{index}.wav"
                soundfile.write(path, 0.1 * generator.standard_normal(16_000), 16_000)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    module = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 4, 64, 32), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.zeros(1, 16_000))
    names: dict[str, object] = {"my_module": module}
    for block in blocks:
        exec(block, names)
    assert names["result"].summary["clips"] == 12  # type: ignore[attr-defined]
    assert len(names["curve"].scores) == 20  # type: ignore[attr-defined]


FILE = """\
import torch
import robust


class Mine(robust.Victim):
    def __init__(self, columns):
        super().__init__(robust.VictimSpec("mine", ("a", "b"), "multiclass", sample_rate=16_000, clip_seconds=0.1))
        self.columns = columns

    def forward(self, inputs):
        with torch.no_grad():
            return inputs["audio"][:, : self.columns]


def whole():
    return Mine(2)


def wrong():
    return Mine(3)
"""


def test_what_is_only_asked_for_scores_must_give_some(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    assert load_victim(f"{tmp_path}/mine.py:whole", gradients=False).spec.name == "mine"
    with pytest.raises(VictimError, match="gives no gradient to 'audio'"):
        load_victim(f"{tmp_path}/mine.py:whole")
    with pytest.raises(VictimError, match=r"logits of shape \(2, 3\), expected \(2, 2\)"):
        load_victim(f"{tmp_path}/mine.py:wrong", gradients=False)
