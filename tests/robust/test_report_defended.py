"""The report of runs behind a defense: purifiers at one radius and at several, certificates, corruptions purified."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robust.certification import certify
from robust.corruption_run import noise
from robust.errors import StoreError
from robust.purified_attack import attack_purified
from robust.purified_curve import purified_curve
from robust.report import build_page
from robust.report.command import repeat_command, was_typed
from robust.report.defended import scores, told_of
from robust.report.formats import interval, percent
from robust.report.meanings import MEANINGS, gathered
from robust.report.reading import open_run
from tests.robust import defended_stores as made
from tests.robust import stores
from tests.robust.physical_stores import edited
from tests.robust.purifiers import LinearData, Noisy, linear_victim
from tests.robust.test_certify import Sides
from tests.robust.test_certify import victim as sided
from tests.robust.test_report import Page, text
from tests.robust.test_report_physical import HOSTILE, plain, told
from tests.robust.toys import SAMPLE_RATE, ToyData, victim

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "purification": made.purification_run,
    "purify": made.purify_run,
    "certificate": made.certificate_run,
    "noise": made.purified_noise_run,
}
WEAK = "non-adaptive: no full gradient, no black box"
FAST: dict[str, Any] = {"eps": 0.01, "steps": 3, "queries": 20, "draws": 2, "sure": 2}


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The run of the kind that the test names."""
    return BUILDERS[request.param](tmp_path / "run")


def charts(html: str) -> list[dict[str, Any]]:
    return list(json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1]))


def words(score: dict[str, Any]) -> str:
    return plain(f"{percent(score['score'])} {interval(score['low'], score['high'])}")


def test_a_run_against_a_purifier(tmp_path: Path) -> None:
    """What the suite itself writes, and all of its checks."""
    model = victim()
    asked = {**FAST, "attacks": ("transfer", "bpda", "fixed", "square")}
    attack_purified(model, ToyData(8, model), purifier=Noisy(SAMPLE_RATE), **asked, out=tmp_path / "run")
    html = build_page([tmp_path / "run"]).html
    seen, summary = text(html), told(tmp_path / "run")
    for name in ("clean", "robust", "bare_clean", "bare_robust"):
        assert f"{plain(percent(summary[name]['score']))} 95 % interval" in seen
    assert summary["label"].startswith("non-adaptive: no full gradient")
    assert f"! {summary['label']}" in seen
    for name, row in summary["attacks"].items():
        assert f"{name} {row['what']} {row['clips']} clip" in seen, name
    assert "In the draw it saw" in seen
    assert plain(percent(summary["attacks"]["fixed"]["held"]["score"])) in seen
    for check in summary["checks"]:
        assert MEANINGS[check["name"].split()[0]] in seen
    labels = [player["aria-label"] for player in Page(html).all("audio")]
    assert len(labels) == len(summary["audio"]) > 0
    clip = labels[0].split(" of ")[1]
    assert labels[:3] == [f"{kind} of {clip}" for kind in ("Clean", "Adversarial", "Adversarial, purified")]


def test_a_purifier_at_several_radii(tmp_path: Path) -> None:
    model, asked = linear_victim(), {**FAST, "eps": [0.002, 0.1], "attacks": ("transfer", "bpda")}
    purified_curve(model, LinearData(6), purifier="median:3", **asked, out=tmp_path / "run")
    html = build_page([tmp_path / "run"]).html
    seen, summary = text(html), told(tmp_path / "run")
    for radius, level in zip(summary["radii"], summary["levels"], strict=True):
        row = f"{words(level['bare_robust'])} {words(level['attacks']['transfer']['robust'])} {words(level['robust'])}"
        assert f"{radius:g} {row} ! non-adaptive" in seen
    assert seen.count("S2 monotone") == 1, "the checks of all radii stand together"
    assert "at 0.002: " in seen
    (chart,) = charts(html)
    assert [line["name"] for line in chart["lines"]] == [
        "worst attack, non-adaptive",
        "transfer alone, non-adaptive",
        "no defense",
    ]
    worst = [[radius, level["robust"]["score"]] for radius, level in zip([0.002, 0.1], summary["levels"], strict=True)]
    assert [point[:2] for point in chart["lines"][0]["points"]] == worst
    assert chart["log"]
    assert text(build_page([tmp_path / "run" / "levels" / "00"]).html).count("! non-adaptive") > 3


