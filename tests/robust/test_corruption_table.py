"""The table of corruptions: mCE and its like by hand, intervals, resumption, the pinned reference, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import robust
from attacks.errors import ThreatModelError
from robust.corruption_run import check, noise
from robust.corruptions import CORRUPTIONS, SEVERITIES
from robust.corruptions.base import find_corruption
from robust.errors import DataError, StoreError
from robust.evaluation.corruption_cells import Cell, cells_of, one_thread_each
from robust.evaluation.corruption_reference import (
    Reference,
    from_hex,
    pinned_reference,
    pinned_table,
    to_hex,
)
from robust.evaluation.corruption_table import RESAMPLES, Scored, _mean_of, _ratio, corruption_summary
from robust.metrics.classification import wilson
from robust.plots.corruptions import draw_corruptions
from robust.types import Clip, Dataset, VictimSpec
from tests.robust.toys import LABELS, ToyData, network, victim

WHITE, HUM = CORRUPTIONS["white"], CORRUPTIONS["hum"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))


def made_up(shares: dict[tuple[str, int], Sequence[int]]) -> pd.DataFrame:
    """Records of clips that are right (1) or wrong (0)."""
    rows = [
        {
            "clip": clip, "id": f"c{clip}", "corruption": name, "severity": severity, "label": 0,
            "logits": [2.0, 0.0] if right else [0.0, 2.0], "correct": bool(right), "snr_db": 10.0 - severity,
            "psnr_db": np.nan, "realised": 10.0 - severity, "silent": clip == 3, "over_range": 0.25,
        }
        for (name, severity), hits in shares.items()
        for clip, right in enumerate(hits)
    ]  # fmt: skip
    return pd.DataFrame(rows)


OURS = {
    ("clean", 0): [1, 1, 1, 1],
    ("white", 1): [1, 1, 1, 0],
    ("white", 5): [1, 0, 0, 0],
    ("hum", 1): [1, 1, 1, 1],
    ("hum", 5): [1, 1, 0, 0],
}
THEIRS = {
    ("clean", 0): [1, 1, 1, 0],
    ("white", 1): [1, 1, 0, 0],
    ("white", 5): [1, 0, 0, 0],
    ("hum", 1): [1, 1, 1, 0],
    ("hum", 5): [0, 0, 0, 1],
}
CELLS = cells_of([WHITE, HUM], (1, 5))


def summary_of(theirs: dict[tuple[str, int], Sequence[int]] | None) -> dict:
    reference = Scored(made_up(theirs), "multiclass").as_reference({"model": "them"}) if theirs else None
    return corruption_summary(made_up(OURS), "multiclass", CELLS, reference, {"victim": "us"}, "because")


class TestFigures:
    def test_mce_by_hand(self):
        told = summary_of(THEIRS)
        white, hum = told["corruptions"]
        assert white["ce"] == pytest.approx((1 / 4 + 3 / 4) / (2 / 4 + 3 / 4))
        assert hum["ce"] == pytest.approx((0 + 2 / 4) / (1 / 4 + 3 / 4))
        assert told["mce"] == pytest.approx((white["ce"] + hum["ce"]) / 2)
        assert told["mce_corruptions"] == 2

    @pytest.mark.parametrize(("undefined", "bounded"), [(0, True), (10, True), (60, False)])
    def test_draws_on_which_the_reference_loses_nothing_are_not_left_out(self, undefined, bounded):
        reference = np.concatenate([np.ones(1001 - undefined), np.zeros(undefined)])
        ratios = _ratio(np.concatenate([[2.0], np.linspace(1, 3, 1000 - undefined), np.ones(undefined)]), reference)
        row = dict.fromkeys(("mean_error", "degradation", "ce"), ratios[:1]) | {"relative_ce": ratios}
        told = _mean_of([row])
        assert told["relative_mce"] == 2
        assert told["relative_mce_low"] == pytest.approx(1.05, abs=0.01)
        assert (told["relative_mce_high"] is not None) == bounded
        if bounded:  # the highest 2.5 % begin with those that are undefined
            assert told["relative_mce_high"] == pytest.approx(2.95 + 0.002 * undefined, abs=0.01)

    def test_relative_mce_by_hand(self):
        told = summary_of(THEIRS)
        white, hum = told["corruptions"]
        assert white["relative_ce"] == pytest.approx((1 / 4 + 3 / 4) / ((2 / 4 - 1 / 4) + (3 / 4 - 1 / 4)))
        assert hum["relative_ce"] == pytest.approx((2 / 4) / ((1 / 4 - 1 / 4) + (3 / 4 - 1 / 4)))
        assert told["relative_mce"] == pytest.approx((white["relative_ce"] + hum["relative_ce"]) / 2)

    def test_mean_error_and_degradation_by_hand_need_no_reference(self):
        told = summary_of(None)
        assert told["mean_error"] == pytest.approx((1 / 4 + 3 / 4 + 0 + 2 / 4) / 4)
        assert [row["degradation"] for row in told["corruptions"]] == pytest.approx([0.5, 0.25])
        assert told["categories"]["noise"]["mean_error"] == told["mean_error"]
        assert told["mce"] is None
        assert told["reference"] is None
        assert told["no_reference"] == "because"

    def test_the_victim_as_its_own_reference_is_1(self):
        told = summary_of(OURS)
        assert told["mce"] == told["relative_mce"] == 1
        assert told["mce_low"] == told["mce_high"] == 1

    def test_a_reference_without_errors_says_nothing_of_that_corruption(self):
        told = summary_of({**THEIRS, ("hum", 1): [1, 1, 1, 1], ("hum", 5): [1, 1, 1, 1]})
        assert told["corruptions"][1]["ce"] is None
        assert told["corruptions"][1]["relative_ce"] is None
        assert told["mce"] == told["corruptions"][0]["ce"]
        assert told["mce_corruptions"] == 1

    def test_a_reference_that_lacks_a_severity_is_not_used_for_it(self):
        less = {key: value for key, value in THEIRS.items() if key != ("white", 5)}
        assert summary_of(less)["corruptions"][0]["ce"] is None

    def test_cells_have_scores_intervals_and_what_was_realised(self):
        cell = summary_of(None)["cells"][1]
        assert (cell["corruption"], cell["severity"], cell["value"]) == ("white", 5, -5.0)
        assert (cell["score"], cell["low"], cell["high"]) == (0.25, *wilson(1, 4))
        assert (cell["snr_db"], cell["realised"], cell["psnr_db"], cell["silent"]) == (5.0, 5.0, None, 1)
        sure = 1 / (1 + np.exp(-2))
        assert cell["ece"] == pytest.approx(sure - 0.25)
        assert cell["over_range"] == 0.25

    def test_intervals_hold_the_figure_and_are_of_clips(self):
        rng = np.random.default_rng(0)
        shares = {key: rng.random(200) < 0.7 for key in OURS}
        found = Scored(made_up(shares), "multiclass")
        errors = found.errors(("white", 1))
        assert errors[0] == pytest.approx(1 - np.mean(shares["white", 1]))
        assert errors[1:].std() == pytest.approx(np.sqrt(0.7 * 0.3 / 200), rel=0.2)
        assert len(errors) == 1 + RESAMPLES["multiclass"]


class TestRun:
    def test_scores_are_those_of_the_victim_on_what_was_heard(self):
        data, model = ToyData(40, victim()), victim()
        run = noise(model, data, "white", (1, 5))
        assert set(run.records["corruption"]) == {"clean", "white"}
        part = run.records.query("corruption == 'white' and severity == 5")
        (cell,) = [one for one in run.summary["cells"] if one["severity"] == 5]
        assert cell["score"] == part["correct"].mean() < run.clean.score
        assert part["clip"].tolist() == list(range(40))
        assert (part["prediction"] == np.stack(part["logits"].tolist()).argmax(axis=1)).all()
        assert (run.records["clean_correct"].to_numpy().reshape(3, 40) == part["clean_correct"].to_numpy()).all()
        assert run.table.shape[0] == 2
        assert run.summary["clips"] == 40

    def test_batches_and_threads_change_nothing(self, monkeypatch):
        data, asked = ToyData(33, victim()), "white,quantise,gap"
        runs = []
        for size, workers in ((32, 1), (7, 3), ("auto", 2)):
            monkeypatch.setattr("robust.evaluation.corruption_cells.default_workers", lambda many=workers: many)
            runs.append(noise(victim(), data, asked, (3,), batch_size=size, cache_gib=0).records)
        for name in ("snr_db", "realised"):
            np.testing.assert_array_equal(runs[0][name], runs[1][name])
        logits = [np.stack(records["logits"].tolist()) for records in runs]
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_array_equal(logits[0], logits[2])

    def test_the_number_of_threads_comes_back(self):
        before = torch.get_num_threads()
        with pytest.raises(ZeroDivisionError), one_thread_each():
            raise ZeroDivisionError
        assert torch.get_num_threads() == before

    def test_an_interrupted_run_goes_on_with_the_cells_that_are_missing(self, tmp_path, monkeypatch):
        data, asked = ToyData(12, victim()), "white,hum"
        whole = noise(victim(), data, asked, (1, 3), out=tmp_path / "whole")
        calls = []

        def breaking(self, chunk, cell, offset, real=robust.evaluation.corruption_cells._Work.records):
            calls.append((cell.name, cell.severity))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(self, chunk, cell, offset)

        with monkeypatch.context() as patch:
            patch.setattr("robust.evaluation.corruption_cells._Work.records", breaking)
            with pytest.raises(KeyboardInterrupt):
                noise(victim(), data, asked, (1, 3), out=tmp_path / "run")
            calls[:] = ["again"] * 3
            resumed = noise(victim(), data, asked, (1, 3), out=tmp_path / "run", resume=True)
        assert calls[3:] == [("white", 3), ("hum", 1), ("hum", 3)]
        assert resumed.records["logits"].map(list).tolist() == whole.records["logits"].map(list).tolist()
        assert resumed.summary["mean_error"] == whole.summary["mean_error"]
        with pytest.raises(StoreError, match="another run"):
            noise(victim(), data, "white", (1, 3), out=tmp_path / "run", resume=True)

    def test_many_labels(self):
        model = victim("multilabel")
        run = noise(model, ToyData(24, model), "white", (2, 5))
        assert run.clean.metric == "mAP"
        cells = run.summary["cells"]
        assert all(0 <= cell["low"] <= cell["score"] <= cell["high"] <= 1 for cell in cells)
        assert run.summary["mean_error"] == pytest.approx(np.mean([1 - cell["score"] for cell in cells]))
        assert "one label a clip" in run.summary["no_reference"]
        own = noise(model, ToyData(24, model), "white", (2, 5), reference=model)
        assert own.summary["mce"] == 1

    def test_a_reference_of_ones_own(self):
        data = ToyData(24, victim())
        theirs = noise(victim(seed=5), data, "white,hum", (1, 5))
        run = noise(victim(), data, "white,hum", (1, 5), reference=theirs)
        again = noise(victim(), data, "white,hum", (1, 5), reference=victim(seed=5))
        assert run.summary["mce"] == again.summary["mce"] is not None
        assert run.summary["reference"]["model"] == "toy"
        by_hand = [
            sum(1 - one.loc[(name, s), "correct"].mean() for s in (1, 5))
            for one in (run.records.set_index(["corruption", "severity"]).sort_index(),
                        theirs.records.set_index(["corruption", "severity"]).sort_index())
            for name in ("white", "hum")
        ]  # fmt: skip
        ratios = [by_hand[0] / by_hand[2], by_hand[1] / by_hand[3]]
        assert run.summary["mce"] == pytest.approx(np.mean(ratios))
        with pytest.raises(DataError, match="other clips"):
            noise(victim(), ToyData(12, victim()), "white", (1, 5), reference=theirs)

    def test_a_victim_that_sees_and_hears(self):
        run = noise(both_senses(), Pairs(), "white,video-dark,av-wind", (1, 5))
        assert run.summary["categories"].keys() == {"noise", "video", "audio-visual"}
        cells = {(cell["corruption"], cell["severity"]): cell for cell in run.summary["cells"]}
        assert cells["white", 5]["psnr_db"] is None
        assert cells["video-dark", 5]["snr_db"] is None
        assert cells["av-wind", 1]["psnr_db"] > cells["av-wind", 5]["psnr_db"]
        assert cells["av-wind", 5]["snr_db"] == pytest.approx(-5, abs=0.01)

    @pytest.mark.parametrize(
        ("asked", "severities", "match"),
        [("whte", (1,), "Did you mean"), ("white", (9,), "1 to 5"), ("video", (1,), "No corruption of 'video'")],
    )
    def test_bad_input_is_told_before_anything_runs(self, asked, severities, match):
        with pytest.raises(ThreatModelError, match=match):
            check(victim(), ToyData(2, victim()), asked, severities)

    def test_a_rate_too_low_is_told(self):
        model = robust.Victim.wrap(network(), sample_rate=4000, labels=LABELS, clip_seconds=0.1)
        with pytest.raises(ThreatModelError, match="8000 Hz or more"):
            check(model, ToyData(2, victim()), "white")


class TestPinned:
    def test_bits_survive(self):
        right = np.random.default_rng(0).random(400) < 0.5
        np.testing.assert_array_equal(from_hex(to_hex(right), 400), right)

    def test_the_table_is_of_these_corruptions_and_weights(self):
        table = pinned_table()
        assert table is not None
        audio = {name: list(one.values) for name, one in CORRUPTIONS.items() if one.modality == "audio"}
        assert {name: told["values"] for name, told in table["cells"].items() if name != "clean"} == audio
        from attacks.weights import weights_hash

        assert table["weights"] == weights_hash(robust.load_victim("m5"))
        sums = {name: [from_hex(text, 400).mean() for text in told["right"]] for name, told in table["cells"].items()}
        assert sums["clean"][0] > 0.95
        assert all(rights[0] >= rights[-1] for name, rights in sums.items() if name != "clean")

    def test_it_is_what_the_reference_does_now(self):
        chosen = robust.load_data("events", split="test", limit=8)
        run = noise(robust.load_victim("m5"), chosen, "white,quantise,high-pass,gap", (3, 5))
        assert run.summary["reference"]["model"] == "m5"
        # A bit of a clip near the edge may fall the other way on another processor.
        pinned, _ = pinned_reference(run.records["id"].drop_duplicates().tolist(), RESAMPLES["multiclass"])
        assert pinned is not None
        scored = Scored(run.records, "multiclass")
        off = [abs(pinned.cells[key][0] - scored.errors(key)[0]) for key in scored.groups]
        assert max(off) <= 1 / 8
        assert sum(off) <= 2 / 8

    def test_other_clips_have_none(self):
        found, why = pinned_reference(["toy/0"], 10)
        assert found is None
        assert "--reference MODEL" in str(why)

    def test_other_values_of_a_corruption_are_not_compared(self, monkeypatch):
        table = pinned_table()
        changed = {**table, "cells": {**table["cells"], "white": {**table["cells"]["white"], "values": [1.0]}}}
        monkeypatch.setattr("robust.evaluation.corruption_reference.pinned_table", lambda: changed)
        found, _ = pinned_reference(["events-0-test-000007"], 10)
        assert isinstance(found, Reference)
        assert ("white", 1) not in found.cells
        assert ("pink", 1) in found.cells
        monkeypatch.setattr("robust.evaluation.corruption_reference.pinned_table", lambda: {**table, "version": -1})
        assert "earlier version" in str(pinned_reference(["events-0-test-000007"], 10)[1])


class TestPicture:
    def test_every_cell_is_written_in_reading_colour(self):
        from matplotlib.colors import to_rgb

        told = summary_of(THEIRS)
        figure = draw_corruptions(told)
        (axes,) = figure.axes
        texts = {(round(one.get_position()[1]), round(one.get_position()[0])): one for one in axes.texts}
        (image,) = axes.images
        for row, scores in enumerate([(75, 25), (100, 50)]):
            for column, score in enumerate(scores):
                text = texts[row, column]
                assert text.get_text() == str(score)
                behind, ink = (np.dot(to_rgb(one), (0.299, 0.587, 0.114)) for one in (
                    image.cmap(score / 100), text.get_color()
                ))  # fmt: skip
                assert abs(behind - ink) > 0.4
        assert [label.get_text() for label in axes.get_yticklabels()] == ["white", "hum"]
        assert min(one.get_fontsize() for one in axes.texts) >= 7

    def test_nothing_to_draw_is_an_error(self):
        with pytest.raises(StoreError, match="nothing to draw"):
            draw_corruptions({"cells": []})


def test_cells_are_clean_clips_first_then_what_is_asked():
    cells = cells_of([WHITE, find_corruption("mp3")], SEVERITIES)
    assert cells[0] == Cell(None, 0)
    assert [(cell.name, cell.severity) for cell in cells[1:6]] == [("white", one) for one in SEVERITIES]
    assert len(cells) == 11


class Pairs(Dataset):
    """Sound and pictures at random."""

    name, split, labels, modalities = "pairs", "test", LABELS, ("audio", "video")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.audio = 0.1 * torch.randn(9, 400, generator=generator)
        self.video = torch.rand(9, 8, 3, 12, 12, generator=generator)

    def __len__(self) -> int:
        return 9

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return Clip(f"p{index}", {"audio": self.audio[index], "video": self.video[index]}, torch.tensor(index % 3))

    def fingerprint(self) -> str:
        return "pairs"


class _Both(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ear = network()

    def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return self.ear(audio) + 10 * video.mean(dim=(1, 3, 4))


def both_senses() -> robust.Victim:
    """A victim of both, whose classes are colours too."""
    return robust.Victim.wrap(
        _Both(), sample_rate=8000, labels=LABELS, modalities=("audio", "video"), clip_seconds=0.05,
        shapes={"video": (8, 3, 12, 12)}, name="both",
    ).eval()  # fmt: skip
