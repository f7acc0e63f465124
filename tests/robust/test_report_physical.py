"""The report of runs over the air, under corruptions, under music and through stickers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robust.report import build_page
from robust.report.command import repeat_command
from robust.report.formats import interval, number, percent
from robust.report.physical import scores, told_of
from robust.report.reading import open_run
from tests.robust import physical_stores as made
from tests.robust import stores
from tests.robust.test_report import Page, text

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "air": made.air_run,
    "noise": made.noise_run,
    "music": made.music_run,
    "stickers": made.sticker_run,
}
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The run of the kind that the test names."""
    return BUILDERS[request.param](tmp_path / "run")


def plain(words: str) -> str:
    return words.replace("\u00a0", " ")


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_over_the_air_the_tables_hold_the_numbers_of_the_summary(tmp_path: Path) -> None:
    folder = made.air_run(tmp_path / "run")
    seen, summary = text(build_page([folder]).html), told(folder)
    for version in ("plain", "eot"):
        for place in ("no_channel", "train_rooms", "held_out_rooms"):
            found = summary[version][place]
            for what in ("success", "standing"):
                score = found[what]
                words = plain(f"{percent(score['score'])} {interval(score['low'], score['high'])}")
                assert words in seen, (version, place, what)
            assert f"of {found['pairs']} pairs" in seen
    row = seen.split("PGD with EOT", 1)[1]
    assert plain(percent(summary["eot"]["worst_decile"]["held_out_rooms"])) in row.split("Unperturbed", 1)[0]
    recovered = summary["recovered"]
    assert plain(f"EOT wins back {percent(recovered['score'])} (95 % interval") in seen
    assert f"{100 * summary['gain']['difference']:+.1f} points" in seen
    assert "Wilcoxon" in seen
    assert "60 steps, 4 draws in each gradient, new at every step" in seen
    assert "learned its rooms by heart" in seen  # what the check S17 means


def test_over_the_air_every_version_plays_with_and_without_the_room(tmp_path: Path) -> None:
    folder = made.air_run(tmp_path / "run")
    page = Page(build_page([folder]).html)
    labels = [player["aria-label"] for player in page.all("audio")]
    assert len(labels) == 4 * 4 * 2
    first = labels[:8]
    clip = first[0].split(" of ")[1].split(",")[0]
    versions = ("Unperturbed", "Random noise", "Plain PGD", "PGD with EOT")
    rooms = ("without a channel", "in a held-out room")
    assert first == [f"{version} of {clip}, {room}" for room in rooms for version in versions]
    rows = open_run(folder).records
    assert rows is not None
    broken = rows[~rows["eot_no_channel"].astype(bool)]["id"].tolist()
    assert clip == broken[0], "clips that EOT breaks come first"


def test_perceptual_figures_are_told_in_words(tmp_path: Path) -> None:
    air, attack = made.air_run(tmp_path / "air"), stores.attack_run(tmp_path / "attack")
    made.edited(attack, perceptual={"snr_db": 31.25, "masking_audible": 0.123, "stoi": 0.987})
    seen = text(build_page([air]).html)
    assert "PGD with EOT Plain PGD What it says Signal-to-noise ratio 27.8 dB 27.8 dB" in seen
    assert "Not masked by the clip 31.2 % 31.2 %" in seen
    assert "−26.2 LU" in seen
    assert "Above the masking threshold" not in seen, "nobody has that figure"
    seen = text(build_page([attack]).html)
    assert "Signal-to-noise ratio 31.2 dB energy of the clip" in seen
    assert "STOI 0.99" in seen
    assert "To an ear" not in text(build_page([stores.attack_run(tmp_path / "older")]).html)


