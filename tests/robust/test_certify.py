"""`robust.certify`: certificates over a data set, the attack below them, resumption, the command, the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from scipy.stats import norm
from torch import Tensor, nn
from typer.testing import CliRunner

from attacks.errors import ThreatModelError
from attacks.pgd import PGD
from defenses.augmentation import GaussianNoise, load_augmentation
from defenses.smoothing import ABSTAIN, ceiling, votes_needed
from defenses.votes import Voter
from robust.certification import CertifyRun, certify
from robust.cli.certify import certify as command
from robust.errors import StoreError, VictimError
from robust.evaluation.certificate_checks import _holds
from robust.evaluation.certificate_summary import certified_at, decisions, stands_at, usual_radii
from robust.evaluation.certificates import Certified
from robust.plots.certificates import CertificateLine, certificate_line, certified_curve, draw_certificates
from robust.plots.saving import rendered
from robust.types import Clip, Dataset, VictimSpec
from robust.victims import Victim
from robust.victims.denoised import Denoised

RATE, SAMPLES, SIGMA = 8000, 64, 0.25
LABELS = ("up", "down")


class Side(nn.Module):
    """On which side of a plane a clip lies: logits are twice the signed distance apart."""

    def __init__(self, labels: int = 1) -> None:
        super().__init__()
        drawn = torch.randn(SAMPLES, labels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.basis = nn.Parameter(torch.linalg.qr(drawn).Q.float())
        self.many = labels > 1

    def forward(self, audio: Tensor) -> Tensor:
        score = audio @ self.basis
        return score if self.many else torch.cat([score, -score], dim=1)


def victim(labels: int = 1) -> Victim:
    names = tuple("abc"[:labels]) if labels > 1 else LABELS
    task: Any = "multilabel" if labels > 1 else "multiclass"
    module = Side(labels)
    return Victim.wrap(
        module, sample_rate=RATE, labels=names, task=task, clip_seconds=SAMPLES / RATE, name="side"
    ).eval()


class Sides(Dataset):
    """Clips at known distances from the plane (or planes), on the side that their label says but for the last."""

    name, split = "sides", "test"

    def __init__(self, distances: list[Any], labels: int = 1) -> None:
        module = Side(labels)
        self.distances = torch.tensor(distances, dtype=torch.float32).view(len(distances), -1)
        with torch.no_grad():
            self.audio = self.distances @ module.basis.T
        self.task = "multilabel" if labels > 1 else "multiclass"
        self.labels = victim(labels).spec.labels
        if labels > 1:
            self.target = (self.distances > 0).float()
        else:
            self.target = (self.distances[:, 0] < 0).long()
            self.target[-1] = 1 - self.target[-1]

    def __len__(self) -> int:
        return len(self.audio)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        return Clip(f"side/{index}", {"audio": self.audio[index]}, self.target[index])

    def fingerprint(self) -> str:
        return f"sides-{self.distances.sum():.3f}"


DISTANCES = [0.1, -0.2, 0.3, -0.4, 0.6, 0.2]
ASKED: dict[str, Any] = {"sigma": SIGMA, "n": 600, "precision": "fp32", "radii": [0.0, 0.1, 0.3, 0.5], "steps": 6}


@pytest.fixture(scope="module")
def run() -> CertifyRun:
    return certify(victim(), Sides(DISTANCES), **ASKED, draws=2)


def test_radii_are_distances_within_sampling_error(run: CertifyRun) -> None:
    found = run.records["radii"].str[0].to_numpy(dtype=float)
    exact = np.abs(DISTANCES)
    assert (found < exact).all()
    margin = SIGMA * norm.ppf(norm.cdf(exact / SIGMA) - 5 * np.sqrt(0.25 / 600))  # 5 errors of a share, at most
    assert (found >= np.minimum(margin, ceiling(SIGMA, 600, 0.001)) - 1e-9).all()
    assert run.records["right"].tolist() == [True] * 5 + [False]
    assert run.records["radius"].iloc[-1] == 0.0


def test_curve_counts_clips_that_are_right_and_certified(run: CertifyRun) -> None:
    radii = run.records["radius"].to_numpy()
    told = [one["score"] for one in run.certified]
    assert told[0] == pytest.approx(5 / 6)
    assert told == [pytest.approx(float(((radii >= r) & run.records["right"]).mean())) for r in run.radii]
    assert run.certified[1]["low"] < told[1] < run.certified[1]["high"]
    summary = run.summary
    assert summary["kind"] == "certificate"
    assert summary["ceiling"] == pytest.approx(ceiling(SIGMA, 600, 0.001))
    assert summary["average_radius"]["score"] == pytest.approx(radii.mean())
    assert all(least <= share for least, share in zip(summary["high_probability"], told, strict=True))
    norms = np.linalg.norm(Sides(DISTANCES).audio.numpy(), axis=1)
    assert summary["snr_db"][0] is None
    assert summary["snr_db"][1] == pytest.approx(np.median(20 * np.log10(norms / 0.1)), abs=1e-4)
    json.dumps(summary, allow_nan=False)


def test_attack_comes_near_the_border_and_never_within_a_certificate(run: CertifyRun) -> None:
    """On a linear victim the smoothed border is the plane: clips nearer than the radius fall, others stand."""
    stands = np.array([[one[0] for one in row] for row in run.records["stands"]])
    distance = np.abs(DISTANCES[:5])
    for level, radius in enumerate(ASKED["radii"]):
        clear = np.abs(distance - radius) > 0.05
        assert (stands[:5, level] == (distance > radius))[clear].all()
    assert not stands[5].any()
    assert int(run.records["violations"].sum()) == 0
    assert run.attacked is not None
    assert all(low["score"] <= high["score"] for low, high in zip(run.certified, run.attacked, strict=True))
    sizes = np.array(run.records["attack_l2"].tolist())
    assert (sizes <= np.array(ASKED["radii"]) * (1 + 1e-6)).all()


def test_checks_pass_and_are_named(run: CertifyRun) -> None:
    verdicts = {check.name: check.verdict for check in run.checks}
    assert verdicts["S22 certificate"] == "pass"
    assert verdicts["S2 monotone"] == "pass"
    assert verdicts["S8 gradients"] == "pass"
    assert verdicts["S23 precision"] == "pass"
    assert "fail" not in verdicts.values()


def test_an_attack_within_a_certificate_fails_loudly(run: CertifyRun) -> None:
    records = run.records.copy()
    voter = Voter(victim(), SIGMA)
    condition = Certified(victim(), voter, 100, 600, 0.001, None, (0.0, 0.1), PGD(), 2)
    assert _holds(records, condition).verdict == "pass"
    records.loc[2, "violations"] = 1
    found = _holds(records, condition)
    assert found.verdict == "fail"
    assert "side/2" in found.detail


def test_overclaimed_certificates_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With radii made twice as large as they are, the attack finds the lie."""
    from robust.evaluation import certificates

    honest = certificates.certify

    def boastful(*given: Any) -> Any:
        found = honest(*given)
        return replace(found, radius=2 * found.radius)

    monkeypatch.setattr(certificates, "certify", boastful)
    told = certify(victim(), Sides([0.2, -0.2, 0.2]), **{**ASKED, "radii": [0.0, 0.3]}, draws=2)
    verdicts = {check.name: check.verdict for check in told.checks}
    assert verdicts["S22 certificate"] == "fail"
    assert verdicts["S2 monotone"] == "fail"
    assert int(told.records["violations"].sum()) == 2  # the third is wrong


