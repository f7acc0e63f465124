"""`robust noise --purify`: the same clips before and after a purifier, by hand and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from scipy.stats import binomtest
from typer.testing import CliRunner

from attacks.errors import ThreatModelError
from defenses.filters import Average, Median
from robust.cli.noise import noise as command
from robust.corruption_run import check, noise
from robust.corruptions.base import find_corruption
from robust.corruptions.rendering import render
from robust.errors import RobustError, StoreError
from robust.evaluation.corruption_table import corruption_summary
from robust.evaluation.purified_table import purified_summary, purified_view
from robust.seeds import generators_for
from tests.robust.test_corruption_table import CELLS, OURS, THEIRS, Pairs, both_senses, made_up
from tests.robust.test_purified import Hiss
from tests.robust.toys import SAMPLE_RATE, ToyData, victim


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))


class TestTable:
    def records(self):
        before, after = made_up(OURS), made_up(THEIRS)
        return before.assign(
            **{f"purified_{name}": after[name] for name in ("correct", "logits")},
            prediction=0, margin=0.0, purified_prediction=0, purified_margin=0.0,
        )  # fmt: skip

    def test_scores_differences_and_p_by_hand(self):
        told = purified_summary(self.records(), "multiclass", CELLS, None, {"name": "it"})
        assert told["purifier"] == {"name": "it"}
        clean = told["clean"]
        assert (clean["before"]["score"], clean["after"]["score"]) == (1.0, 0.75)
        assert (clean["difference"]["difference"], clean["difference"]["only_b"]) == (-0.25, 1)
        assert clean["difference"]["p"] == 1.0
        last = told["cells"][-1]
        assert (last["corruption"], last["severity"], last["value"]) == ("hum", 5, -5.0)
        assert (last["before"]["score"], last["after"]["score"]) == (0.5, 0.25)
        assert (last["difference"]["only_a"], last["difference"]["only_b"]) == (1, 2)
        assert last["difference"]["p"] == pytest.approx(binomtest(1, 3).pvalue)

    def test_what_becomes_of_all_together_is_the_summary_of_what_was_heard_behind(self):
        records = self.records()
        told = purified_summary(records, "multiclass", CELLS, None, {})
        after = corruption_summary(made_up(THEIRS), "multiclass", CELLS, None, {})
        before = corruption_summary(made_up(OURS), "multiclass", CELLS, None, {})
        for name in ("mean_error", "mean_error_low", "mean_error_high", "degradation", "mce"):
            assert told["after"][name] == after[name]
            assert told["before"][name] == before[name]
        assert purified_view(records)["correct"].tolist() == made_up(THEIRS)["correct"].tolist()


class TestRun:
    def test_behind_the_purifier_are_the_same_clips(self):
        data, bare, purifier = ToyData(24, victim()), victim(), Hiss(level=0.2)
        run = noise(bare, data, "white", (2, 5), purify=purifier, seed=7)
        part = run.records.query("corruption == 'white' and severity == 5")
        for row in (0, 13, 23):
            clip = data.clip(row, bare.spec)
            inputs, valid = {"audio": clip.inputs["audio"][None]}, {"audio": torch.ones(1, 400, dtype=torch.bool)}
            rendered = render(find_corruption("white"), 5, inputs, valid, [clip.id], SAMPLE_RATE, 7).inputs(inputs)
            drawn = purifier.draw(rendered["audio"], generators_for(7, [clip.id], "purifier-hiss"))
            with torch.no_grad():
                expected = bare({"audio": purifier(rendered["audio"], drawn, None)})[0]
            logits = torch.tensor(part["purified_logits"].tolist()[row], dtype=torch.float32)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
            assert part["purified_prediction"].tolist()[row] == int(expected.argmax())

    def test_the_bare_victim_is_as_without_a_purifier(self):
        data = ToyData(24, victim())
        alone, run = noise(victim(), data, "white,gap", (3,)), noise(victim(), data, "white,gap", (3,), purify="median")
        same = [name for name in alone.records if name in run.records]
        assert len(same) == len(alone.records.columns)
        assert alone.records["logits"].map(list).tolist() == run.records["logits"].map(list).tolist()
        assert alone.summary["cells"] == run.summary["cells"]
        assert run.summary["weights"] == alone.summary["weights"]
        assert "purified" not in alone.summary
        told = run.summary["purified"]
        assert told["purifier"]["name"] == "median"
        assert told["purifier"]["gradient"] == "exact"
        assert [cell["before"]["score"] for cell in told["cells"]] == [cell["score"] for cell in run.summary["cells"]]
        assert told["clean"]["before"]["score"] == run.clean.score
        assert told["before"]["mean_error"] == run.summary["mean_error"]

    def test_batches_change_nothing(self):
        data, runs = ToyData(20, victim()), []
        for size in (32, 7, "auto"):
            run = noise(victim(), data, "white", (3,), purify=Hiss(), batch_size=size, cache_gib=0)
            runs.append(np.stack(run.records["purified_logits"].tolist()))
        np.testing.assert_array_equal(runs[0], runs[1])
        np.testing.assert_array_equal(runs[0], runs[2])

    def test_many_labels(self):
        model = victim("multilabel")
        told = noise(model, ToyData(24, model), "white", (5,), purify="average").summary["purified"]
        assert told["clean"]["difference"]["test"] == "paired bootstrap"
        assert told["clean"]["before"]["metric"] == "mAP"

    def test_sound_and_sight(self):
        run = noise(both_senses(), Pairs(), "white,video", (2,), purify="average:5")
        behind = run.records.query("corruption == 'clean'")
        assert behind["purified_logits"].map(list).tolist() != behind["logits"].map(list).tolist()
        assert len(run.summary["purified"]["cells"]) == len(run.summary["cells"])

    def test_a_run_goes_on_with_its_own_purifier_alone(self, tmp_path):
        data, own = ToyData(12, victim()), {"out": tmp_path / "run"}
        whole = noise(victim(), data, "white", (1,), purify=Average(SAMPLE_RATE), **own)
        again = noise(victim(), data, "white", (1,), purify=Average(SAMPLE_RATE), resume=True, **own)
        assert again.summary["purified"] == whole.summary["purified"]
        for other in (Average(SAMPLE_RATE, 5), Median(SAMPLE_RATE), None):
            with pytest.raises(StoreError, match="another run"):
                noise(victim(), data, "white", (1,), purify=other, resume=True, **own)

    def test_what_cannot_be_is_told_before_anything_is_written(self, tmp_path):
        data = ToyData(4, victim())
        with pytest.raises(ThreatModelError, match="Did you mean 'median'"):
            noise(victim(), data, "white", purify="medan", out=tmp_path / "run")
        with pytest.raises(ThreatModelError, match="16000 Hz"):
            check(victim(), data, "white", purify=Average(16_000))
        assert not (tmp_path / "run").exists()


class TestCommand:
    def run(self, *words: str, out: Path) -> str:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(command)
        given = ["--data", "events", "--data-option", "clips=16", "--model", "m3", *words, "--out", str(out)]
        found = CliRunner().invoke(app, given, catch_exceptions=False)
        assert found.exit_code == 0
        return found.stdout

    def test_text_and_json(self, tmp_path):
        words = ["--corruption", "white,gap", "--severity", "2", "--purify", "low-pass:3000"]
        text = self.run(*words, out=tmp_path / "one")
        assert "purified by low-pass:3000" in text
        assert "exact McNemar" in text
        rows = [line.split() for line in text.splitlines() if line.startswith(("  clean", "  white", "  gap"))]
        told = json.loads(self.run(*words, "--json", out=tmp_path / "two"))["purified"]
        assert [row[0] for row in rows] == ["clean", "white", "gap"]
        assert f"{100 * told['cells'][0]['after']['score']:.1f}" in rows[1]
        assert "SNR (dB) 10" in text
        assert told["cells"][0]["value"] == 10
        assert {"before", "after", "clean", "cells", "purifier"} <= told.keys()
        assert f"{100 * told['after']['mean_error']:.1f} % after" in text

    def test_a_wrong_purifier_is_told_and_nothing_is_written(self, tmp_path):
        with pytest.raises(RobustError, match="Did you mean 'low-pass'"):
            self.run("--purify", "lowpass:3000", out=tmp_path / "none")
        assert not (tmp_path / "none").exists()
