"""The report page: what it says of runs and studies, that it holds everything, and what it refuses."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from attacks.gradients import frozen
from attacks.pgd import PGD
from attacks.threat import Ball
from robust import report
from robust.api import attack
from robust.change import evaluate, missing, swap
from robust.cli import main
from robust.cli.report import report as command
from robust.errors import StoreError
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData
from robust.evaluation.pictures import amplification, save_frames, spread
from robust.evaluation.store import Store
from robust.report import build_page, write_page
from robust.report.classes import class_table
from robust.report.command import repeat_command
from robust.report.formats import decibels, number, p_value, percent, points
from robust.report.gallery import _stems
from robust.report.levels import axis_words, median_level, stands
from robust.report.meanings import MEANINGS, explained
from robust.report.reading import open_run
from robust.report.sound import LSB_16, gain_db, spectrogram_db
from tests.robust import av_toys, stores, table_stores
from tests.robust.toys import SAMPLE_RATE, ToyData, victim

VOID = {"meta", "link", "input", "img", "image", "path", "br", "audio"}


class Page(HTMLParser):
    """A page taken apart: tags with their attributes, text, and whether tags close as they open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID - {"audio"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text(html: str) -> str:
    """What a reader sees, blanks folded."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body))).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attack on one label a clip, with recordings."""
    folder, model = tmp_path_factory.mktemp("runs") / "plain", victim()
    attack(model, ToyData(24, model), eps=0.01, steps=6, out=folder)
    return folder


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("runs") / "many-labels", victim("multilabel")
    attack(model, ToyData(24, model), eps=0.01, steps=6, out=folder, checks=False)
    return folder


@pytest.fixture(scope="module")
def audio_visual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both senses attacked, with frames."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    model, data = av_toys.linear(av_toys.SOUND, av_toys.SIGHT), av_toys.clips(12)
    eps = {"audio": 0.2, "video": 0.1}
    done = attack(model, data, norm="linf", modality="both", eps=eps, steps=5, out=folder, checks=False)
    with frozen(model):
        balls = {"audio": Ball("linf", 0.2), "video": Ball("linf", 0.1, low=0.0, high=1.0)}
        condition = Attack(balls, PGD(steps=5))
        save_frames(folder, model, AlignedData(data, model.spec), condition, done.records, 0)
    return folder


def changed(folder: Path, to: Path, **entries: Any) -> Path:
    """A copy of a run whose summary says otherwise."""
    shutil.copytree(folder, to)
    told = json.loads((to / "summary.json").read_text())
    (to / "summary.json").write_text(json.dumps({**told, **entries}))
    return to


def test_page_tells_scores_budgets_checks_and_how_to_repeat(run: Path) -> None:
    summary, seen = json.loads((run / "summary.json").read_text()), text(build_page([run]).html)
    for side in ("clean", "robust"):
        told = summary[side]
        assert percent(told["score"]).replace("\u00a0", " ") in seen
        assert f"95 % interval {100 * told['low']:.1f} to {100 * told['high']:.1f} %; 24 clips" in seen
    assert "no single value may change by more than the radius" in seen
    assert "328 steps of 16-bit sound" in seen  # 0.01 * 2^15
    assert "−40.0 dBFS" in seen
    for check in summary["checks"]:
        assert check["detail"] in seen
        assert MEANINGS[check["name"].split()[0]] in seen
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["weights"] in seen
    assert manifest["data"]["fingerprint"] in seen
    assert "at most 6 of them, margin loss" in seen


def test_page_is_well_formed_self_contained_and_accessible(run: Path, audio_visual: Path) -> None:
    html = build_page([run, audio_visual]).html
    page = Page(html)
    addresses = [tag[name] for _, tag in page.tags for name in ("src", "href") if name in tag]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg|http-equiv", "", html)
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)
    labelled = [tag[name] for _, tag in page.tags for name in ("aria-labelledby", "data-filter") if name in tag]
    assert set(labelled) <= set(ids)
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all("scope" in heading for heading in page.all("th"))
    assert all(picture.get("alt") for picture in page.all("img"))
    assert all(player.get("aria-label") and "controls" in player for player in page.all("audio"))
    assert all(tag.get("aria-label") for tag in page.all("svg") if tag.get("role") == "img")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_same_store_gives_the_same_bytes_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    first, again, other = (build_page([folder]).html for folder in (run, run, moved))
    assert first == again == other
    assert str(run.parent) not in first
    assert str(Path.home()) not in text(first)


