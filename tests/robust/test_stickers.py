"""Stickers from the fit to the run folder, on a victim that looks into two corners of the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from attacks.errors import RobustError, ThreatModelError
from attacks.sticker import STILL, Stickers, Views, printable, random_stickers, stuck
from attacks.sticker_search import StickerSearch
from robust.cli.sticker import sticker as command
from robust.data.one_class import OneClass
from robust.errors import DataError, StoreError, VictimError
from robust.evaluation.engine import AlignedData
from robust.evaluation.stickers import Wearing, fit_blend, sticker_rates, stickers_dict, stickers_from
from robust.evaluation.store import Store
from robust.stickers import StickerRun, enlarged, sticker
from robust.types import Clip, Dataset, VictimSpec
from robust.victims import Victim

LABELS = ("neither", "red", "blue")
PICTURE = (2, 3, 12, 12)
SEARCH = StickerSearch(dots=2, radius=0.2, grid=3, search_clips=8, steps=4, clips_per_step=8)


class Corners(nn.Module):
    """Class 1 where the lower right is red, 2 where the upper left is blue; a loud clip is class 0 in any case."""

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        pictures = video.mean(dim=1)
        low, high = pictures[..., -4:, -4:].mean(dim=(2, 3)), pictures[..., :4, :4].mean(dim=(2, 3))
        red, blue = low[:, 0] - low[:, 1:].mean(dim=1), high[:, 2] - high[:, :2].mean(dim=1)
        return torch.stack([0.15 + 10 * audio.abs().mean(dim=1), red, blue], dim=1) * 10


def victim(task: str = "multiclass") -> Victim:
    return Victim.wrap(
        Corners(),
        sample_rate=100,
        clip_seconds=0.2,
        labels=LABELS,
        task=task,
        modalities=("audio", "video"),
        shapes={"video": PICTURE},
        name="corners",
    ).eval()


class Pictures(Dataset):
    """Grey noise, labelled in turns `blue`, `neither`, `red`, and painted so; told in another order than the victim."""

    name, labels, modalities = "pictures", ("blue", "neither", "red"), ("audio", "video")

    def __init__(self, split: str, count: int = 24) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.split, self.reads = split, 0
        self.video = 0.35 + 0.3 * torch.rand(count, *PICTURE, generator=generator)
        self.video[0::3, :, 2, :4, :4] += 0.35
        self.video[2::3, :, 0, -4:, -4:] += 0.35

    def __len__(self) -> int:
        return len(self.video)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        self.reads += 1
        return Clip(
            f"{self.split}/{index}", {"audio": torch.zeros(20), "video": self.video[index]}, torch.tensor(index % 3)
        )

    def fingerprint(self) -> str:
        return f"pictures-{self.split}"


def run(**given: Any) -> StickerRun:
    settings = {"source": "neither", "target": "red", "config": SEARCH} | given
    return sticker(victim(), Pictures("train"), Pictures("test"), **settings)


def test_a_run_breaks_clips_it_never_saw_where_random_dots_do_not(tmp_path: Path) -> None:
    found = run(out=str(tmp_path / "run"))
    assert found.targeted is not None
    assert found.targeted.clips == 8
    assert found.targeted.score == found.untargeted.score == 1.0
    told = found.summary
    assert told["jittered"]["targeted"]["random"]["score"] < 0.5
    assert told["still"]["targeted"]["rate"]["metric"] == "targeted success"
    assert told["jittered"]["targeted"]["difference"]["p"] < 0.1
    assert told["fitted_on"]["fingerprint"] == OneClass(Pictures("train"), "neither", victim().spec).fingerprint()
    # What the summary says is what the records say, and what the sheet does when it is put on by hand.
    sheet = stickers_from(json.loads((tmp_path / "run" / "stickers.json").read_text()))
    worn = stuck(Pictures("test").video[1::3], sheet)
    logits = Corners()(torch.zeros(8, 20), worn)
    assert np.allclose(np.stack(found.records["stickers"]["logits"].tolist()), logits.numpy(), atol=1e-4)
    assert set(found.records["stickers"]["label_name"]) == {"neither"}
    for name in ("stickers", "random", "stickers-jittered", "random-jittered", "bare-jittered"):
        assert len(Store.read(tmp_path / "run" / name).records()) == 8
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(told))


def test_pictures_show_what_was_done(tmp_path: Path) -> None:
    found = run(out=str(tmp_path / "run"), clips=3)
    files = sorted((tmp_path / "run" / "video").iterdir())
    assert len(files) == 3 * 2 * 2
    before, after = (np.asarray(Image.open(file)) for file in (files[0], files[2]))
    assert ("original" in files[0].name, "stickers" in files[2].name) == (True, True)
    assert before.shape == after.shape == (252, 252, 3)
    row, column = (round(float(part) * 252) for part in found.result.stickers.centres[-1])
    assert (before[row, column] != after[row, column]).any()
    sheet = np.asarray(Image.open(tmp_path / "run" / "sheet.png"))
    assert (sheet.min(axis=(0, 1)) < 255).any()
    assert torch.equal(enlarged(torch.eye(2)[None], 4)[0], torch.kron(torch.eye(2), torch.ones(2, 2)))


def test_results_do_not_depend_on_the_batch_size_and_follow_the_seed() -> None:
    one, other, third = run(batch_size=8), run(batch_size=3), run(seed=1)
    assert torch.allclose(one.result.stickers.centres, other.result.stickers.centres, atol=1e-4)
    for name, records in one.records.items():
        assert records["prediction"].tolist() == other.records[name]["prediction"].tolist()
        for column in ("shift_down", "blur", "gain"):
            assert records[column].tolist() == other.records[name][column].tolist()
    assert one.result.trace != third.result.trace


def test_untargeted_runs_have_no_targeted_rate() -> None:
    found = run(target=None)
    assert found.targeted is None
    assert "targeted" not in found.summary["still"]
    assert found.untargeted.score == 1.0


def test_all_conditions_show_a_clip_in_the_same_view() -> None:
    batch = AlignedData(Pictures("test"), victim().spec).batch(range(6))
    sheet = Stickers(torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, 0.0, 0.0]]))
    made = {
        name: Wearing(worn, Views(), shuffled, name=name).apply(None, batch, torch.empty(0), 5)
        for name, worn, shuffled in (("bare", None, False), ("worn", sheet, False), ("random", sheet, True))
    }
    for column in ("shift_down", "shift_right", "blur", "gain"):
        assert made["bare"].columns[column] == made["worn"].columns[column] == made["random"].columns[column]
        assert len(set(made["bare"].columns[column])) == 6
    assert made["bare"].columns["covered"] == [0.0] * 6
    assert all(0.01 < share < 0.1 for share in made["worn"].columns["covered"])
    again = Wearing(sheet, Views(), True).apply(None, AlignedData(Pictures("test"), victim().spec).batch([4]), None, 5)
    assert torch.equal(again.inputs["video"][0], made["random"].inputs["video"][4])
    still = Wearing(None, STILL).apply(None, batch, torch.empty(0), 5)
    assert torch.equal(still.inputs["video"], batch.inputs["video"])
    assert json.dumps(Wearing(sheet, shuffled=True).describe())


def test_rates_are_over_clips_that_a_bare_lens_leaves_right() -> None:
    worn = pd.DataFrame({"prediction": [1, 1, 0, 2, 1], "correct": [False, False, True, False, False]})
    shuffled = pd.DataFrame({"prediction": [0, 1, 0, 0, 0], "correct": [True, False, True, True, True]})
    told = sticker_rates(worn, shuffled, np.array([True, True, True, True, False]), 1)
    assert told["clean"]["score"] == pytest.approx(0.8)
    assert (told["targeted"]["rate"]["score"], told["targeted"]["rate"]["clips"]) == (0.5, 4)
    assert told["targeted"]["random"]["score"] == 0.25
    assert told["untargeted"]["rate"]["score"] == 0.75
    assert told["untargeted"]["difference"]["difference"] == pytest.approx(0.5)
    nobody = sticker_rates(worn, shuffled, np.zeros(5, dtype=bool), None)
    assert nobody["untargeted"]["rate"]["score"] is None
    json.dumps(nobody)


def test_the_blend_is_found_again_in_photographs() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 6, generator=generator)
    plain = nn.functional.interpolate(coarse, size=48, mode="bilinear")
    dots = Stickers(torch.tensor([[0.3, 0.3], [0.6, 0.7]]), torch.tensor([[0.9, 0.1, 0.1], [0.0, 0.6, 0.9]]), 0.2)
    truth = replace(dots, alpha_max=0.45, beta=1.4)
    taken = stuck(plain[:, None], truth)[:, 0] + 0.005 * torch.randn(2, 3, 48, 48, generator=generator)
    alpha, beta = fit_blend(taken.clamp(0, 1), plain, dots)
    assert alpha == pytest.approx(0.45, abs=0.03)
    assert beta == pytest.approx(1.4, abs=0.15)
    for wrong in (plain[:1], plain[:, :2], plain[..., :10]):
        with pytest.raises(DataError):
            fit_blend(wrong, plain if wrong.shape != plain[..., :10].shape else wrong, dots)


def test_a_sheet_survives_json() -> None:
    sheet = random_stickers(
        Stickers(torch.zeros(3, 2), torch.zeros(3, 3), 0.2, 0.3, 1.5),
        torch.tensor(list(printable().values())),
        [torch.Generator().manual_seed(0)],
    )
    sheet = sheet.moved(sheet.centres[0], sheet.colours[0])
    again = stickers_from(json.loads(json.dumps(stickers_dict(sheet))))
    assert torch.equal(again.centres, sheet.centres)
    assert torch.equal(again.colours, sheet.colours)
    assert (again.radius, again.alpha_max, again.beta) == (0.2, 0.3, 1.5)
    with pytest.raises(DataError, match="beta missing"):
        stickers_from({name: value for name, value in stickers_dict(sheet).items() if name != "beta"})


def test_one_class_reads_labels_once_where_they_are_not_known() -> None:
    data, spec = Pictures("test"), victim().spec
    part = OneClass(data, "red", spec, limit=5)
    assert data.reads == len(data)
    assert [part.clip_id(place, spec) for place in range(len(part))] == [f"test/{index}" for index in (2, 5, 8, 11, 14)]
    assert all(int(part.clip(place, spec).label) == 2 for place in range(len(part)))
    assert part.fingerprint() != OneClass(data, "red", spec, limit=4).fingerprint()

    known = Pictures("test")
    known.targets = [index % 3 for index in range(len(known))]
    assert OneClass(known, "red", spec).indices == OneClass(data, "red", spec).indices
    assert known.reads == 0
    for given, said in (({"label": "reed"}, "Did you mean 'red'"), ({"label": "red", "limit": 0}, "limit=0")):
        with pytest.raises(DataError, match=said):
            OneClass(data, spec=spec, **given)


def test_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    cases: list[tuple[dict[str, Any], type[RobustError], str]] = [
        ({"target": "rad"}, DataError, "Did you mean 'red'"),
        ({"source": "nether"}, DataError, "Did you mean 'neither'"),
        ({"target": "neither"}, ThreatModelError, "choose another"),
        ({"dots": 3}, ThreatModelError, "contradict"),
        ({"out": str(tmp_path / "taken")}, StoreError, "holds something"),
    ]
    for given, kind, said in cases:
        with pytest.raises(kind, match=said):
            run(**given)
    with pytest.raises(VictimError, match="many labels"):
        sticker(victim("multilabel"), Pictures("train"), Pictures("test"), source="neither")
    deaf = Victim.wrap(nn.Linear(20, 3), sample_rate=100, clip_seconds=0.2, labels=LABELS, name="blind")
    with pytest.raises(VictimError, match="sees video"):
        sticker(deaf, Pictures("train"), Pictures("test"), source="neither")


def test_the_command_prints_rates_and_json() -> None:
    app = typer.Typer()
    app.command()(command)
    words = ["--source", "siren", "--data-option", "clips=32", "--check"]
    told = CliRunner().invoke(app, [*words, "--target", "car"])
    assert told.exit_code == 0, told.output
    assert "taken for car" in told.output
    found = CliRunner().invoke(app, [*words, "--dots", "1", "--json"])
    summary = json.loads(found.stdout)
    assert (summary["source"], summary["target"], len(summary["stickers"]["centres"])) == ("siren", None, 1)
    assert summary["config"]["steps"] == 2