def test_results_do_not_depend_on_batches_and_resume(run: CertifyRun, tmp_path: Path) -> None:
    keep = ["radii", "votes_for", "stands", "attack_l2"]
    asked = {**ASKED, "draws": 2, "checks": False, "batch_size": 8}
    first = certify(victim(), Sides(DISTANCES), **asked, out=tmp_path / "run")
    for name in keep:
        assert np.array_equal(np.stack(first.records[name].map(np.ravel)), np.stack(run.records[name].map(np.ravel)))
    part = next((tmp_path / "run" / "records").iterdir())
    stamp = part.stat().st_mtime_ns
    again = certify(victim(), Sides(DISTANCES), **asked, out=tmp_path / "run", resume=True)
    assert part.stat().st_mtime_ns == stamp
    assert again.certified == first.certified
    with pytest.raises(StoreError, match="another run"):
        certify(victim(), Sides(DISTANCES), **{**asked, "sigma": 0.2}, out=tmp_path / "run", resume=True)


def test_one_radius_is_decided_with_fewer_votes() -> None:
    data = Sides([0.05, -0.45, 0.5, -0.05, 0.5])
    full = certify(victim(), data, sigma=SIGMA, n=1000, precision="fp32", attack=False, checks=False)
    asked = certify(victim(), data, sigma=SIGMA, n=1000, precision="fp32", radius=0.2, attack=False, checks=False)
    assert (
        certified_at(asked.records, 0.2).tolist()
        == certified_at(full.records, 0.2).tolist()
        == [
            False,
            True,
            True,
            False,
            False,
        ]
    )
    assert asked.records["votes"].mean() < 400
    assert asked.radii == [0.2]
    assert asked.summary["average_radius"] is None
    assert asked.summary["attacked"] is None


