"""Every code block of docs/ runs as it stands: Python and commands in one folder and one namespace per page.

python   runs; with a title it is written to that file, to be used by what follows
yaml     is checked as a study file and written to its title
bash     every line runs: `robust` in this process with the counts that `--check` sets, scripts of figures/ likewise;
         a titled script runs beside stand-ins for the programs of a cluster
text     is shown, not run
"""

from __future__ import annotations

import os
import pydoc
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import nn
from typer.main import get_command

import robust
from robust.channels.presets import read_channel
from robust.cli import app, main
from robust.study import conditions, config
from robust.study.source import Source
from robust.victims import Victim, build_victim, registry

HOME = Path(__file__).parents[2]
DOCS = HOME / "docs"
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in DOCS.glob("*.md") if BLOCK.search(page.read_text()))

ONLY_PARSED = {
    "s3://": "there is no bucket here",
    "/nfs/": "nor such a mount",
    "--address": "nor a cluster; test_executors.py starts one",
    "--executor ray": "starting Ray takes longer than all else; test_executors.py does",
    "--executor processes": "as do worker processes",
    "air --model ast  ": "building 600 rooms takes a minute; test_channels_rooms_bank.py builds small banks",
    "--model wakeword --out": "its rooms likewise; the next line is without",
    "--data vggsound": "the data set is not here; test_video_sets.py makes one",
    "--data audioset-features": "likewise",
    "--audio street.flac": "published weights are not here; tests/robust/victims makes files of their form",
}
"""Commands that are parsed and not run, by a part of their line, and why."""
INSTALLED = dict(registry._ENTRIES)
"""What every command finds registered, whatever a page has registered in Python."""
CHECKED = (
    *("attack", "curve", "study", "universal", "train", "noise", "air", "music", "sticker", "certify", "generate"),
    "geometry",
    "pretrain",
)


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups(default="")) for match in BLOCK.finditer(page.read_text())]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, beside the repository's experiments and figures; data sets of a few clips."""
    from robust import data, training
    from robust.data import events, events_wake

    for name in ("experiments", "figures"):
        (tmp_path / name).symlink_to(HOME / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_model", "my_victim", "my_embeddings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    for split in events.DEFAULT_CLIPS:
        monkeypatch.setitem(events.DEFAULT_CLIPS, split, 32)
        monkeypatch.setitem(events_wake.DEFAULT_CLIPS, split, 32)
    whole, recipe = data.load_data, training.default_recipe

    def few(name: str, *, limit: int | None = None, **options: Any) -> Any:
        return whole(name, limit=limit and min(limit, 4), **options)

    monkeypatch.setattr(data, "load_data", few)
    monkeypatch.setattr(training, "default_recipe", lambda model: training.with_limits(recipe(model), max_steps=1))
    return tmp_path


def recordings(folder: Path) -> None:
    """Half a second of noise, ten times for each of three classes, and one file beside them."""
    generator = np.random.default_rng(0)
    for label in ("dog", "rain", "siren"):
        for number in range(10):
            path = folder / "my_recordings" / label / f"{label}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * generator.standard_normal(8000), 16_000)
    (folder / "labels.csv").write_text("file,label\ndog/dog0.wav,dog\nrain/rain1.wav,rain\nsiren/siren2.wav,siren\n")
    soundfile.write(folder / "doorbell.wav", 0.1 * generator.standard_normal(30_000), 44_100)


def network(classes: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, classes, 64, 8), nn.AdaptiveMaxPool1d(1), nn.Flatten())


def wrapped(labels: Sequence[str] = ("dog", "rain", "siren"), seconds: float = 0.25, **options: Any) -> Victim:
    return Victim.wrap(network(len(labels)), sample_rate=16_000, labels=labels, clip_seconds=seconds, **options)


def prelude(page: str, folder: Path) -> dict[str, Any]:
    """What a page takes for granted: the reader's recordings, models and data."""
    if page in ("own-model", "own-data", "zoo"):
        recordings(folder)
    if page == "zoo":
        save_wav2vec2(folder / "my_wav2vec2")
    if page == "own-data":
        return {"victim": wrapped(), "tagger": wrapped(task="multilabel")}
    if page == "modalities":
        return senses()
    if page == "attacks":
        return {"module": network(3)}
    if page in ("checks", "studies", "reports", "figures", "over-the-air"):
        data = robust.load_data("events", limit=4)
        return {"robust": robust, "victim": wrapped(data.labels), "rival": wrapped(data.labels), "data": data}
    if page == "purifiers":
        data = robust.load_data("events", limit=4)
        return {"robust": robust, "victim": wrapped(data.labels, seconds=1.0), "data": data}
    if page == "geometry":
        return {"victim": robust.load_victim("m3"), "data": robust.load_data("events", limit=32)}
    return {}


