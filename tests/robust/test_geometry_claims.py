"""Claims about geometry: clip by clip, class by class whatever their order, and what cannot be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from robust.errors import StoreError
from robust.study.claims import Question, Term, questions
from robust.study.config import read_study_file
from robust.study.plan import make_cells
from robust.study.source import StudyError
from robust.study.store import CellRun
from robust.study.values import Values
from robust.study.verdicts import NOT_SUPPORTED, SUPPORTED, UNDECIDED, decide

LABELS = ["dog", "rain", "siren", "train", "wind", "bird"]
FLAT, CONVEX = "sharpness.weights.sam", "convexity.fused.top"


def cell(folder: Path, victim: str, rises: np.ndarray, shares: pd.Series) -> CellRun:
    folder.mkdir()
    pd.DataFrame({"id": [str(i) for i in range(len(rises))], FLAT: rises}).to_parquet(folder / "clips.parquet")
    place = {"group": "convexity", "space": "fused", "measure": "top"}
    rows = pd.DataFrame([{**place, "label": label, "value": value} for label, value in shares.items()])
    rows.to_parquet(folder / "classes.parquet")
    return CellRun(victim, "shape", "geometry", "events", 0, folder)


def ask(cells: list[CellRun], measure: str, sign: str = "<", right: float | None = None):
    left = Term("flat", "shape", measure)
    other = Term("sharp", "shape", measure) if right is None else right
    return decide([Question("q", "q", "", "events", left, sign, other)], Values(cells, [0]), "none", 0.05)[0]


@pytest.fixture
def cells(tmp_path: Path) -> list[CellRun]:
    generator = np.random.default_rng(0)
    base = generator.random(40)
    shares = pd.Series(generator.random(6), LABELS)
    flat = cell(tmp_path / "flat", "flat", base, shares)
    # The same classes in another order, each a little less convex.
    sharp = cell(tmp_path / "sharp", "sharp", base + 0.1 + 0.02 * generator.random(40), shares[::-1] - 0.05)
    return [flat, sharp]


def test_clips_are_held_against_each_other(cells: list[CellRun]) -> None:
    found = ask(cells, FLAT)
    left, right = (pd.read_parquet(one.folder / "clips.parquet")[FLAT] for one in cells)
    assert found.verdict == SUPPORTED
    assert found.p == pytest.approx(ttest_rel(left, right).pvalue)
    assert found.effect == pytest.approx((left - right).mean())
    assert found.test == "paired t-test over clips"
    assert ask(cells, FLAT, ">").verdict == NOT_SUPPORTED
    assert ask(cells, FLAT, "<", 2.0).verdict == SUPPORTED


def test_classes_are_held_against_each_other_by_their_names(cells: list[CellRun]) -> None:
    found = ask(cells, CONVEX, ">")
    assert found.effect == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05, 0.05))  # every class differs by just as much
    assert found.clips == 6
    assert found.test == "paired t-test over classes"


def test_what_cannot_be_compared_is_undecided_and_says_why(cells: list[CellRun], tmp_path: Path) -> None:
    assert "has no density.fused.local-purity" in ask(cells, "density.fused.local-purity").reason
    few = cell(tmp_path / "few", "sharp", np.ones(40), pd.Series([0.5, 0.5], LABELS[:2]))
    found = ask([cells[0], few], CONVEX)
    assert (found.verdict, found.reason) == (UNDECIDED, "the two victims do not know the same classes")
    nothing = cell(tmp_path / "nothing", "sharp", np.full(40, np.nan), pd.Series([0.5], LABELS[:1]))
    assert "on both sides" in ask([cells[0], nothing], FLAT).reason
    (cells[1].folder / "clips.parquet").write_bytes(b"no table")
    with pytest.raises(StoreError, match="cannot be read"):
        ask(cells, FLAT)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("m3[shape].robust > m5[shape].robust", "GROUP.SPACE.NAME"),
        ("m3[linf].density.fused.local-purity > 0.5", "of the kind 'geometry', and of it alone"),
        ("m3[shape].density.fused.local-purity > m5[shape].convexity.fused.top", "the same measure"),
    ],
)
def test_claims_that_ask_nonsense_are_told_so(tmp_path: Path, claim: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nvictims: {m3: {}, m5: {}}\ndata: {events: {limit: 4}}\nconditions:\n  linf: {kind: attack}\n"
        f"  shape: {{kind: geometry, measures: [density]}}\nclaims:\n  - text: {claim!r}\n"
    )
    study, source = read_study_file(path)
    with pytest.raises(StudyError, match=message):
        questions(study, make_cells(study, source), source)