def test_many_labels_are_certified_each_and_together() -> None:
    data = Sides([[0.4, -0.5, 0.45], [0.02, 0.5, -0.5], [-0.5, -0.5, -0.5]], labels=3)
    told = certify(victim(3), data, sigma=SIGMA, n=800, precision="fp32", radii=[0.0, 0.2, 0.45], steps=5, draws=2)
    radii, answers = decisions(told.records, "radii"), decisions(told.records, "answers")
    assert (radii < np.abs(data.distances.numpy())).all()
    assert answers[0].tolist() == [1, 0, 1]
    assert answers[1, 0] == ABSTAIN
    assert told.summary["ceiling"] == pytest.approx(ceiling(SIGMA, 800, 0.001 / 3))
    assert told.certified[1]["score"] == pytest.approx(2 / 3)
    labels = told.summary["labels"]
    assert labels["pairs"][1]["score"] == pytest.approx(8 / 9)
    assert labels["present"][1]["score"] == pytest.approx(3 / 4 if radii[1, 0] < 0.2 else 1.0)
    assert not stands_at(told.records, 2)[0]  # the planes at 0.4 are within 0.45
    assert int(told.records["violations"].sum()) == 0
    assert {check.name: check.verdict for check in told.checks}["S22 certificate"] == "pass"


class Averaging:
    """A stand-in for a diffusion model: knows what no noise can change, the two sides of the plane."""

    sample_rate, samples, domain = RATE, SAMPLES, "waveform"

    def __init__(self) -> None:
        self.asked: list[float] = []

    def step_for(self, sigma: float) -> int:
        if sigma > 1:
            raise ThreatModelError(f"sigma must be at most 1; given {sigma}.")
        return 1

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        self.asked.append(sigma)
        return (0.5 * noisy).clamp(-1, 1)

    def describe(self) -> dict[str, Any]:
        return {"name": "averaging"}


def test_denoiser_hears_the_noise_before_the_victim() -> None:
    denoiser = Averaging()
    data = Sides(DISTANCES)
    told = certify(victim(), data, **{**ASKED, "steps": 2}, draws=1, denoiser=denoiser, checks=False)
    assert set(denoiser.asked) == {SIGMA}
    assert told.summary["denoiser"]["name"] == "waveform"
    plain = certify(victim(), data, **ASKED, attack=False, checks=False)
    assert told.records["votes_for"].tolist() == plain.records["votes_for"].tolist()  # halving changes no side


def test_denoiser_that_does_not_fit_is_refused() -> None:
    denoiser = Averaging()
    with pytest.raises(ThreatModelError, match="at most 1"):
        Denoised(victim(), denoiser, 2.0)
    denoiser.samples = 100
    with pytest.raises(ThreatModelError, match="100 samples at 8000 Hz and the victim hears 64"):
        Denoised(victim(), denoiser, 0.25)
    denoiser.samples, denoiser.domain = SAMPLES, "mel"
    with pytest.raises(ThreatModelError, match="waveform"):
        Denoised(victim(), denoiser, 0.25)
    deaf = replace(victim().spec, modalities=("video",))
    silent = victim()
    silent.spec = deaf
    with pytest.raises(VictimError, match="takes video"):
        Denoised(silent, Averaging(), 0.25)


def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data, out = Sides(DISTANCES), tmp_path / "run"
    needed = votes_needed(0.5, SIGMA, 0.0005)
    for asked, message in (
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"alpha": 1.5}, "between 0 and 1"),
        ({"n": 0}, "1 vote or more"),
        ({"n0": 0}, "n0 must be 1 vote"),
        ({"radius": 0.5, "n": 100}, f"n = {needed} votes"),
        ({"radii": [0.2, 0.1]}, "ascending"),
        ({"radius": 0.1, "radii": [0.2]}, "add it to the radii"),
        ({"draws": 0}, "draws of the attack"),
        ({"precision": "fp16"}, "Did you mean"),
        ({"stepz": 3}, "Did you mean 'steps'"),
    ):
        with pytest.raises(ThreatModelError, match=message):
            certify(victim(), data, **{"out": out, **asked})
        assert not out.exists()