def test_corruptions_stand_in_a_table_of_categories_and_severities(tmp_path: Path) -> None:
    folder = made.noise_run(tmp_path / "run")
    html = build_page([folder]).html
    seen, summary = text(html), told(folder)
    for cell in summary["cells"]:
        ends = interval(cell["low"], cell["high"])
        assert plain(f"{percent(cell['score'])} {ends} SNR {cell['snr_db']:.1f} dB").replace("-", "−") in seen
        assert f"--share:{1 - cell['score']:.3f}" in html
    noise = [cell["score"] for cell in summary["cells"] if cell["category"] == "noise" and cell["severity"] == 5]
    head = seen.split(" noise ", 2)[2][:80]
    assert plain(percent(sum(noise) / 2)) in head, "a category's row is the mean of its corruptions"
    assert "43.2 %" in head, "and its figures are the summary's"
    assert plain(f"mCE 1.25 (95 % interval {number(1.1)} to {number(1.4)}), over 2 of 3 corruptions") in seen
    assert "Clean 2.1 % 0.11 Severity 1 5.0 % 0.2" in seen
    assert "1 clip held nothing but silence" in seen
    first = scores(open_run(folder))
    assert first[1].score == pytest.approx(1 - summary["mean_error"])
    assert first[1].low == pytest.approx(1 - summary["mean_error_high"])


def test_without_a_reference_there_is_no_mce_but_a_reason(tmp_path: Path) -> None:
    folder = made.edited(made.noise_run(tmp_path / "run"), mce=None, reference=None, no_reference="other clips")
    assert "There is no mean corruption error (mCE): other clips." in text(build_page([folder]).html)


def test_music_tells_f1_by_masker_and_ratio(tmp_path: Path) -> None:
    folder = made.music_run(tmp_path / "run")
    html = build_page([folder]).html
    seen, summary = text(html), told(folder)
    for ratio in (-5.0, 5.0):
        cells = {cell["masker"]: cell for cell in summary["cells"] if cell["smr_db"] in (None, ratio)}
        row = " ".join(
            f"{percent(cells[name]['f1'])} {interval(cells[name]['low'], cells[name]['high'])}"
            for name in ("silence", "noise", "plain", "adversarial")
        )
        assert plain(f"{number(ratio)} dB {row}") in seen
    assert "0.286 0.11 to 0.52 −50.0 points; p = 0.012" in seen
    players = [player["aria-label"] for player in Page(html).all("audio")]
    assert players[:3] == [f"{name} of What plays" for name in ("White noise", "Plain music", "Adversarial music")]
    assert len(players) == 3 + 2 * 4
    assert "Silence ✓ heard" in seen
    assert "Adversarial music ✕ missed" in seen
    assert open_run(folder).labels == ["other", "wake"], "the manifest lies with the stores"


def test_stickers_tell_rates_and_show_the_sheet_and_frames(tmp_path: Path) -> None:
    folder = made.sticker_run(tmp_path / "run")
    html = build_page([folder]).html
    seen, seconds = text(html), told(folder)["jittered"]
    for aim in ("targeted", "untargeted"):
        row = [seconds[aim][name] for name in ("rate", "random")]
        words = " ".join(f"{percent(one['score'])} {interval(one['low'], one['high'])}" for one in row)
        assert plain(words) in seen
    assert "+41.7 points, 95 % interval +10.0 to +70.0; p = 0.031 (exact McNemar)" in seen
    assert "cyan 50 % 30 %, 70 %" in seen, "from the left, then the top"
    pictures = [image["alt"] for image in Page(html).all("img") if image["alt"].startswith("Frame")]
    assert pictures[:2] == ["Frame 1, as it is of clip/000", "Frame 4, as it is of clip/000"]
    assert len(pictures) == 2 * 2 * 2
    assert "target reached" in seen


@pytest.mark.parametrize("store", BUILDERS, indirect=True)
def test_hostile_names_stay_text(store: Path) -> None:
    entries: dict[str, Any] = {"victim": HOSTILE, "channel": HOSTILE, "wake": HOSTILE, "score": HOSTILE}
    summary = told(store)
    if "stickers" in summary:
        entries |= {"target": HOSTILE, "stickers": {**summary["stickers"], "colour_names": [HOSTILE, HOSTILE]}}
    for cell in summary.get("cells", []):
        if "corruption" in cell:
            cell |= {"corruption": HOSTILE, "category": HOSTILE, "parameter": HOSTILE}
            entries["cells"] = summary["cells"]
    html = build_page([made.edited(store, **entries)]).html
    assert HOSTILE in text(html).replace("&quot;", '"') or "&lt;img" in html
    assert HOSTILE not in html
    assert not any("onerror" in attributes for _, attributes in Page(html).tags)


