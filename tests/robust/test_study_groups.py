"""Groups of victims in claims: over clips and over architectures, whichever says less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from robust.study.claims import Question, Term
from robust.study.config import read_study_file
from robust.study.groups import TEST, over_victims
from robust.study.source import StudyError
from robust.study.values import Values
from robust.study.verdicts import Verdict, decide
from tests.robust.studies import stored

CLIPS = 60


def rates(*shares: float, seed: int = 0) -> list[np.ndarray]:
    """Right or wrong of each clip, one row for each victim."""
    generator = np.random.default_rng(seed)
    return [generator.random(CLIPS) < share for share in shares]


def values_of(tmp_path: Path, **victims: np.ndarray) -> Values:
    cells = [
        stored(tmp_path / name, name, "attack", {"correct": right.tolist(), "clean_correct": [True] * CLIPS})
        for name, right in victims.items()
    ]
    return Values(cells, (0,))


def question(left: tuple[str, ...], right: tuple[str, ...] | float) -> Question:
    sides = [Term("left", "attack", "robust", members=left)]
    sides.append(Term("right", "attack", "robust", members=right) if isinstance(right, tuple) else right)
    return Question("c", "t", "w", "d", sides[0], ">", sides[1])


def test_a_group_is_the_mean_of_its_members(tmp_path: Path) -> None:
    a, b, c = rates(0.9, 0.7, 0.2)
    values = values_of(tmp_path, a=a, b=b, c=c)
    asked = question(("a", "b"), ("c",)).left
    np.testing.assert_array_equal(values.by_clip(asked, "d")[:, 0], (a.astype(float) + b) / 2)
    np.testing.assert_allclose(values.by_victim(asked, "d"), [a.mean(), b.mean()])


def test_members_may_have_other_numbers_of_seeds(tmp_path: Path) -> None:
    a, b, c = rates(0.9, 0.5, 0.2)
    cells = [
        stored(tmp_path, name, "attack", {"correct": right.tolist(), "clean_correct": [True] * CLIPS}, seed=seed)
        for name, right, seed in (("a", a, 0), ("a", b, 1), ("c", c, 0))
    ]
    values = Values(cells, (0, 1))
    asked = question(("a", "c"), 0.0).left
    np.testing.assert_allclose(values.by_clip(asked, "d")[:, 0], ((a.astype(float) + b) / 2 + c) / 2)
    np.testing.assert_allclose(values.by_victim(asked, "d"), [(a.mean() + b.mean()) / 2, c.mean()])


def test_many_alike_decide_and_two_that_differ_do_not(tmp_path: Path) -> None:
    names = "abcdefgh"
    alike = dict(zip(names, rates(0.9, 0.88, 0.91, 0.9, 0.2, 0.22, 0.18, 0.2), strict=True))
    apart = dict(zip(names, rates(0.95, 0.05, 0.9, 0.6, 0.2, 0.7, 0.1, 0.6), strict=True))
    asked = question(tuple("abcd"), tuple("efgh"))
    (clear,) = decide([asked], values_of(tmp_path / "1", **alike), "none", 0.05)
    (unclear,) = decide([asked], values_of(tmp_path / "2", **apart), "none", 0.05)
    assert clear.verdict == "supported"
    assert (clear.clips, clear.seeds) == (CLIPS, 0)
    assert TEST in clear.test
    assert unclear.verdict == "undecided"  # over these clips alone it would be decided
    wanted = ttest_ind(*([apart[n].mean() for n in group] for group in ("abcd", "efgh")), equal_var=False)
    assert unclear.p == pytest.approx(wanted.pvalue)
    assert unclear.low <= wanted.confidence_interval(0.95).low + 1e-12


def test_a_group_of_one_says_nothing_of_others(tmp_path: Path) -> None:
    a, b, c = rates(0.95, 0.1, 0.1)
    (found,) = decide([question(("a",), ("b", "c"))], values_of(tmp_path, a=a, b=b, c=c), "none", 0.05)
    assert found.verdict == "undecided"
    assert "group of one" in found.test


def test_against_a_number_with_a_margin() -> None:
    told = Verdict("c", "t", "w", "d", "undecided", p=1e-9, low=0.3, high=0.4, test="t-test")
    left = np.array([0.5, 0.6, 0.7])
    near, far = (over_victims(told, left, right, 0.1) for right in (0.5, 0.0))
    assert near.p == pytest.approx(1.0)
    assert far.p < 0.05
    assert far.low == 0.3 or far.low == pytest.approx(0.6 - 4.302653 * 0.1 / 3**0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("groups", "claim", "message"),
    [
        ("{deep: [m3, m55]}", "deep[linf].robust > 0.1", "'m55'.*Did you mean 'm5'"),
        ("{m3: [m5]}", "m3[linf].robust > 0.1", "'m3' is a victim"),
        ("{deep: [m5, m5]}", "deep[linf].robust > 0.1", "each victim once; m5"),
        ("{deep: []}", "deep[linf].robust > 0.1", "groups.deep is empty"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, groups: str, claim: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: n\nvictims: {{m3: , m5: }}\ndata: {{events: }}\ngroups: {groups}\n"
        f"conditions: {{linf: {{kind: attack, eps: 0.001}}}}\nclaims: [{{text: '{claim}'}}]\n"
    )
    with pytest.raises(StudyError, match=message):
        read_study_file(path)
