"""The report of geometry: numbers of a run as it stored them, and what of a study goes with robustness."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from robust.cli import main
from robust.errors import StoreError
from robust.evaluation.geometry_settings import GROUPS, LEAST, make_settings
from robust.model_geometry import geometry
from robust.report import build_page
from robust.report.command import repeat_command
from robust.report.formats import number
from robust.report.geometry import READING
from robust.report.geometry_study import FIGURES, study_geometry
from robust.report.reading import open_run, open_source
from robust.study.correlation_files import measure_name, write_correlations
from robust.study.correlations import correlate, strongest
from robust.study.store import read_study
from tests.robust import av_toys, stores
from tests.robust.geometry_stores import geometry_run, plain_study, rewritten, scored_study, small_study, table_of
from tests.robust.studies import as_text, furnish
from tests.robust.test_report import Page, text
from tests.robust.test_report_physical import HOSTILE, plain
from tests.robust.toys import ToyData, victim


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the correlations that `robust study` leaves."""
    folder = small_study(tmp_path_factory.mktemp("study") / "kin")
    write_correlations(read_study(folder))
    return folder


@pytest.fixture(scope="module")
def study_page(study: Path) -> str:
    return build_page([study]).html


def pictures(html: str) -> list[dict[str, str]]:
    return [tag for tag in Page(html).all("img") if tag["alt"].startswith(("By class", "Scatter", "Measures of"))]


def test_a_study_of_scores_alone_tells_how_they_rank(tmp_path: Path) -> None:
    folder = scored_study(tmp_path)
    write_correlations(read_study(folder))
    html = build_page([folder]).html
    assert "Do attacks and noise rank victims alike?" in html
    assert "geometry?" not in html
    alts = [tag["alt"] for tag in Page(html).all("img")]
    assert [alt for alt in alts if alt.startswith("Scores")] == [
        "Scores in noise against scores under attack",
        "Scores of ast, m5, cnn14, m18",
    ]


def test_a_run_tells_every_number_that_it_stored(tmp_path: Path) -> None:
    folder = geometry_run(tmp_path / "run")
    html = build_page([folder]).html
    seen, table = text(html), table_of(folder)
    for row in table.to_dict("records"):
        value = plain(number(row["value"]))
        ends = f"{plain(number(row['low']))} to {plain(number(row['high']))}" if row["low"] == row["low"] else "–"
        assert f"{value} {ends} " in seen, row
    assert "1 batch " in seen
    assert "worst L∞" in seen
    for group in ("sharpness", "input", "density", "convexity"):
        assert plain(READING[group]).split(".")[0] in seen
        assert GROUPS[group] in seen
    assert READING.keys() == GROUPS.keys(), "every group has a sentence that says how to read it"
    assert "rows that the run stored" not in seen, "the table is told once"
    classes = table_of(folder, "classes")
    own = classes[(classes["measure"] == "convexity") & (classes["space"] == "fused")]
    r = stats.pearsonr(np.log([8 + 3 * rank for rank in range(6)]), own["value"]).statistic
    assert f"Convexity of fused against log clips of the class r = {r:+.2f} [" in seen
    (picture,) = pictures(html)
    image = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition("base64,")[2])))
    assert image.format == "PNG"
    assert np.asarray(image.convert("L")).std() > 5


def test_what_the_suite_writes_makes_a_page(tmp_path: Path) -> None:
    """Of a victim with latents by modality, and of one without any: what was left out, and why."""
    model = av_toys.linear(av_toys.SOUND, av_toys.SIGHT)
    settings = make_settings({"groups": tuple(GROUPS), **LEAST, "sharpness_batch": 4})
    wanted = geometry(victim(), ToyData(8, victim()), settings=settings, out=tmp_path / "deaf")
    assert set(wanted.left_out) == {"density", "convexity"}
    seen = text(build_page([tmp_path / "deaf"]).html)
    assert "Convexity was left out: toy gives no embeddings" in seen
    assert plain(number(wanted.table["value"][0])) in seen
    found = geometry(model, av_toys.clips(12), settings=settings, out=tmp_path / "run")
    html = build_page([tmp_path / "run"]).html
    Page(html)
    for row in found.table.to_dict("records"):
        assert plain(number(row["value"])) in text(html)


def test_the_command_of_a_run_is_repeated(tmp_path: Path) -> None:
    folder = geometry_run(tmp_path / "run")
    command = "robust geometry --measures density --set neighbours=5 --out somewhere"
    rewritten(folder / "manifest.json", command=command, device="cpu", batch_size=8)
    assert repeat_command(open_run(folder)) == (
        "robust geometry --measures density --set neighbours=5 --model av-mid --data events --split test "
        "--batch-size 8 --device cpu --seed 0"
    )