def save_wav2vec2(folder: Path) -> None:
    """A classifier of the reader's classes, tiny, as transformers saves it."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (10, 8), "conv_kernel": (16, 8), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    labels = {"id2label": dict(enumerate(("dog", "rain", "siren")))}
    config = Wav2Vec2Config(**sizes, **convolutions, **positions, **labels, classifier_proj_size=8)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def senses() -> dict[str, Any]:
    data = robust.load_data("events", split="validation", clips=8)
    tiny = {"embedding": 64, "transformer_layers": 1, "video_width": 4}
    named = {"victim": "mid", "hearing": "audio", "seeing": "video"}
    victims = {
        name: build_victim(f"av-{meeting}", labels=data.labels, **tiny).eval() for name, meeting in named.items()
    }
    return {**victims, "data": data, "training": data}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem != "checks":  # they cost more than all else together
        for module in ("robust.api", "robust.curves"):
            monkeypatch.setattr(f"{module}.run_checks", lambda subject, records: [])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = prelude(page.stem, place)
        for block in blocks(page):
            RUN[block.language](block, names, place, monkeypatch)
    if page.stem in AFTERWARDS:
        AFTERWARDS[page.stem](page.read_text(), names, place)


Names = dict[str, Any]


def run_python(block: Block, names: Names, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.title:
        (place / block.title).write_text(block.text)
    else:
        exec(compile(block.text, f"{block.text.splitlines()[0]}...", "exec"), names)


def run_yaml(block: Block, names: Names, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / block.title).write_text(block.text)
    if "channels" in yaml.safe_load(block.text):
        read_channel(block.title)
    else:
        config.check_study(Source(block.title, block.text))


def run_bash(block: Block, names: Names, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.title:
        run_script(block, place)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] in ("robust", "python"), line
        if words[0] == "python":
            script = partial(runpy.run_path, words[1], run_name="__main__")
            runs([*words[1:], "--out", "drawn"], script, monkeypatch)
        elif any(part in line for part in ONLY_PARSED):
            parsed(words[1:])
        else:
            with monkeypatch.context() as process:  # of its own, where a file of the page has registered nothing yet
                process.setattr(registry, "_ENTRIES", dict(INSTALLED))
                runs(shortened(words), main, process)


def runs(words: list[str], what: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls a program by its command line; it must end well."""
    monkeypatch.setattr(sys, "argv", words)
    code = None
    try:
        what()
    except SystemExit as stop:
        code = stop.code
    assert not code, words


def shortened(words: list[str]) -> list[str]:
    """The same command with counts of one; a study goes where it would without them, an attack into a new folder."""
    command = words[1]
    if command in ("attack", "air", "noise") and "--out" not in words:  # the usual name is the second it began in
        words = [*words, "--out", f"runs/{len(list(Path('runs').glob('*')))}"]
    if command == "thresholds":
        return [*words, "--limit", "2", "--steps", "1"]
    if command == "study" and "--out" not in words:
        words = [*words, "--out", f"runs/{yaml.safe_load(Path(words[2]).read_text())['name']}"]
    return [*words, "--check"] if command in CHECKED and "--check" not in words else words


def parsed(words: list[str]) -> None:
    """Command and options are known, and their values are of the right kind."""
    group: Any = get_command(app)
    group.commands[words[0]].make_context(words[0], words[1:])


def run_script(block: Block, place: Path) -> None:
    """A job of a cluster, whose programs only say how they were called."""
    programs = place / "bin"
    programs.mkdir()
    for name in ("srun", "robust", "sleep"):
        stand_in = programs / name
        # in one write: two of them run at once
        stand_in.write_text(f'#!/bin/bash\necho "$(printf "%q " {name} "$@")" >> "{place}/calls"\n')
        stand_in.chmod(0o755)
    (place / block.title).write_text(block.text)
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "SLURM_NNODES": "4",
        "SLURM_CPUS_PER_TASK": "16",
    }
    subprocess.run(["bash", block.title], cwd=place, env=environment, check=True, timeout=60)
    subprocess.run(["bash", "-c", "sleep 0.2"], check=True)  # what ran in the background has written
    calls = [shlex.split(line) for line in (place / "calls").read_text().splitlines()]
    (study,) = [words[1:] for words in calls if words[0] == "robust"]
    parsed(study)
    started = [words[words.index("ray") :] for words in calls if words[0] == "srun"]
    assert [words[:2] for words in started] == [["ray", "start"]] * 2
    assert study[study.index("--address") + 1] in " ".join(started[0] + started[1])
    ray = pytest.importorskip("ray.scripts.scripts")
    known = {option for parameter in ray.start.params for option in parameter.opts}
    assert {word.partition("=")[0] for words in started for word in words[2:]} <= known


