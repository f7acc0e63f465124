"""The Python of the guides in docs/ runs as it stands, on small untrained victims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from robust.data import load_data
from robust.victims import Victim, build_victim

GUIDE = Path(__file__).parents[2] / "docs" / "modalities.md"


def untrained(meeting: str, labels: tuple[str, ...]) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = {"embedding": 64, "transformer_layers": 1, "video_width": 4}
        return build_victim(f"av-{meeting}", labels=labels, **tiny).eval()


@pytest.mark.filterwarnings("ignore")
def test_guide_to_modalities_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    data = load_data("events", split="validation", clips=8)
    names: dict[str, object] = {
        "victim": untrained("mid", data.labels),
        "hearing": untrained("audio", data.labels),
        "seeing": untrained("video", data.labels),
        "data": data,
        "training": load_data("events", split="validation", clips=8),
    }
    for block in blocks:
        exec(block, names)
    assert set(names["found"].frame["agree"]) <= {True, False}  # type: ignore[attr-defined]


def test_every_command_of_the_guide_is_one() -> None:
    """Options named in the guide exist."""
    from typer.main import get_command

    from robust.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^robust (\w+) (.*?)(?:#|$)", GUIDE.read_text(), flags=re.MULTILINE)
    assert len(lines) >= 12
    for command, rest in lines:
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (command, rest)