def test_certificates(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"sigma": 0.25, "n0": 20, "n": 100, "steps": 2, "draws": 1, "precision": "fp32"}
    certify(sided(), Sides([0.1, -0.2, 0.4, -0.6]), radii=[0.0, 0.1, 0.3], **asked, out=tmp_path / "run")
    html = build_page([tmp_path / "run"]).html
    seen, summary = text(html), told(tmp_path / "run")
    rows = zip(summary["radii"], summary["certified"], summary["attacked"]["scores"], strict=True)
    for place, (radius, certified, attacked) in enumerate(rows):
        least = plain(percent(summary["high_probability"][place]))
        noise_db = f"{summary['snr_db'][place]:.1f} dB " if radius else ""
        row = f"{radius:g} {noise_db}{words(certified)} {least} {words(attacked)}"
        assert row.replace("-", "−") in seen, radius
    assert "100 votes test it" in seen
    (chart,) = charts(html)
    assert [line["name"] for line in chart["lines"]] == ["certified", "under attack"]
    assert chart["marks"] == [[pytest.approx(summary["ceiling"]), "ceiling of the votes"]]
    assert not chart["log"]
    for check in summary["checks"]:
        assert MEANINGS[check["name"].split()[0]] in seen


def test_many_labels_are_certified_one_by_one(tmp_path: Path) -> None:
    clips = Sides([[0.3, -0.4, 0.6], [-0.2, 0.5, -0.1]], labels=3)
    asked: dict[str, Any] = {"n0": 20, "n": 200, "attack": False, "precision": "fp32"}
    certify(sided(3), clips, **asked, radii=[0.1], checks=False, out=tmp_path / "run")
    html = build_page([tmp_path / "run"]).html
    seen = text(html)
    assert "Of all pairs of clip and label Of labels that are present" in seen
    assert words(told(tmp_path / "run")["labels"]["present"][0]) in seen
    assert charts(html) == [], "one radius is no curve"
    assert "Whether the certificate can be believed was not asked" in seen


def test_corruptions_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "cache"))
    model = victim()
    noise(model, ToyData(6, model), "white", (2, 5), purify=Noisy(SAMPLE_RATE, 0.2), out=tmp_path / "run")
    seen, purified = text(build_page([tmp_path / "run"]).html), told(tmp_path / "run")["purified"]
    for name, row in (("Clean clips", purified["clean"]), *(("white", cell) for cell in purified["cells"])):
        severity = f" {row['severity']} SNR (dB) {row['value']:g}" if "severity" in row else ""
        assert f"{name}{severity} {words(row['before'])} {words(row['after'])}".replace("-", "−") in seen
    errors = [plain(percent(purified[side]["mean_error"])) for side in ("after", "before")]
    assert f"the same clips give a mean error of {errors[0]} instead of {errors[1]}" in seen


def test_an_adaptive_number_is_called_so_and_a_weaker_one_is_not(tmp_path: Path) -> None:
    strong = text(build_page([made.purification_run(tmp_path / "strong")]).html)
    assert "✓ adaptive" in strong
    assert "NON-ADAPTIVE" not in strong
    folder = made.purification_run(tmp_path / "weak", label=WEAK)
    html = build_page([folder]).html
    seen = text(html)
    assert "m18 on events: behind waveform:3, L∞ 0.002 (non-adaptive)" in seen
    assert f"! {WEAK}" in seen
    assert "✓ adaptive" not in seen
    robust = told(folder)["robust"]
    assert f"{words(robust)} ! non-adaptive" in seen, "in the table, too"
    assert "NON-ADAPTIVE (no full gradient, no black box)" in " ".join(told_of(open_run(folder)))
    assert len([one for one in Page(html).all("span") if one.get("class") == "called weak"]) >= 4