def test_players_hold_the_stored_recordings(run: Path) -> None:
    page = Page(build_page([run], clips=2).html)
    players = page.all("audio")
    assert len(players) == 2 * 3
    folder = run / "audio"
    stem = min(path.name for path in folder.iterdir() if path.name.startswith("0-")).rsplit("-", 1)[0]
    gain = int(re.search(r"Difference, ([+]\d+) dB", build_page([run]).html)[1])
    for player, kind in zip(players, ("original", "adversarial", "difference"), strict=False):
        kind_of, content = player["src"].removeprefix("data:").split(";base64,")
        assert kind_of == "audio/flac"
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        stored, _ = soundfile.read(folder / f"{stem}-{kind}.wav")
        factor = 10 ** (gain / 20) if kind == "difference" else 1.0
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(sound, stored * factor, atol=LSB_16)
    peaks = [np.abs(soundfile.read(path)[0]).max() for path in folder.glob("*-difference.wav")]
    assert 0.3 < max(peaks) * 10 ** (gain / 20) <= 0.7


def test_perturbations_below_one_step_of_16_bit_are_said_and_kept(tmp_path: Path) -> None:
    model = victim()
    attack(model, ToyData(10, model), eps=1e-5, steps=2, out=tmp_path / "run", checks=False)
    html = build_page([tmp_path / "run"]).html
    assert "smaller than one step of 16-bit sound" in text(html)
    content = base64.b64decode(Page(html).all("audio")[1]["src"].split("base64,")[1])
    assert soundfile.info(io.BytesIO(content)).subtype == "PCM_24"
    sounds = [
        soundfile.read(io.BytesIO(base64.b64decode(Page(html).all("audio")[n]["src"].split(",")[1])))[0] for n in (0, 1)
    ]
    assert np.abs(sounds[1] - sounds[0]).max() == pytest.approx(1e-5, abs=2**-22)