def test_usual_radii_reach_the_ceiling() -> None:
    radii = usual_radii(0.25, 1000, 0.001)
    assert radii[0] == 0.0
    assert radii[-1] == pytest.approx(ceiling(0.25, 1000, 0.001), rel=0.02)
    assert len(radii) == 9
    assert usual_radii(0.25, 5, 0.001) == [0.0]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robust.victims.load_victim", lambda *_, **__: victim())
    monkeypatch.setattr("robust.data.load_data", lambda *_, limit=None, **__: Sides(DISTANCES[: limit or 6]))
    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    asked = ["--n", "300", "--radii", "0:0.4:3", "--attack-steps", "2", "--attack-draws", "1", "--precision", "fp32"]
    shown = runner.invoke(app, [*asked, "--out", "run"])
    assert shown.exit_code == 0, shown.output
    assert "under attack" in shown.output
    assert (tmp_path / "run" / "certificate.pdf").is_file()
    done = runner.invoke(app, [*asked, "--out", "again", "--json"])
    told = json.loads(done.stdout)
    assert told["radii"] == [0.0, 0.2, 0.4]
    assert len(told["certified"]) == len(told["attacked"]["scores"]) == 3
    one = runner.invoke(app, ["--radius", "0.1", "--no-attack", "--precision", "fp32", "--json", "--out", "one"])
    assert json.loads(one.stdout)["radii"] == [0.1]
    assert runner.invoke(app, ["--check", "--out", "check"]).exit_code == 0
    assert runner.invoke(app, ["--radii", "0:1"]).exit_code == 2
    assert runner.invoke(app, ["--resume"]).exit_code == 2


def test_picture_shows_every_smoothing(run: CertifyRun) -> None:
    line = certificate_line("side, σ 0.25", run.records, run.summary)
    assert line.radii[-1] == -1.0  # not right at 0
    figure = draw_certificates([line, replace(line, label="other", radii=line.radii / 2)])
    axes = figure.axes[0]
    certified = axes.lines[0]
    assert np.interp(0.0, certified.get_xdata(), certified.get_ydata()) == pytest.approx(100 * 5 / 6)
    assert any(np.allclose(one.get_xdata(), line.ceiling) for one in axes.lines)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["side, σ 0.25, certified", "other, certified"]
    assert len(rendered(figure, "png", dpi=60)) > 1000
    with pytest.raises(StoreError, match="no certificates"):
        draw_certificates([])
    with pytest.raises(StoreError, match="one radius"):
        certificate_line("x", run.records, {**run.summary, "radius": 0.1})


def test_curve_of_the_picture_is_a_count() -> None:
    shares, low, high = certified_curve(np.array([-1.0, 0.0, 0.2, 0.2]), np.array([0.0, 0.1, 0.2, 0.3]))
    assert shares.tolist() == [0.75, 0.5, 0.5, 0.0]
    assert (low <= shares).all()
    assert (high >= shares).all()
    lone = CertificateLine("lone", np.array([0.1]), np.array([1.0]), 0.5, np.empty((0, 4)))
    assert len(draw_certificates([lone]).axes[0].collections) == 1


def test_gaussian_augmentation_puts_noise_on_every_clip() -> None:
    clips = torch.zeros(4, 8000)
    noisy = GaussianNoise(0.25)(clips, torch.Generator().manual_seed(0))
    assert noisy.std(dim=1).numpy() == pytest.approx(0.25, rel=0.05)
    assert float(noisy.abs().max()) > 0.25 * 3.5  # not cut
    found = load_augmentation("gaussian:0.5")(clips, torch.Generator().manual_seed(0))
    assert found.std(dim=1).numpy() == pytest.approx(0.5, rel=0.05)
    for text, message in (("gaussian", "e.g. gaussian:0.25"), ("gausian:1", "Did you mean"), ("gaussian:0", "above 0")):
        with pytest.raises(ThreatModelError, match=message):
            load_augmentation(text)


def test_attack_never_beats_the_certificate_of_an_embedded_victim() -> None:
    import robust

    asked: dict[str, Any] = {"n0": 32, "n": 128, "radii": [0.0, 0.04], "steps": 2, "draws": 1, "sigma": 0.05}
    data = robust.load_data("events", split="test", limit=4)
    told = certify(robust.load_victim("m5"), data, **asked, checks=False)
    assert (told.records["radius"] > 0.04).any()
    assert int(told.records["violations"].sum()) == 0
    plain = certify(robust.load_victim("m5"), data, **asked, precision="fp32", attack=False, checks=False)
    assert told.records["votes_for"].tolist() == plain.records["votes_for"].tolist()  # in whatever was fastest
