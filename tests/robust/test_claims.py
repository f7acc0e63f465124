"""Claims as they are written: what they mean. What they may not ask is in test_study_file."""

from __future__ import annotations

import pytest

from robust.study.claims import Question, Term, questions
from robust.study.config import Claim, check_study
from robust.study.plan import make_cells
from robust.study.source import Source, StudyError

STUDY = """\
name: n
victims: {ast: , av-mid: , one: {model: m3}}
data:
  events: {split: validation, limit: 4, options: {clips: 16}}
  more: {set: events, split: validation, limit: 4, options: {clips: 16, seed: 1}}
conditions:
  linf: {kind: curve, modality: audio, eps: 1e-4:1e-2:3, victims: [ast, av-mid]}
  snr: {kind: curve, norm: snr, victims: [ast]}
  noise: {kind: curve, against: noise, victims: [ast]}
  attack-2: {kind: attack, victims: [ast, av-mid], data: [events]}
  gone: {kind: missing, modality: audio, victims: [one]}
claims: [CLAIM]
"""


def asked(text: str, more: str = "") -> list[Question]:
    source = Source("s.yaml", STUDY.replace("CLAIM", f"{{text: '{text}'{more}}}"))
    study = check_study(source)
    return questions(study, make_cells(study, source), source)


LEFT = Term("ast", "linf", "robust", 0.001)


@pytest.mark.parametrize(
    ("text", "left", "sign", "right", "margin"),
    [
        ("ast[linf].robust@0.001 > 0.5", LEFT, ">", 0.5, 0.0),
        ("ast[linf].robust@1e-3>=.5", LEFT, ">=", 0.5, 0.0),
        (" ast[linf].robust@1.000E-03   <=  5e-1 ", LEFT, "<=", 0.5, 0.0),
        ("ast[linf].robust@0.001 < 0.5 + 0.1", LEFT, "<", 0.5, 0.1),
        ("ast[linf].robust@0.001 > -1", LEFT, ">", -1.0, 0.0),
        (
            "ast[linf].robust@0.001<av-mid[linf].robust@0.01 - 5e-2",
            LEFT,
            "<",
            Term("av-mid", "linf", "robust", 0.01),
            -0.05,
        ),
        ("ast[linf].auc > av-mid[linf].auc", Term("ast", "linf", "auc"), ">", Term("av-mid", "linf", "auc"), 0.0),
        (
            "ast[linf].radius >= av-mid[linf].radius",
            Term("ast", "linf", "radius"),
            ">=",
            Term("av-mid", "linf", "radius"),
            0.0,
        ),
        ("ast[linf].radius > 3e-4", Term("ast", "linf", "radius"), ">", 3e-4, 0.0),
        ("ast[noise].robust@-10 > 0.1", Term("ast", "noise", "robust", -10.0), ">", 0.1, 0.0),
        ("ast[noise].robust@0 > 0.1", Term("ast", "noise", "robust", 0.0), ">", 0.1, 0.0),
        ("ast[snr].robust@35 > 0.1", Term("ast", "snr", "robust", 35.0), ">", 0.1, 0.0),
        ("one.robust > 0.1", Term("one", "gone", "robust"), ">", 0.1, 0.0),
    ],
)
def test_what_claims_mean(text: str, left: Term, sign: str, right: Term | float, margin: float) -> None:
    for question, data in zip(asked(text), ("events", "more"), strict=True):
        assert (question.left, question.sign, question.margin) == (left, sign, pytest.approx(margin))
        assert question.right == (pytest.approx(right) if isinstance(right, float) else right)
        assert question.name == f"claim 1, {data}"
        assert question.data == data


def test_condition_and_data_of_a_claim() -> None:
    (found,) = asked("ast.robust > av-mid.robust", ", condition: attack-2, data: events, name: mine, words: so it is")
    assert found.left == Term("ast", "attack-2", "robust")
    assert found.right == Term("av-mid", "attack-2", "robust")
    assert (found.name, found.words, found.data) == ("mine", "so it is", "events")
    # The condition of a term goes before that of its claim.
    (found,) = asked("ast[linf].clean > av-mid.robust", ", condition: attack-2, data: events")
    assert found.left == Term("ast", "linf", "clean")
    with pytest.raises(
        StudyError, match=r"no cell of 'ast' under 'attack-2' on 'more'; on it 'ast' meets: linf, noise"
    ):
        asked("ast[attack-2].robust > 0.5")
    # On one data set there is but one condition for it, and it is that of the data set.
    with pytest.raises(StudyError, match="'av-mid' names no condition and meets attack-2, linf"):
        asked("av-mid.robust > 0.5", ", data: events")
    (found,) = asked("av-mid.auc > 0.5", ", data: more")
    assert found.left == Term("av-mid", "linf", "auc")


def test_names_of_claims_keep_their_order() -> None:
    source = Source("s.yaml", STUDY.replace("[CLAIM]", "[{text: 'ast[noise].auc > 0.1'}, {text: one.robust > 0}]"))
    study = check_study(source)
    assert study.claims[1] == Claim(text="one.robust > 0")
    names = [question.name for question in questions(study, make_cells(study, source), source)]
    assert names == ["claim 1, events", "claim 1, more", "claim 2, events", "claim 2, more"]