def test_a_study_tells_what_goes_with_robustness(study: Path, study_page: str) -> None:
    seen = text(study_page)
    table = correlate(read_study(study)).table
    assert "Can robustness be read off the geometry?" in seen
    for over, primary in (("victims", "kendall"), ("classes", "spearman"), ("scores", "kendall")):
        rows = strongest(table, over)
        for row in rows[:15].to_dict("records"):
            value = f"{row[f'{primary}_within']:+.2f}".replace("-", "−") if row[f"{primary}_within"] == row[
                f"{primary}_within"] else "–"  # fmt: skip
            assert f"{measure_name(row)} {row['number']} events {value}" in seen
        held = rows[rows["kind"] == "noise"]
        if over == "victims":
            words = f"{(held['q_within'] < 0.05).sum()} of {held['q_within'].notna().sum()} pairs hold within families"
            assert f"Against noise and corruptions: {words}" in seen
    assert f"{len(strongest(table, 'victims')) - 15} more are in correlations.csv" in seen
    assert "nan" not in re.findall(r"[a-z]+", seen)
    shown = pictures(study_page)
    assert [tag["alt"].split()[0] for tag in shown] == ["Scatter", "Measures"]
    assert "av-mid-pgd" in shown[1]["alt"]
    assert not [tag for tag in shown if tag["alt"].startswith("By class")], "victims beside each other instead"
    assert "22 measures" in seen, "the table of cells says what a cell of geometry holds"


def test_the_page_is_well_formed_and_accessible(study_page: str) -> None:
    page = Page(study_page)
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in heading for heading in page.all("th"))
    assert all(picture.get("alt") for picture in page.all("img"))
    addresses = [tag[name] for _, tag in page.tags for name in ("src", "href") if name in tag]
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_the_same_store_gives_the_same_page(study: Path, study_page: str) -> None:
    assert build_page([study]).html == study_page


def test_a_study_without_scores_says_so(tmp_path: Path) -> None:
    folder = plain_study(tmp_path, [geometry_run(tmp_path / "cells" / name, name) for name in ("av-mid", "m5")])
    seen = text(build_page([folder]).html)
    assert "No correlations lie in the study's folder" in seen
    assert "Every measure of every victim" in seen
    other = stores.write_study(tmp_path / "other", [stores.attack_run(tmp_path / "other" / "cells" / "pgd")])
    assert "Can robustness be read" not in text(build_page([other]).html)


def test_many_pages_of_measures_are_cut_short(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust.plots.geometry.TALLEST_INCHES", 1.5)
    source = open_source(study)
    assert source.study is not None
    found = study_geometry(source.study, source.runs)
    assert found is not None
    assert len(found.measures) == FIGURES
    assert found.missing == ["2 pages of measures had no room here; `python figures/geometry.py` draws all."]


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = geometry_run(tmp_path / "run")
    (folder / "classes.parquet").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"classes\.parquet cannot be read"):
        build_page([folder])
    table_of(folder).drop(columns="value").to_parquet(folder / "table.parquet")
    with pytest.raises(StoreError, match="cannot be told of"):
        build_page([geometry_run(tmp_path / "other"), folder])


def test_names_cannot_break_out(tmp_path: Path) -> None:
    folder = geometry_run(tmp_path / "run", HOSTILE)
    table = table_of(folder)
    table.assign(measure=HOSTILE).to_parquet(folder / "table.parquet")
    rewritten(folder / "summary.json", left_out={HOSTILE: HOSTILE})
    html = build_page([folder]).html
    Page(html)
    assert HOSTILE not in html


def test_a_study_ends_in_correlations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the file of a study to the table, over the command line; victims of one file are a family each."""
    monkeypatch.chdir(furnish(tmp_path))
    parts = {
        "name": "tiny",
        "victims": {"mine": {"model": "mine.py:build"}, "other": {"model": "mine.py:other"}},
        "data": {"rec": {"set": "folder", "root": "recordings", "limit": 8}},
        "conditions": {
            "geometry": {"kind": "geometry", "measures": ["sharpness"]},
            "pgd": {"kind": "attack", "eps": 0.02, "steps": 2, "checks": False},
        },
    }
    (tmp_path / "study.yaml").write_text(as_text(parts))
    monkeypatch.setattr(sys, "argv", ["robust", "study", "study.yaml", "--check", "--out", "store"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "related  store/correlations.md, store/correlations.csv" in shown
    found = read_study(tmp_path / "store")
    assert found.told["victims"]["mine"] == {"model": "mine.py:build", "defense": "none"}
    assert "sharpness.weights.worst-linf" in (tmp_path / "store" / "correlations.md").read_text()
    seen = text(build_page([tmp_path / "store"]).html)
    assert "Can robustness be read off the geometry?" in seen