def pass_over(block: Block, names: Names, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only shown."""


RUN = {"python": run_python, "yaml": run_yaml, "bash": run_bash, "text": pass_over}


def after_checks(text: str, names: Names, place: Path) -> None:
    """A section for every check that there is, and the example fails what it says."""
    asked = [check.name for check in names["result"].checks]
    assert re.findall(r"^## (S\d+ .*)$", text, flags=re.MULTILINE) == asked
    assert "S9 deterministic" in [check.name for check in names["found"].checks if check.verdict == "fail"]


def after_scaling(text: str, names: Names, place: Path) -> None:
    """The table is what the formula gives."""
    rows = re.findall(r"^\| .*? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        single, hours, half, half_hours = (float(number) for number in row)
        assert round(names["gpu_hours"](single / 2), 1) == hours
        assert round(names["gpu_hours"](half / 3), 1) == half_hours


def after_modalities(text: str, names: Names, place: Path) -> None:
    assert set(names["found"].frame["agree"]) <= {True, False}


def after_figures(text: str, names: Names, place: Path) -> None:
    """Every script is named, and each drew."""
    for script in (HOME / "figures").glob("*.py"):
        assert f"figures/{script.name}" in text
        assert list((place / "drawn").glob(f"{script.stem}*.pdf")), script.name


def after_zoo(text: str, names: Names, place: Path) -> None:
    """The guide's victim has been trained and attacked, and the wrapper that detaches was seen through."""
    assert names["foreign"].gradients == "inner module"
    assert names["victim"].spec.name == "mel-cnn"
    assert names["trained"].card["training"]["steps"] == 1
    assert names["result"].summary["audit"]["violations"] == 0
    assert names["result"].robust.score <= names["result"].clean.score


AFTERWARDS = {
    "checks": after_checks,
    "scaling": after_scaling,
    "modalities": after_modalities,
    "figures": after_figures,
    "zoo": after_zoo,
}


def test_reasons_are_needed() -> None:
    """What is only parsed is somewhere."""
    lines = "".join(block.text for page in PAGES for block in blocks(page))
    assert [part for part in ONLY_PARSED if part not in lines] == []


def test_the_reference_names_everything_public() -> None:
    """All that `import robust` gives; and whatever is named is there."""
    text = "".join((DOCS / name).read_text() for name in ("api.md", "attacks.md"))
    named = re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)
    assert {f"robust.{name}" for name in robust.__all__} <= set(named)
    for name in named:
        assert pydoc.locate(name) is not None, name


def test_every_page_is_in_the_contents() -> None:
    contents = (HOME / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in contents, page.name


TEMPLATE = HOME / "experiments" / "template.yaml"


def test_the_template_plans(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs(["robust", "study", str(TEMPLATE), "--dry-run", "--check"], main, monkeypatch)
    assert "cells    6, 0 done" in capsys.readouterr().out


def test_the_template_names_every_key() -> None:
    text = TEMPLATE.read_text()
    models = [config.Study, config.VictimEntry, config.Training, config.DataEntry, config.Claim]
    keys = {key for model in [*models, *conditions.KINDS.values()] for key in model.model_fields}
    assert {key for key in keys if not re.search(rf"\b{key}: ", text) and f"{key}:\n" not in text} == set()
    assert {kind for kind in conditions.KINDS if f"kind: {kind}" not in text} == set()


def test_what_the_template_has_commented_out_is_valid() -> None:
    text = re.sub(r"^( *)# ( *[\w-]+:)", r"\1\2", TEMPLATE.read_text(), flags=re.MULTILINE)
    text = text.replace("  av-mid:\n", "  av-video:\n  av-mid:\n", 1)
    study = config.check_study(Source("template.yaml", text))
    assert {condition.kind for condition in study.conditions.values()} == set(conditions.KINDS)
    assert study.victims["av-mid"].train is not None
