"""`hear:MODULE[:WEIGHTS]`: where gradients come from, what is refused, and a task from training to attack."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from robust.cli import main
from robust.data import load_data
from robust.errors import CheckpointError, VictimError
from robust.purified_attack import attack_purified
from robust.victims import build_victim, load_victim
from robust.victims.checkpoints import save_checkpoint
from robust.victims.hear_gradients import ADAPTERS
from robust.victims.hear_module import HearModule
from robust.victims.probe import check_gradients
from tests.robust.victim_contract import LABELS, VictimContract
from tests.robust.victims.hear_toys import WAYS, hear_modules, write_task

__all__ = ["hear_modules"]

BRIEF = {"hidden": 0, "clip_seconds": 0.25}
Run = Callable[..., tuple[int, str, str]]


def audio(batch: int = 3, seconds: float = 0.25) -> Tensor:
    levels = torch.tensor([0.3, 0.03, 0.0])[:batch, None]
    return levels * torch.randn(batch, round(16_000 * seconds), generator=torch.Generator().manual_seed(2))


def built(name: str, **config: Any) -> HearModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = build_victim(f"hear:{name}", labels=("low", "high"), **{**BRIEF, **config}).eval()
    assert isinstance(victim, HearModule)
    return victim


@pytest.mark.usefixtures("hear_modules")
class TestContract(VictimContract):
    name: ClassVar[str] = "hear:toy_decorated"
    tiny: ClassVar[dict[str, Any]] = {"hidden": 10}


@pytest.mark.usefixtures("hear_modules")
class TestGradients:
    @pytest.mark.parametrize(
        ("name", "gradients"),
        [
            ("toy_plain", "whole"),
            ("toy_decorated", "inner module"),
            ("toy_inference", "inner module"),
            ("hear21passt", "inner module"),
            ("efficient_latent", "inner module"),
            ("wav2clip_hear", "inner module"),
            ("toy_rounded", "bpda"),
            ("toy_numpy", "none"),
        ],
    )
    def test_each_way_of_detaching(self, name: str, gradients: str) -> None:
        module = importlib.import_module(name)
        victim = built(name)
        assert victim.gradients == victim.config["gradients"] == gradients

        # The embedding is the module's own, clip by clip, however its gradient was reached.
        model = victim.scene.model
        with torch.no_grad():
            own = torch.cat([module.get_scene_embeddings(clip, model) for clip in torch.split(audio(), 1)])
            torch.testing.assert_close(victim.embed({"audio": audio()})["fused"], own, rtol=1e-4, atol=1e-5)
        if gradients == "none":
            with pytest.raises(VictimError, match=r"no gradients.*without its decorator.*gradients=False"):
                check_gradients(victim, victim.spec)
        else:
            check_gradients(victim, victim.spec)

    def test_every_official_wrapper_has_an_adapter(self) -> None:
        assert {"hearaudiomlp", "hear21passt", "efficient_latent", "wav2clip_hear"} <= ADAPTERS.keys()
        for name in ADAPTERS.keys() & WAYS.keys():
            assert built(name).scene.way.said == ADAPTERS[name][0]

    def test_gradients_of_the_inner_module_are_those_of_the_embedding(self) -> None:
        victim, step = built("efficient_latent"), 1e-3
        clip = audio(1).requires_grad_()
        latent = victim.embed({"audio": clip})["fused"]
        (gradient,) = torch.autograd.grad(latent[0, 3], clip)
        direction = gradient / gradient.norm()
        module = importlib.import_module("efficient_latent")
        with torch.no_grad():
            up, down = (
                module.get_scene_embeddings(clip + sign * step * direction, victim.scene.model) for sign in (1, -1)
            )
        torch.testing.assert_close((up - down)[0, 3] / (2 * step), gradient.norm(), rtol=1e-2, atol=0)

    def test_a_wrong_adapter_is_refused(self, hear_modules: Path) -> None:
        wrong = (
            (hear_modules / "hear21passt.py")
            .read_text()
            .replace(
                "    def get_scene_embeddings(self, audio):\n        return",
                "    def scene(self, audio):\n        return self.energies(audio)\n\n"
                "    def get_scene_embeddings(self, audio):\n        return 3 +",
            )
            .replace("return model.get_scene_embeddings(audio)", "return model.scene(audio)")
        )
        (hear_modules / "hear21passt.py").write_text(wrong)
        victim = built("hear21passt")
        assert victim.gradients == "none"
        assert "model.get_scene_embeddings (differs by" in victim.scene.way.said

    def test_bpda_hears_the_module_and_takes_the_gradient_of_the_other(self) -> None:
        victim = built("toy_rounded")
        clip = audio(1)
        model, leaf = victim.scene.model, clip.clone().requires_grad_()
        latent = victim.embed({"audio": leaf})["fused"]
        rounded = model((2047 * clip).round() / 2047)
        torch.testing.assert_close(latent, rounded, rtol=0, atol=0)
        other = clip.clone().requires_grad_()
        torch.testing.assert_close(
            torch.autograd.grad(latent.sum(), leaf)[0], torch.autograd.grad(model(other).sum(), other)[0]
        )
        assert "differs by" in victim.scene.way.said

    def test_one_way_can_be_asked_for(self) -> None:
        assert built("toy_plain", gradients="inner module").gradients == "inner module"
        assert built("toy_decorated", gradients="none").gradients == "none"
        with pytest.raises(VictimError, match="gives no gradients by 'whole'"):
            built("toy_decorated", gradients="whole")
        with pytest.raises(VictimError, match="Did you mean 'bpda'"):
            built("toy_decorated", gradients="bdpa")

    def test_batches_whose_clips_touch_one_another_are_taken_apart(self) -> None:
        victim = built("efficient_latent")
        assert victim.scene.one_by_one
        assert not built("toy_decorated").scene.one_by_one
        together = victim({"audio": audio()})
        torch.testing.assert_close(together[1:2], victim({"audio": audio()[1:2]}), rtol=0, atol=1e-6)

    def test_the_process_is_left_as_it_was(self, capsys: pytest.CaptureFixture[str]) -> None:
        state = torch.random.get_rng_state()
        build_victim("hear:hear21passt", labels=LABELS, **BRIEF, gradients="none")
        assert torch.is_grad_enabled()
        assert capsys.readouterr() == ("", "kernels made\n")  # stdout is for JSON
        with torch.random.fork_rng():
            torch.random.set_rng_state(state)
            nn.Linear(12, len(LABELS))  # the head alone draws
            nn.init.xavier_uniform_(torch.empty(len(LABELS), 12))
            expected = torch.random.get_rng_state()
        assert torch.equal(torch.random.get_rng_state(), expected)
        torch.random.set_rng_state(state)


@pytest.mark.usefixtures("hear_modules")
class TestWeights:
    def test_a_checkpoint_holds_the_head_and_the_hash_of_the_rest(self, tmp_path: Path) -> None:
        module = importlib.import_module("toy_plain")
        file = tmp_path / "net.pt"
        torch.save(module.load_model().state_dict(), file)
        victim = built(f"toy_plain:{file}", hidden=5)
        path = tmp_path / "head.safetensors"
        save_checkpoint(victim, path, {})
        card = json.loads(path.with_suffix(".json").read_text())
        assert card["model"] == f"hear:toy_plain:{file}"
        assert card["config"]["hash"] == victim.scene.hash
        assert card["parameters"] == (12 * 5 + 5) + 2 * 5 + (5 * 2 + 2)
        assert not any("filters" in key for key in victim.state_dict())
        assert all(not value.requires_grad for value in victim.scene.model.parameters())
        again = load_victim(card["model"], weights=path)
        assert torch.equal(again({"audio": audio()}), victim({"audio": audio()}))

        torch.save({key: 1.01 * value for key, value in module.load_model().state_dict().items()}, file)
        with pytest.raises(CheckpointError, match=r"other weights of toy_plain .*than there are now"):
            load_victim(card["model"], weights=path)

    def test_the_embedding_stays_frozen_in_training(self) -> None:
        victim = built("toy_plain", hidden=5).train()
        before = victim.embed({"audio": audio()})["fused"]
        assert torch.equal(before, victim.embed({"audio": audio()})["fused"])  # its dropout is off
        assert not before.requires_grad

    def test_a_module_that_draws_its_weights_anew_is_no_basis(self, hear_modules: Path, tmp_path: Path) -> None:
        text = (
            (hear_modules / "toy_plain.py")
            .read_text()
            .replace("torch.randn(12, 1, 64, generator=generator)", "torch.randn(12, 1, 64)")
        )
        (hear_modules / "toy_random.py").write_text(text)
        save_checkpoint(built("toy_random"), tmp_path / "head.safetensors", {})
        with pytest.raises(CheckpointError, match="other weights"):
            load_victim("hear:toy_random", weights=tmp_path / "head.safetensors")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("import nowhere", "cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
            ("", "has no load_model and no get_scene_embeddings"),
            ("def load_model(path=''): return 7\ndef get_scene_embeddings(a, m): ...", "returned a int"),
            ("def load_model(path=''): return 1 / 0\ndef get_scene_embeddings(a, m): ...", "ZeroDivisionError"),
            (
                "REPLACE scene_embedding_size = self.timestamp_embedding_size = 12\npass",
                "scene_embedding_size, a whole",
            ),
            ("REPLACE timestamp_embedding_size = 12\ntimestamp_embedding_size = 13", r"\(3, 12\).*promises \(3, 13\)"),
            ("REPLACE return model(audio)\nreturn model(audio[:, :8])", "fails on 3 clips of 4000 samples"),
        ],
    )
    def test_what_is_no_hear_module(self, hear_modules: Path, text: str, message: str) -> None:
        if text.startswith("REPLACE "):
            old, new = text.removeprefix("REPLACE ").split("\n")
            old = f"self.{old}" if new == "pass" else old
            text = (hear_modules / "toy_plain.py").read_text().replace(old, new)
        (hear_modules / "toy_bad.py").write_text(text)
        with pytest.raises(VictimError, match=message):
            built("toy_bad")

    def test_bad_words(self) -> None:
        with pytest.raises(CheckpointError, match=r"no weights at nowhere\.pt"):
            built("toy_plain:nowhere.pt")
        with pytest.raises(VictimError, match=r"hear:MODULE\[:WEIGHTS\]"):
            load_victim("hear:")
        with pytest.raises(VictimError, match="hidden >= 0"):
            built("toy_plain", hidden=-1)
        with pytest.raises(CheckpointError, match="no embedded weights"):
            load_victim("hear:toy_plain")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command line; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robust", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.usefixtures("hear_modules")
class TestTask:
    """A HEAR task and a HEAR module, from training a head to an attack through both."""

    def trained(self, run: Run, tmp_path: Path, name: str) -> tuple[Path, Path]:
        root, head = write_task(tmp_path / "tones-v1-full"), tmp_path / "head.safetensors"
        words = ("--data", "hear-task", "--root", root, "--clip-seconds", 0.25, "--set", "hidden=16")
        schedule = ("--epochs", 10, "--batch-size", 4, "--learning-rate", 0.01, "--logger", "none")
        code, _, err = run("train", "--model", f"hear:{name}", *words, *schedule, "--out", head)
        assert code == 0, err
        assert json.loads(head.with_suffix(".json").read_text())["clean"]["score"] > 0.9
        return root, head

    @pytest.mark.parametrize("name", ["toy_plain", "toy_decorated"])
    def test_with_gradients(self, run: Run, tmp_path: Path, name: str) -> None:
        root, head = self.trained(run, tmp_path, name)
        given = ("--model", f"hear:{name}", "--weights", head, "--data", "hear-task", "--root", root)
        code, out, err = run("attack", *given, "--eps", 0.04, "--steps", 10, "--no-checks", "--json")
        assert code == 0, err
        told = json.loads(out)
        assert told["audit"]["violations"] == 0
        assert told["clean"]["score"] > 0.9
        assert told["robust"]["score"] < 0.3

    def test_without_gradients_it_is_refused_and_can_be_asked(self, run: Run, tmp_path: Path) -> None:
        root, head = self.trained(run, tmp_path, "toy_numpy")
        given = ("--model", "hear:toy_numpy", "--weights", head, "--data", "hear-task", "--root", root)
        code, _, err = run("attack", *given)
        assert code == 2
        assert "toy_numpy gives no gradients" in err
        assert "robust attack --attacks square,nes" in err
        code, _, err = run("attack", *given, "--attacks", "transfer")
        assert code == 2
        assert "--attacks goes with --purify" in " ".join(err.replace("│", " ").split())

        words = ("--attacks", "square", "--eps", 0.2, "--queries", 100, "--json")
        code, out, err = run("attack", *given, *words, "--out", tmp_path / "asked")
        assert code == 0, err
        told = json.loads(out)
        assert told["purifier"]["name"] == "none"
        assert told["backwards_per_clip"] == 0
        verdicts = {check["name"].split()[0]: check["verdict"] for check in told["checks"]}
        assert verdicts["S8"] == verdicts["S13"] == "skipped"
        assert told["clean"]["score"] > 0.9
        assert told["robust"]["score"] < told["clean"]["score"] - 0.3
        code, out, err = run("attack", *given, "--attacks", "nes", "--queries", 1, "--limit", 2, "--no-checks")
        assert code == 0, err
        assert re.search(r"attack +nes: .*black box.*\nwhy +--attacks names black boxes alone", out)
        code, out, err = run(
            "noise", *given, "--corruption", "white", "--severity", 5, "--json", "--out", tmp_path / "n"
        )
        assert code == 0, err

        victim = load_victim("hear:toy_numpy", weights=head, gradients=False)
        data = load_data("hear-task", split="test", root=root)
        asked = attack_purified(victim, data, purifier="none", attacks=("square",), eps=0.2, queries=100, checks=False)
        assert asked.clean.score > 0.9
        assert asked.robust.score < asked.clean.score - 0.3
