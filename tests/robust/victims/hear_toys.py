"""Tiny HEAR 2021 modules, each detaching in the way of one of the official wrappers, and a tiny task."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000
NET = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Log energies behind twelve short filters."""

    def __init__(self):
        super().__init__()
        self.sample_rate = 16000
        self.scene_embedding_size = self.timestamp_embedding_size = 12
        generator = torch.Generator().manual_seed(5)
        self.filters = nn.Parameter(torch.randn(12, 1, 64, generator=generator) / 8)
        self.norm = nn.Dropout(0.5)

    def energies(self, audio):
        heard = F.conv1d(audio[:, None], self.filters, stride=32)
        return self.norm(torch.log(heard.square().mean(2) + 1e-6))

    def forward(self, audio):
        return self.energies(audio)


def load_model(model_file_path=""):
    model = Net()
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path, weights_only=True))
    return model


def get_timestamp_embeddings(audio, model):
    raise NotImplementedError
'''
WAYS = {
    "toy_plain": """
def get_scene_embeddings(audio, model):
    return model(audio)
""",
    # the audio MLPs: decorators, and padding within, so that model(audio) is another embedding
    "toy_decorated": """
@torch.no_grad()
def get_scene_embeddings(audio, model):
    return model(F.pad(audio, (40, 200)))
""",
    "toy_inference": """
@torch.inference_mode()
def get_scene_embeddings(audio, model):
    return model(F.pad(audio, (40, 200)))
""",
    # PaSST: a method of the model within no_grad; its forward is another function
    "hear21passt": """
class Passt(Net):
    def forward(self, audio):
        return 2 * self.energies(audio) + 1

    def get_scene_embeddings(self, audio):
        return self.energies(audio)

def load_model(model_path="", mode="all"):
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    print("kernels made")
    return Passt()

def get_scene_embeddings(audio, model):
    model.eval()
    with torch.no_grad():
        return model.get_scene_embeddings(audio)
""",
    # EfficientNet: a method of a name of its own, and a floor below the loudest clip of a batch
    "efficient_latent": """
class Latent(Net):
    def clip_embedding(self, audio):
        floor = audio.abs().max() / 100
        return self.energies(torch.where(audio.abs() < floor, audio + floor, audio))

    def forward(self, audio):
        return self.energies(audio), 3

def load_model(model_file_path=None, device=None):
    return Latent()

def get_scene_embeddings(x, model):
    model.eval()
    with torch.no_grad():
        return model.clip_embedding(x)
""",
    # Wav2CLIP: NumPy before and after, and frames cut in NumPy unless told otherwise
    "wav2clip_hear": """
class Framed(Net):
    frame_length, hop_length = 1600, 800

    def forward(self, audio):
        if self.frame_length and self.hop_length:
            frames = np.lib.stride_tricks.sliding_window_view(audio.cpu().numpy(), 1600, axis=1)[:, ::800]
            return self.energies(torch.from_numpy(frames.copy()).flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.energies(audio)

def load_model(model_file_path):
    return Framed()

def get_scene_embeddings(audio, model):
    model.frame_length = None
    model.hop_length = None
    return torch.from_numpy(model(torch.from_numpy(audio.to("cpu").numpy())).detach().cpu().numpy())
""",
    # near: what it hears is rounded to 12 bits
    "toy_rounded": """
def get_scene_embeddings(audio, model):
    with torch.no_grad():
        return model((2047 * audio).round() / 2047)
""",
    # out of reach: NumPy all the way, an embedding that nothing else gives
    "toy_numpy": """
def get_scene_embeddings(audio, model):
    frames = np.lib.stride_tricks.sliding_window_view(audio.numpy(), 64, axis=1)[:, ::32]
    heard = frames @ model.filters.detach().numpy()[:, 0].T
    return torch.from_numpy(-np.log((heard ** 2).mean(1) + 1e-6))
""",
}
"""Module -> its `get_scene_embeddings`, after `NET`."""


@pytest.fixture
def hear_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of all modules, importable within a test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, way in WAYS.items():
        (folder / f"{name}.py").write_text(NET + way)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in list(sys.modules):
        found = getattr(sys.modules[name], "__file__", None)
        if found is not None and Path(found).parent == folder:
            del sys.modules[name]


def write_task(root: Path, clips: int = 8, seconds: float = 0.25) -> Path:
    """A HEAR task on disk: low and high tones in noise, so many of each in every split."""
    root.mkdir()
    settings = {"embedding_type": "scene", "prediction_type": "multiclass", "split_mode": "trainvaltest"}
    (root / "task_metadata.json").write_text(json.dumps(settings))
    (root / "labelvocabulary.csv").write_text("idx,label\n0,low\n1,high\n")
    generator = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        folder = root / str(RATE) / split
        folder.mkdir(parents=True)
        names = {}
        for index in range(clips):
            for label, hz in (("low", 400), ("high", 3000)):
                time = np.arange(round(seconds * RATE)) / RATE
                tone = 0.2 * np.sin(2 * np.pi * hz * generator.uniform(0.9, 1.1) * time + generator.uniform(0, 6))
                soundfile.write(
                    folder / f"{label}-{index}.wav", tone + 0.01 * generator.standard_normal(len(time)), RATE
                )
                names[f"{label}-{index}.wav"] = [label]
        (root / f"{split}.json").write_text(json.dumps(names))
    return root