@pytest.mark.parametrize("store", BUILDERS, indirect=True)
def test_recordings_and_records_that_are_gone_are_said(store: Path) -> None:
    kind = told(store)["kind"]
    for path in store.rglob("*"):
        if path.suffix in (".wav", ".png"):
            path.unlink()
    seen = text(build_page([store]).html)
    if kind in ("air", "music"):
        assert f"{len(told(store)['audio'])} of the {len(told(store)['audio'])} recordings" in seen
    if kind == "stickers":
        assert "(sheet.png) is missing" in seen
        assert "frames before and after (folder video/) are missing" in seen
    for path in store.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (store / "manifest.json").unlink(missing_ok=True)
    assert percent(scores(open_run(store))[0].score).replace("\u00a0", " ") in text(build_page([store]).html)


def test_a_recording_that_is_no_sound_is_left_out_and_said(tmp_path: Path) -> None:
    folder = made.air_run(tmp_path / "run")
    name = sorted(path.name for path in (folder / "audio").iterdir())[0]
    (folder / "audio" / name).write_bytes(b"no sound")
    html = build_page([folder]).html
    assert f"1 of the 32 recordings that the run wrote is damaged: {name}." in text(html)
    assert len(Page(html).all("audio")) == 31


def test_older_runs_over_the_air_say_what_they_lack(tmp_path: Path) -> None:
    folder = made.edited(made.air_run(tmp_path / "run"), gain=None, recovered=None, perceptual=None, draws=None)
    seen = text(build_page([folder]).html)
    assert "lacks the difference between the attacks, what EOT wins back" in seen
    assert "of what the air costs the plain attack" not in seen


def test_the_page_says_so_where_the_air_costs_nothing(tmp_path: Path) -> None:
    none = {"score": None, "low": None, "high": None}
    folder = made.edited(made.air_run(tmp_path / "run"), recovered=none)
    assert "The air costs the plain attack nothing here" in " ".join(told_of(open_run(folder)))


def test_a_study_tells_success_over_the_air_beside_its_cells(tmp_path: Path) -> None:
    runs = [made.air_run(tmp_path / "cells" / "air")]
    channel = {"condition": "channel-car", "modality": "audio", "clip": False}
    channel["channel"] = {"channel": "car", "parts": [{"channel": "room", "split": "held-out"}]}
    damage = {"condition": "white-3", "corruption": "white", "severity": 3, "parameter": "SNR (dB)", "value": 5.0}
    for name, condition in (("car", channel), ("white", damage)):
        runs.append(made.edited(stores.change_run(tmp_path / "cells" / name), condition=condition, difference=None))
    folder = stores.write_study(tmp_path, runs)
    seen, summary = text(build_page([folder]).html), told(runs[0])
    success = {name: summary[name]["held_out_rooms"]["success"]["score"] for name in ("eot", "plain")}
    assert plain(f"EOT {percent(success['eot'])}, plain {percent(success['plain'])}") in seen
    assert plain(percent(summary["robust"]["score"])) in seen
    assert "heard through the channel “car”, with a draw of its own, in held-out rooms" in seen
    assert "damaged by white at severity 3 of 5 (SNR (dB): 5)" in seen


def test_pages_repeat_the_command_with_the_options_that_it_has(tmp_path: Path) -> None:
    air = repeat_command(open_run(made.air_run(tmp_path / "air")))
    assert air.startswith("robust air --model ast")
    for words in ("--channel room", "--draws 4", "--situations 5", "--eps 0.001", "--steps 60", "--limit 96"):
        assert words in air
    assert "--modality" not in air, "robust air has no such option"
    noise = repeat_command(open_run(made.noise_run(tmp_path / "noise")))
    assert noise == "robust noise --model m5 --limit 12 --data events --split test --seed 0"


def test_the_same_store_gives_the_same_page_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.air_run(tmp_path / "run")
    whole = build_page([folder])
    assert whole.html == build_page([folder]).html
    assert (whole.clips, whole.left_out) == (4, 0)
    monkeypatch.setattr("robust.report.page.MOST_BYTES", len(whole.html.encode()) - 1000)
    monkeypatch.setattr("robust.report.page.GALLERY_BYTES", len(whole.html) // 2)
    smaller = build_page([folder])
    assert smaller.clips + smaller.left_out == 4
    assert smaller.left_out > 0
    assert f"{smaller.left_out} more clip" in text(smaller.html)