def test_a_curve_that_is_adaptive_in_part_says_where(tmp_path: Path) -> None:
    folder = made.purify_run(tmp_path / "run", labels=("adaptive", WEAK, "adaptive"))
    html = build_page([folder]).html
    seen = text(html)
    assert "(in part non-adaptive)" in seen
    assert "Non-adaptive at L∞ 0.002: no full gradient, no black box." in seen
    assert "number at L∞ 0.002 is NON-ADAPTIVE" in seen
    assert charts(html)[0]["lines"][0]["name"] == "worst attack, in part non-adaptive"
    levels = told(folder)["levels"]
    for level, mark in zip(levels, ("✓ adaptive", "! non-adaptive", "✓ adaptive"), strict=True):
        assert f"{words(level['robust'])} {mark}" in seen


def test_a_study_tells_the_label_beside_its_cells(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    runs = [
        made.purify_run(cells / "strong", labels=("adaptive", "adaptive", WEAK)),
        made.purification_run(cells / "weak", label=WEAK, audio=False),
        made.certificate_run(cells / "smoothed"),
    ]
    seen = text(build_page([stores.write_study(tmp_path, runs)]).html)
    summaries = [told(run) for run in runs]
    middle = summaries[0]["levels"][1]["robust"]
    assert f"{words(middle)} ✓ adaptive at L∞ 0.002; 50.0 % at L∞ 0.001, 8.3 % at L∞ 0.004 (not all adaptive)" in seen
    bare = plain(percent(summaries[1]["bare_robust"]["score"]))
    assert f"{words(summaries[1]['robust'])} ! non-adaptive no defense: {bare}" in seen
    certified = summaries[2]["certified"][3]
    assert f"{words(certified)} mean certified radius 0.31" in seen


def test_clips_are_played_those_that_stand_least_first(tmp_path: Path) -> None:
    folder = made.purification_run(tmp_path / "run")
    html = build_page([folder]).html
    assert len(Page(html).all("audio")) == 3 * 3
    seen, rows = text(html), open_run(folder).records
    assert rows is not None
    assert re.search(r"Worst attack \S+ Stands behind it in 0 of 4 draws; unattacked in \d of 4", seen)
    assert "✕ broken in every draw" in seen
    names = sorted(path.name for path in (folder / "audio").iterdir())
    (folder / "audio" / names[0]).unlink()
    html = build_page([folder]).html
    assert f"1 of the 9 recordings that the run wrote is missing: {names[0]}." in text(html)
    assert len(Page(html).all("audio")) == 8
    shutil.rmtree(folder / "audio")
    shutil.rmtree(folder / "records")
    assert "9 of the 9 recordings" in text(build_page([folder]).html)


@pytest.mark.parametrize("store", BUILDERS, indirect=True)
def test_hostile_names_stay_text(store: Path) -> None:
    summary = told(store)
    entries: dict[str, Any] = {"victim": HOSTILE, "label": HOSTILE, "skipped": {HOSTILE: HOSTILE}}
    for name in ("purifier", "denoiser"):
        entries[name] = {**(summary.get(name) or {}), "name": HOSTILE, "gradient": HOSTILE}
    if isinstance(summary.get("attacks"), dict):
        entries["attacks"] = {HOSTILE: {**summary["attacks"]["bpda"], "what": HOSTILE}}
    if "levels" in summary:
        entries["levels"] = [{**level, "label": HOSTILE, "attacks": {HOSTILE: {"worst_for": 2}}}
                             for level in summary["levels"]]  # fmt: skip
    if "purified" in summary:
        cells = [{**cell, "corruption": HOSTILE, "parameter": HOSTILE} for cell in summary["purified"]["cells"]]
        entries["purified"] = {**summary["purified"], "purifier": {"name": HOSTILE}, "cells": cells}
    html = build_page([edited(store, **entries)]).html
    assert HOSTILE not in html
    assert "&lt;img" in html
    assert not any("onerror" in attributes for _, attributes in Page(html).tags)


@pytest.mark.parametrize("store", BUILDERS, indirect=True)
def test_what_is_unknown_does_no_harm(store: Path) -> None:
    """A later version says more, an older one less."""
    before, summary = text(build_page([store]).html), told(store)
    more: dict[str, Any] = {"novel": {"depth": 3, "kept": [1, 2]}, "new_word": "hm"}
    for name in ("robust", "clean"):
        if name in summary:
            more[name] = {**summary[name], "novel": 1}
    if "attacks" in summary:
        more["attacks"] = {**summary["attacks"], "later": {"what": "a new attack", "clips": 3}}
    if "levels" in summary:
        more["levels"] = [{**level, "novel": 1} for level in summary["levels"]]
    edited(store, **more)
    seen = text(build_page([store]).html)
    assert "novel depth 3" in seen
    assert "new word hm" in seen
    assert len(seen) > len(before)
    optional = ("purifier", "missing", "bare_robust", "always", "draws", "cascade", "high_probability", "snr_db",
                "smoothed", "abstained", "average_radius", "attacked", "votes_per_clip", "audit", "checks")  # fmt: skip
    Page(build_page([edited(store, **dict.fromkeys(optional))]).html)


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("purification", "attacks"), ("purification", "bare_clean"), ("purification", "label"), ("purify", "levels"),
        ("purify", "label"), ("certificate", "certified"), ("certificate", "ceiling"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(tmp_path: Path, kind: str, entry: str) -> None:
    folder = edited(BUILDERS[kind](tmp_path / "run"), **{entry: None})
    with pytest.raises(StoreError, match=f"it lacks {entry}"):
        build_page([folder])


def test_certificates_at_one_radius_and_without_an_attack(tmp_path: Path) -> None:
    folder = made.certificate_run(tmp_path / "run")
    summary = told(folder)
    one = {name: summary[name][2:3] for name in ("radii", "certified", "high_probability", "snr_db")}
    html = build_page([edited(folder, **one, radius=one["radii"][0], average_radius=None)]).html
    assert charts(html) == []
    assert "up to 1,000 votes test it" in text(html)
    lone = made.certificate_run(tmp_path / "lone", denoiser="waveform")
    edited(lone, attacked=None)
    html = build_page([lone]).html
    assert [line["name"] for line in charts(html)[0]["lines"]] == ["certified"]
    assert "denoised by checkpoints/waveform.safetensors" in text(html)
    assert [score.words for score in scores(open_run(lone))][1:] == [
        "certified accuracy, L2 radius 0.369",
        "accuracy in noise",
    ]


def test_checks_of_several_radii_keep_the_worst_verdict() -> None:
    checks = [
        {"name": "S2 monotone", "verdict": "pass", "detail": "a"},
        {"name": "S3 unbounded", "verdict": "skipped", "detail": "same"},
        {"name": "S2 monotone", "verdict": "fail", "detail": "b"},
        {"name": "S3 unbounded", "verdict": "skipped", "detail": "same"},
        {"name": "S2 monotone", "verdict": "warn", "detail": "c"},
    ]
    assert gathered(checks, ["at 1", "at 2", "at 3"]) == [
        {"name": "S2 monotone", "verdict": "fail", "detail": "at 1: a; at 2: b; at 3: c"},
        {"name": "S3 unbounded", "verdict": "skipped", "detail": "same"},
    ]


def test_pages_repeat_the_command_with_the_options_that_it_has(tmp_path: Path) -> None:
    run = open_run(made.purification_run(tmp_path / "purification"))
    told_command = repeat_command(run)
    assert told_command.startswith("robust attack --no-cascade --model m18")
    for option in ("--purify waveform:3", "--attacks transfer,bpda,full-1,square", "--draws 4", "--queries 300",
                   "--eps 0.002", "--norm linf", "--steps 70"):  # fmt: skip
        assert option in told_command
    assert "--success" not in told_command
    certificate = open_run(made.certificate_run(tmp_path / "certificate", denoiser="waveform"))
    told_command = repeat_command(certificate)
    assert not was_typed(certificate), "its manifest holds another command"
    assert told_command.startswith("robust certify --model m18")
    asked = ("--sigma 0.25", "--n0 100", "--n 1000", "--alpha 0.001", "--attack-steps 20", "--radii 0.0,0.123")
    for option in (*asked, "--denoise checkpoints/waveform.safetensors"):
        assert option in told_command
    assert "--radius" not in told_command


def test_the_same_store_gives_the_same_page(tmp_path: Path) -> None:
    folders = [build(tmp_path / name) for name, build in BUILDERS.items()]
    first = build_page(folders)
    assert first.html == build_page(folders).html
    assert first.clips == 3
    keys = [chart["key"] for chart in charts(first.html)]
    assert len(keys) == len(set(keys)) == 2
    for key in keys:
        assert first.html.count(f'data-chart="{key}"') == 1