def test_gallery_stays_within_its_room_and_says_what_it_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_page([run])
    assert (whole.clips, whole.left_out) == (8, 0)
    few = build_page([run], clips=3)
    assert (few.clips, few.left_out) == (3, 5)
    assert "5 more clips were left out for want of room or because fewer were asked for" in text(few.html)
    from robust.report import page

    monkeypatch.setattr(page, "GALLERY_BYTES", len(whole.html) // 3)
    small = build_page([run])
    assert 0 < small.clips < 8
    assert small.clips + small.left_out == 8
    monkeypatch.setattr(page, "MOST_BYTES", len(whole.html) // 2)
    monkeypatch.setattr(page, "GALLERY_BYTES", 10**9)
    assert len(build_page([run]).html.encode()) <= len(whole.html) // 2


def test_failed_checks_and_violations_are_prominent(run: Path, tmp_path: Path) -> None:
    assert "do not rely" not in text(build_page([run]).html)
    checks = [
        {"name": "S8 gradients", "verdict": "fail", "detail": "80 % of clips without gradient"},
        {"name": "S99 unheard of", "verdict": "odd", "detail": "nothing"},
    ]
    folder = changed(run, tmp_path / "masked", checks=checks, audit={"violations": 3, "worst_ratio": 2.0})
    html = build_page([folder]).html
    seen = text(html)
    alert = seen.index("Checks failed: do not rely on this number")
    assert alert < seen.index("80 % of clips without gradient") < seen.index("Clean accuracy".lower())
    assert "✕ FAILED" in seen
    assert "3 perturbations break the declared budget" in seen
    assert "no explanation of this check" in seen
    assert re.search(r'<section class="alert"', html)


def test_per_class_table_and_confusion_are_those_of_the_records(run: Path) -> None:
    records, seen = Store.read(run).records(), text(build_page([run]).html)
    for name, part in records.groupby("label_name"):
        before, after = part["clean_correct"].mean(), (part["clean_correct"] & part["correct"]).mean()
        told = rf"{name} {len(part)} {100 * before:.1f} % [\d.]+ to [\d.]+ % {100 * after:.1f} %"
        assert re.search(told, seen), name
    labels = open_run(run).labels
    after = re.search(r"After: the same clips(.*?)Confusions that grew most", seen)[1]
    for row, name in enumerate(labels):
        counts = [int(((records["label"] == row) & (records["prediction"] == column)).sum()) for column in range(3)]
        assert f"{name} {' '.join(map(str, counts))} " in after


def test_many_classes_get_the_most_confused_pairs_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robust.report import classes

    monkeypatch.setattr(classes, "MOST_CELLS", 2)
    html = build_page([run]).html
    assert "Confusions that grew most" in html
    assert 'class="heat"' not in html


def test_multilabel_run(multilabel: Path) -> None:
    html = build_page([multilabel]).html
    seen, page = text(html), Page(html)
    summary = json.loads((multilabel / "summary.json").read_text())
    for clean, after in zip(*(summary["multilabel"]["classes"][side] for side in ("clean", "robust")), strict=True):
        scores = rf"{100 * clean['ap']:.1f} % [\d.]+ to [\d.]+ % {100 * after['ap']:.1f} %"
        told = rf"{clean['class']} {clean['positives']} {scores}"
        assert re.search(told, seen), clean["class"]
    assert "clean mAP" in seen
    assert "How often each label is told" in seen
    assert "any number of them in a clip" in seen
    assert len(page.all("audio")) == 24
    assert 'class="heat"' not in html


def test_audio_visual_run_shows_frames_and_both_budgets(audio_visual: Path) -> None:
    html = build_page([audio_visual]).html
    frames = [tag for tag in Page(html).all("img") if tag["alt"].startswith("Frame")]
    assert len(frames) == 4 * 2 * 3  # clips, frames of a video of two, kinds
    assert "Used in video" in text(html)
    assert "dB of full range" in text(html)


def test_frames_are_the_attacked_ones(audio_visual: Path) -> None:
    names = sorted(path.name for path in (audio_visual / "video").iterdir())
    sounds = sorted(path.name for path in (audio_visual / "audio").iterdir())
    assert {name.rsplit("-original", 1)[0] for name in names if "original" in name} <= {
        name.rsplit("-original", 1)[0] for name in sounds if "original" in name
    }
    gain = int(re.search(r"-difference-x(\d+)-", names[0] + names[3] + "".join(names))[1])
    stem = names[0].split("-adversarial")[0]
    original, after, difference = (
        np.asarray(Image.open(audio_visual / "video" / f"{stem}-{kind}-00.png"), dtype=float) / 255
        for kind in ("original", "adversarial", f"difference-x{gain}")
    )
    change = after - original
    assert np.abs(change).max() == pytest.approx(0.1, abs=1 / 255)
    np.testing.assert_allclose(difference, 0.5 + gain * change, atol=(0.5 + gain) / 255)


def test_amplification_and_spread() -> None:
    for largest in (0.3, 0.1, 4 / 255, 1e-4):
        gain = amplification(torch.tensor([largest, 0.0]))
        assert gain * largest <= 0.45 or gain == 1
        assert gain == 1024 or 2 * gain * largest > 0.45
    assert amplification(torch.zeros(3)) == 1
    assert spread(8, 3) == [1, 4, 6]
    assert spread(2, 3) == [0, 1]
    assert spread(1, 3) == [0]


def test_a_changed_modality_and_runs_without_sound(tmp_path: Path) -> None:
    model, data = av_toys.linear(av_toys.SOUND, av_toys.SIGHT), av_toys.clips(12)
    evaluate(model, data, missing(model, data, "audio"), out=tmp_path / "deaf")
    html = build_page([tmp_path / "deaf"]).html
    assert "the sound (waveform) was taken away and zeros put in" in text(html)
    assert "changed accuracy" in text(html)
    assert not Page(html).all("audio")
    seen = text(build_page([tmp_path / "deaf"], title="<b>Deaf & blind</b>").html)
    assert "<b>Deaf & blind</b>" in seen  # escaped, and so seen as it was given


@pytest.mark.parametrize(
    "make",
    [
        stores.universal_run,
        table_stores.thresholds_run,
        table_stores.surface_run,
        table_stores.latents_run,
        table_stores.latency_run,
    ],
)
def test_every_other_kind_of_run_makes_a_page(tmp_path: Path, make: Any) -> None:
    folder = make(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    html = build_page([folder]).html
    Page(html)
    assert summary["victim"] in text(html)


def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    runs = [
        stores.curve_run(folder / "cells" / "linf-one", "av-mid"),
        stores.curve_run(folder / "cells" / "linf-two", "av-early", half=1e-4),
        stores.curve_run(folder / "cells" / "noise", "av-mid", norm="noise", half=5),
        stores.attack_run(folder / "cells" / "attack", "av-mid"),
        stores.attack_run(folder / "cells" / "lost", "av-late"),
    ]
    stores.write_study(folder, runs, states={"lost": "failed"})
    claims = [
        {"name": "one", "data": "esc50", "words": "Sight helps.", "text": "a.robust > b.robust", "verdict": "supported",
         "a": 0.6, "b": 0.4, "effect": 0.2, "low": 0.1, "high": 0.3, "p": 0.0004, "p_corrected": 0.0012,
         "test": "exact McNemar", "clips": 96, "seeds": 1, "reason": ""},
        {"name": "two", "words": "", "text": "a.radius > b.radius", "verdict": "not supported", "a": 1e-4, "b": 2e-4,
         "effect": 0.5, "low": None, "high": None, "p": 0.01, "p_corrected": 0.02, "more": 3, "fewer": 20,
         "test": "exact sign test", "clips": 96, "seeds": 2, "reason": ""},
        {"name": "three", "words": "Lost.", "text": "c.robust < 1", "verdict": "undecided", "p": None,
         "reason": "the cell av-late failed", "clips": 0, "seeds": 0, "test": ""},
    ]  # fmt: skip
    (folder / "claims.json").write_text(json.dumps(claims))
    return folder


def test_study_page_tells_claims_cells_and_curves(tmp_path: Path) -> None:
    html = build_page([study(tmp_path)]).html
    page, seen = Page(html), text(html)
    for told in (
        "A small study",
        "✓ supported Sight helps. a.robust > b.robust The data speak for the claim.",
        "Name one Data esc50 Effect",
        "+20.0 points (60.0 % against 40.0 %), 95 % interval +10.0 to +30.0",
        "p = 0.001, corrected for the number of claims (p < 0.001 alone), exact McNemar, 96 clips, 1 seed",
        "✕ not supported",
        "ratio of medians 0.5 (0.0001 against 0.0002), larger on 3 clips, smaller on 20",
        "It could not be decided: the cell av-late failed.",
        "5 cells: 4 done, 1 failed",
        "out of memory",
    ):
        assert told in seen, told
    drawn = json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1])
    assert [[line["name"] for line in chart["lines"]] for chart in drawn] == [["av-mid", "av-early"], ["av-mid"]]
    assert (drawn[0]["axis"], drawn[0]["log"], drawn[1]["harder"], drawn[1]["unit"]) == (
        "L∞ radius",
        True,
        "down",
        "dB",
    )
    stored = json.loads((tmp_path / "study/cells/linf-one/summary.json").read_text())
    assert [point[:2] for point in drawn[0]["lines"][0]["points"]] == [
        list(pair) for pair in zip(stored["radii"], stored["scores"], strict=True)
    ]
    captions = re.findall(r"<caption>(av-\w+): clean", html)
    assert captions == ["av-mid", "av-early", "av-mid"]
    rows = re.search(r"<caption>av-mid: clean.*?</table>", html, re.DOTALL)[0].count("<tr>") - 1
    assert rows == len(stored["radii"])
    assert len(page.all("h1")) == 1


def test_a_line_that_occurs_twice_is_told_apart(tmp_path: Path) -> None:
    runs = [stores.curve_run(tmp_path / name) for name in ("first", "second")]
    drawn = json.loads(re.search(r'id="charts">(.*?)</script>', build_page(runs).html, re.DOTALL)[1])
    assert [line["name"] for line in drawn[0]["lines"]] == ["first", "second"]


def test_two_runs_on_the_same_clips_are_compared(run: Path, tmp_path: Path) -> None:
    other, model = tmp_path / "weaker", victim()
    attack(model, ToyData(24, model), eps=0.001, steps=2, out=other, checks=False)
    one, two = (Store.read(folder).records() for folder in (run, other))
    alone = int((two["correct"] & ~one["correct"]).sum())
    assert alone > 0
    seen = text(build_page([run, other]).html)
    assert re.search(rf"exact McNemar\) \d+ {alone} ", seen)
    assert "No checks were run" in seen
    assert "toy on toys, 2 runs" in seen


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        build_page([tmp_path / "nowhere"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        build_page([tmp_path / "file"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="neither a study"):
        build_page([run, tmp_path / "empty"])
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    with pytest.raises(StoreError, match=r"not finished: 24 of 24 clips.*--resume"):
        build_page([unfinished])
    with pytest.raises(StoreError, match="at least one"):
        build_page([])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", "{}"),
        ("summary.json", '{"victim": "ast", "clips": 3, "clean": {}, "robust": 3, "threat": {"audio": {}}}'),
        ("manifest.json", "{"),
        ("records/part-0000000-0000023.parquet", "PAR1"),
        ("audio/0-toy-0-original.wav", "RIFF"),
    ],
)
def test_damaged_runs_are_refused_with_a_reason(run: Path, tmp_path: Path, file: str, content: str) -> None:
    folder = shutil.copytree(run, tmp_path / "damaged")
    path = folder / file
    if not path.exists():
        path = next(iter(sorted(path.parent.iterdir())))
    path.write_text(content)
    with pytest.raises(StoreError):
        build_page([folder])


def test_names_cannot_break_out_of_the_page(run: Path, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    attacked = changed(run, tmp_path / "attacked", victim=evil)
    curve = changed(stores.curve_run(tmp_path / "plain-curve"), tmp_path / "curve", victim=evil)
    html = build_page([attacked, curve]).html
    assert evil not in html
    assert html.count(evil.replace("<", "&lt;").replace(">", "&gt;")) > 3
    Page(html)


def test_folder_of_runs_side_by_side(tmp_path: Path) -> None:
    for name in ("two", "one"):
        stores.curve_run(tmp_path / "curves" / name, name)
    (tmp_path / "curves" / "curve.csv").write_text("x")
    drawn = json.loads(re.search(r'id="charts">(.*?)</script>', build_page([tmp_path / "curves"]).html, re.DOTALL)[1])
    assert [line["name"] for line in drawn[0]["lines"]] == ["one", "two"]
    with pytest.raises(StoreError, match=r"holds runs and is none.*one, two"):
        open_run(tmp_path / "curves")


def test_targeted_attack_and_swap_in_words(tmp_path: Path) -> None:
    model = victim()
    done = attack(model, ToyData(16, model), eps=0.003, steps=3, target="low", out=tmp_path / "run", checks=False)
    found = done.summary["success"]
    count, of = round(found["score"] * found["clips"]), found["clips"]
    seen = text(build_page([tmp_path / "run"]).html)
    assert "driving each clip to the answer “low”" in seen
    assert f"{count} of the {of} clips attacked give the answer that the attacker wants" in seen
    assert seen.count("✓ target not reached") + seen.count("✕ target reached") == min(of, 8)
    seeing, data = av_toys.linear(av_toys.SOUND, 0.9 * av_toys.SIGHT), av_toys.clips(12)
    swapped = evaluate(seeing, data, swap(seeing, data, "video"), out=tmp_path / "swapped")
    assert swapped.dominance.audio.score == 1
    seen = text(build_page([tmp_path / "swapped"]).html)
    assert "the sight (video frames) of each clip came from another clip" in seen
    assert "12 pairs of sound and sight that contradict each other it decides 100.0 %" in seen


def test_old_runs_without_kind_or_with_absolute_paths_make_a_page(run: Path, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "old", audio=["/nowhere/0-original.wav"], checks=[])
    told = json.loads((folder / "summary.json").read_text())
    del told["kind"]
    (folder / "summary.json").write_text(json.dumps(told))
    html = build_page([folder]).html
    assert len(Page(html).all("audio")) == 24
    assert "/nowhere" not in html


def test_page_is_written_where_it_was_asked_for(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    page = write_page([copy])
    assert page.path == copy / "report.html"
    assert page.bytes == len(page.path.read_bytes()) < 15_000_000
    assert write_page([copy], tmp_path / "there" / "page.html").path.read_bytes() == page.path.read_bytes()
    assert write_page([copy], tmp_path / "run").path == copy / "report.html"


def test_command_line(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    words = [str(run), "--out", str(tmp_path / "page.html"), "--title", "Judged", "--clips", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert re.search(r"page\.html \(\d\.\d MB, 2 clips to hear and see, 6 left out", done.output)
    assert "<h1>Judged</h1>" in (tmp_path / "page.html").read_text()


def test_store_behind_an_address(run: Path) -> None:
    from robust.atomic import open_folder

    there = open_folder(f"memory://report-{os.getpid()}/{run.name}")
    for path in run.rglob("*"):
        if path.is_file():
            target = there.joinpath(*path.relative_to(run).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert build_page([str(there)]).html == build_page([run]).html


def test_command_repeats_the_run_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def robust(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/robust", *words])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code

    robust(
        *[
            "attack",
            "--model",
            "m3",
            "--limit",
            "2",
            "--eps=-40",
            "--unit",
            "dbfs",
            "--steps",
            "2",
            "--no-checks",
            "--out",
            "one",
            "--json",
        ]
    )
    words = shlex.split(repeat_command(open_run(tmp_path / "one")))
    assert words[0] == "robust"
    assert not {"--out", "one", "--json"} & set(words)
    for option in ("--schedule", "--restarts", "--seed", "--split", "--device", "--modality", "--norm"):
        assert option in words, option
    robust(*words[1:], "--out", "again")
    one, again = (Store.read(tmp_path / name) for name in ("one", "again"))
    kept = ("created", "command", "git_revision")
    assert {k: v for k, v in one.manifest.items() if k not in kept} == {
        k: v for k, v in again.manifest.items() if k not in kept
    }
    assert one.records().equals(again.records())


def test_command_with_blanks_stays_quoted(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "quoted")
    manifest = json.loads((folder / "manifest.json").read_text())
    typed = ["/usr/bin/robust", "attack", "--weights", "my weights.pt", "--out", "a b", "--model=toy", "--resume"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "command": shlex.join(typed)}))
    words = shlex.split(repeat_command(open_run(folder)))
    assert words[:5] == ["robust", "attack", "--weights", "my weights.pt", "--model=toy"]
    assert "--model" not in words
    assert not {"a b", "--resume", "--limit"} & set(words)


def test_command_of_a_run_from_python_names_what_the_manifest_knows(audio_visual: Path) -> None:
    words = shlex.split(repeat_command(open_run(audio_visual)))
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["robust", "attack"]
    assert given["--eps"] == "audio=0.2,video=0.1"
    assert given["--modality"] == "both"
    assert given["--steps"] == "5"
    assert given["--limit"] == "12"
    assert "made from Python; the command" in text(build_page([audio_visual]).html)


@pytest.mark.parametrize("alone", [False, True])
def test_command_of_a_cell_is_the_study_s(tmp_path: Path, alone: bool) -> None:
    folder = study(tmp_path)
    path = folder / "cells" / "attack" / "manifest.json"
    cell = {"victim": "mine", "condition": "band", "data": "folder", "seed": 3}
    told = {**json.loads(path.read_text()), "command": "/usr/bin/robust study my.yaml --root events=x", "cell": cell}
    path.write_text(json.dumps(told))
    seen = text(build_page([path.parent if alone else folder]).html)
    assert "This run is the cell “mine, band, folder, seed 3” of a study" in seen
    assert "robust study my.yaml --root events=x" in re.sub(r" +", " ", seen)
    assert "--eps" not in seen


def test_a_clip_may_be_named_like_a_kind_of_file(run: Path, tmp_path: Path) -> None:
    """Of `yard-original-2.wav` the stem is not `0-yard`."""
    folder = tmp_path / "audio"
    folder.mkdir()
    names = [f"0-yard-original-2-{kind}" for kind in ("original.wav", "adversarial-03.png", "difference-x16-00.png")]
    other = "1-the-difference-difference.wav"
    for name in (*names, other):
        (folder / name).write_bytes(b"")
    assert _stems(folder) == {
        "0-yard-original-2": sorted(names),
        "1-the-difference": ["1-the-difference-difference.wav"],
    }


@pytest.mark.parametrize(("harder", "kept"), [("up", {"bell", "dog"}), ("down", {"drum", "rain"})])
def test_classes_kept_of_a_search_are_those_that_break_first(tmp_path: Path, harder: str, kept: set[str]) -> None:
    import pandas as pd

    radius = {"bell": -np.inf, "dog": 1.0, "engine": 1.5, "rain": 3.0, "drum": np.inf}
    right = [True, False, True, True, True]  # by the difference to the clean score `engine` would come before `dog`
    table = {"label_name": list(radius), "radius": list(radius.values()), "clean_correct": right}
    cell = open_run(changed(stores.curve_run(tmp_path / "curve"), tmp_path / "search"))
    cell.__dict__["records"] = pd.DataFrame(table)
    cell.summary["axis"]["harder"] = harder
    found = class_table(cell, 2)
    assert {row.name for row in found.rows} == kept
    assert (found.left_out, found.kept) == (3, "that break first")


@pytest.mark.parametrize(
    ("clean", "told"),
    [(40, "It is under one half before anything is done."), (92, "It does not fall under one half within these")],
)
def test_a_curve_lost_from_the_first_is_told_from_one_that_never_falls(tmp_path: Path, clean: int, told: str) -> None:
    plain = stores.curve_run(tmp_path / "plain", norm="noise", half=5)
    folder = changed(plain, tmp_path / "curve", clean=stores.score(clean), radius_half=None, radius_threshold=None)
    seen = text(build_page([folder]).html)
    assert told in seen
    assert seen.count("under one half") == 1


def test_infinite_levels_sort_as_numbers() -> None:
    """The page's own comparison, by Node where there is one."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node here")
    script = (Path(report.__file__).parent / "templates" / "script.js").read_text()
    sorting = script[: script.index("function filtering")]
    program = (
        sorting
        + """
        const cell = given => ({ dataset: { value: given }, textContent: given });
        const body = { rows: ["inf", "10", "nan", "-inf", "9", "inf"].map(given => ({ cells: [cell(given)] })),
                       append(...rows) { this.rows = rows; } };
        let press;
        const heading = { dataset: { sort: "" }, textContent: "", state: null,
                          replaceChildren() {}, removeAttribute() {},
                          getAttribute() { return this.state; }, setAttribute(_, to) { this.state = to; } };
        globalThis.element = () => ({ addEventListener: (_, what) => { press = what; } });
        sortable({ tHead: { rows: [{ cells: [heading] }] }, tBodies: [body] });
        for (const _ of [0, 1]) { press(); console.log(body.rows.map(row => row.cells[0].dataset.value).join(" ")); }
    """
    )
    done = subprocess.run([node, "-e", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["-inf 9 10 inf inf nan", "inf inf 10 9 -inf nan"]


def test_numbers_are_written_for_readers() -> None:
    assert percent(0.93333) == "93.3\u00a0%"
    assert percent(None) == percent(float("nan")) == "–"
    assert points(-0.051) == "−5.1"
    assert (number(float("inf")), number(None), number(-1.23456e-5)) == ("∞", "–", "−1.235e−05")
    assert decibels(-53.979, "dBFS") == "−54.0\u00a0dBFS"
    assert (p_value(0.0004), p_value(0.0213), p_value(0.5)) == ("p < 0.001", "p = 0.021", "p = 0.50")
    assert explained([{"name": "S3 unbounded", "verdict": "pass", "detail": "x"}])[0].word == "passed"


def test_axis_words_take_labels_apart() -> None:
    assert axis_words({"label": r"$L_\infty$ radius (full scale = 1)"}) == ("L∞ radius", "")
    assert axis_words({"label": "SNR of white noise (dB)"}) == ("SNR of white noise", "dB")
    assert axis_words({"name": "rt60", "unit": "s"}) == ("rt60", "s")


def test_standing_clips_of_a_search() -> None:
    import pandas as pd

    records = pd.DataFrame({"scale": [0.0, 0.05, 0.1, 0.11, np.inf]})
    summary = {"radii": [0.001, 0.01], "axis": {"unit": "amplitude", "harder": "up"}}
    assert stands(records, summary).tolist() == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]
    assert median_level(records, summary) == pytest.approx(0.001)
    falling = {"radii": [40.0, 20.0], "axis": {"unit": "snr_db", "harder": "down"}}
    assert stands(records, falling).tolist() == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]
    assert median_level(records, falling) == pytest.approx(40.0)
    levels = pd.DataFrame({"radius": [np.inf, 40.0, 30.0, 20.0, -np.inf]})
    assert stands(levels, falling).tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [1, 1]]


def test_spectrogram_of_a_full_scale_sine_is_zero_db_at_its_place() -> None:
    rate, frequency = 8000, 1000.0
    sound = np.sin(2 * np.pi * frequency * np.arange(rate) / rate)
    levels = spectrogram_db(sound, rate)
    bins = levels.shape[0] - 1
    row, _ = np.unravel_index(levels.argmax(), levels.shape)
    assert row / bins * rate / 2 == pytest.approx(frequency, abs=rate / bins)
    assert levels.max() == pytest.approx(0, abs=0.1)
    assert levels.shape[1] <= 250
    assert spectrogram_db(np.zeros(5), rate).shape[0] > 1


def test_gain_brings_a_peak_up_but_never_down() -> None:
    assert gain_db(0.0) == gain_db(0.9) == 0
    assert gain_db(0.002) == 50
    assert 0.002 * 10 ** (50 / 20) <= 0.7
