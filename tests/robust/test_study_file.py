"""Study files: what they may not say is refused at once, by line, with a suggestion, and nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robust.cli import main
from robust.study.conditions import KINDS, shortened
from robust.study.config import check_study
from robust.study.run import plan_study
from robust.study.source import Source, StudyError
from tests.robust.studies import furnish

GOOD = """\
name: tiny
title: A tiny study
victims:
  mine: {model: "mine.py:build"}
  other: {model: "mine.py:other"}
data:
  rec: {set: folder, root: recordings}
conditions:
  linf: {kind: curve, norm: linf, eps: 1e-3:1e-1:5, steps: 3}
  attack:
    kind: attack
    eps: 0.02
    checks: false
  noise: {kind: curve, against: noise, eps: [20, 10, 0]}
  hidden: {kind: occlude, pattern: first-half, victims: [mine]}
  snr: {kind: curve, norm: snr, eps: [40, 20, 0], steps: 3}
  usual: {kind: curve, norm: l2, steps: 3}
  timing: {kind: latency, repeats: 1}
seeds: [0, 1]
claims:
  - name: first
    text: mine[linf].robust@0.01 > other[linf].robust@0.01
  - {text: "mine[attack].clean >= 0.5"}
"""
CLAIM = '"mine[attack].clean >= 0.5"'
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("room"))


@pytest.fixture
def refused(room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `robust study` on a file that must be refused; gives what it says."""
    monkeypatch.chdir(room)

    def call(content: str | bytes | None, *words: str, file: str = "study.yaml") -> str:
        Path(file).unlink(missing_ok=True)
        if content is not None:
            Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
        before = sorted(room.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["robust", "study", file, *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert sorted(path for path in room.rglob("*") if "__pycache__" not in str(path)) == before, "something written"
        return err

    return call


def changed(old: str, new: str) -> tuple[str, int]:
    """The good study with one thing changed, and the line on which that stands."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new), GOOD[: GOOD.index(old)].count("\n") + 1


def test_the_good_one_is_good(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    Path("study.yaml").write_text(GOOD)
    plan = plan_study("study.yaml")
    assert len(plan.cells) == 2 * (2 * 6 + 1)
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert len(plan.claims) == 2
    assert not (room / "runs").exists()


def test_a_victim_may_be_taken_under_some_seeds(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    pair = '  - {name: first, text: "mine[linf].robust@0.01 > both[linf].robust@0.01"}'
    content = GOOD.replace('other"}', 'other", seeds: [1]}').replace(
        "seeds: [0, 1]\n", "seeds: [0, 1]\ngroups: {both: [mine, other]}\n"
    )
    head, _, tail = content.partition("  - name: first\n")
    Path("study.yaml").write_text(head + pair + "\n" + tail.partition("\n")[2])
    plan = plan_study("study.yaml")
    assert {cell.seed for cell in plan.cells if cell.victim == "mine"} == {0, 1}
    assert {cell.seed for cell in plan.cells if cell.victim == "other"} == {1}
    assert len(plan.cells) == 2 * 7 + 6


def test_clips_of_other_seeds_are_not_paired(refused: Refused) -> None:
    said = refused(GOOD.replace('other"}', 'other", seeds: [1]}'))
    assert "seed by seed, and mine has the seeds [0, 1] and other [1]; name the same `seeds`" in " ".join(said.split())


MISTAKES = {
    # keys
    "key of the study": ("title:", "titel:", ["Unknown key 'titel'", "Did you mean 'title'?"]),
    "key of a victim": ('other: {model: "', 'other: {modle: "', ["victims.other", "Did you mean 'model'?"]),
    "key of data": ("root: rec", "rot: rec", ["data.rec", "Did you mean 'root'?"]),
    "key of a condition": ("eps: 0.02", "epsilon: 0.02", ["conditions.attack", "'epsilon'", "steps"]),
    "key of another kind": ("eps: 0.02", "threshold: 0.02", ["conditions.attack", "'threshold'"]),
    "key of a claim": ("- name: first", "- nam: first", ["claims.0", "Did you mean 'name'?"]),
    "a key twice": ("checks: false", "eps: 0.03", ["'eps' is there already, on line 12"]),
    "a condition twice": ("  noise: {", "  attack: {", ["'attack' is there already, on line 10"]),
    "a key that is lacking": ("{kind: occlude, pattern: first-half,", "{kind: occlude,", ["lacks the key 'pattern'"]),
    # settings that do not go together
    "cut of nothing": ("eps: 0.02", "cut: true", ["cut goes with window, band or mels"]),
    "option that is a key": (
        "root: recordings",
        "root: recordings, options: {split: all}",
        ["split is a key of the data set itself"],
    ),
    # names that must be known
    "kind": ("kind: attack", "kind: atack", ["Unknown kind 'atack'", "Did you mean 'attack'?"]),
    "kind that is no word": ("kind: attack", "kind: [attack]", ["conditions.attack", "kind"]),
    "no kind": ("{kind: latency, repeats: 1}", "{repeats: 1}", ["conditions.timing has no kind", "latency"]),
    "norm": ("norm: linf,", "norm: lnif,", ["Unknown norm 'lnif'", "Did you mean 'linf'?"]),
    "unit": ("eps: 0.02", "unit: dbsf", ["'dbsf'", "dbfs"]),
    "model": ('{model: "mine.py:other"}', "{model: cnn41}", ["Unknown model 'cnn41'", "Did you mean 'cnn14'?"]),
    "own model": ("mine.py:other", "yours.py:other", ["There is no Python file at yours.py"]),
    "factory": ("mine.py:other", "mine.py:others", ["no callable 'others'"]),
    "weights": ('"mine.py:other"}', '"mine.py:other", weights: no.safetensors}', ["no checkpoint at no.safetensors"]),
    "data set": ("set: folder", "set: flder", ["Unknown data set 'flder'", "Did you mean 'folder'?"]),
    "split": ("set: folder", "split: tset, set: folder", ["'tset'", "test"]),
    "option of data": ("set: folder", "options: {fodl: 1}, set: folder", ["'fodl'", "Did you mean 'fold'?"]),
    "root": ("root: recordings", "root: records", ["records", "does not exist"]),
    "clips": ("set: folder", "limit: 1000, set: folder", ["1000"]),
    "clips of no data set": (
        '"mine.py:other"}',
        "m5, weights: new.safetensors, train: {clips: {red: 100}}}",
        ["Unknown data set of the study 'red'", "Did you mean 'rec'?"],
    ),
    "pattern": ("first-half", "first-halve", ["Unknown pattern", "Did you mean 'first-half'?"]),
    "sweep": ("against: noise", "against: noies", ["Unknown sweep 'noies'", "Did you mean 'noise'?"]),
    "loss": ("eps: 0.02", "loss: margn", ["Unknown loss 'margn'", "Did you mean 'margin'?"]),
    "success": ("eps: 0.02", "success: all-gon", ["Did you mean 'all-gone'?"]),
    "target": ("eps: 0.02", "target: hihg", ["Unknown class 'hihg'", "Did you mean 'high'?"]),
    "victim of a condition": ("victims: [mine]", "victims: [minr]", ["Unknown victim 'minr'", "Did you mean 'mine'?"]),
    "data of a condition": ("victims: [mine]", "data: [red]", ["Unknown data 'red'", "Did you mean 'rec'?"]),
    "correction": ("seeds: [0, 1]", "correction: holmes", ["Unknown correction 'holmes'", "Did you mean 'holm'?"]),
    "third victim": (
        "{kind: latency, repeats: 1}",
        "{kind: thresholds, audio_victim: mien, video_victim: mine, largest: {audio: 1}}",
        ["Unknown victim 'mien'", "Did you mean 'mine'?"],
    ),
    # empty grids
    "no victims of a condition": ("victims: [mine]", "victims: []", ["conditions.hidden.victims is empty"]),
    "no data of a condition": ("victims: [mine]", "data: []", ["conditions.hidden.data is empty"]),
    "no seeds": ("seeds: [0, 1]", "seeds: []", ["seeds is empty"]),
    "no levels": ("eps: [20, 10, 0]", "eps: []", ["conditions.noise.eps is empty"]),
    "a victim twice": ("victims: [mine]", "victims: [mine, mine]", ["each name once"]),
    "seeds of a victim that the study lacks": (
        '"mine.py:other"}',
        '"mine.py:other", seeds: [0, 2]}',
        ["some of the study's seeds [0, 1], each once; given [0, 2]"],
    ),
    "a seed twice": ("seeds: [0, 1]", "seeds: [1, 1]", ["each seed once"]),
    # values
    "a negative seed": ("seeds: [0, 1]", "seeds: [0, -1]", ["seeds.1", "greater than or equal to 0"]),
    "steps of none": ("steps: 3}\n  attack", "steps: 0}\n  attack", ["conditions.linf.steps", "given 0"]),
    "a level of significance": ("seeds: [0, 1]", "level: 5", ["level", "given 5"]),
    "a list for a mapping": ("seeds: [0, 1]", "level: [0.1]", ["level", "number"]),
    "nothing for a condition": ("{kind: latency, repeats: 1}", "", ["conditions.timing"]),
    "a number for a condition": ("{kind: latency, repeats: 1}", "7", ["conditions.timing"]),
    "a list for a condition": ("{kind: latency, repeats: 1}", "[latency]", ["conditions.timing"]),
    "a condition for a data set": ("{set: folder, root: recordings}", "[1]", ["data.rec"]),
    "levels of words": ("1e-3:1e-1:5", "low:high:5", ["first:last:count"]),
    "levels of two parts": ("1e-3:1e-1:5", "1e-3:1e-1", ["first:last:count"]),
    "levels of four parts": ("1e-3:1e-1:5", "1e-3:1e-1:5:6", ["first:last:count"]),
    "levels of no count": ("1e-3:1e-1:5", "1e-3:1e-1:0", ["count from 1"]),
    "levels of half a count": ("1e-3:1e-1:5", "1e-3:1e-1:2.5", ["first:last:count"]),
    "radii of zero": ("1e-3:1e-1:5", "[0, 0.01]", ["positive and ascending"]),
    "radii that fall": ("1e-3:1e-1:5", "[0.1, 0.01]", ["positive and ascending"]),
    "radii without end": ("1e-3:1e-1:5", "[0.01, .inf]", ["finite"]),
    "SNRs that rise": ("eps: [20, 10, 0]", "eps: [0, 10, 20]", ["descending"]),
    "attacked SNRs that rise": ("eps: [40, 20, 0]", "eps: [0, 20]", ["SNRs go from high to low"]),
    "a radius beyond the range": ("1e-3:1e-1:5", "[0.01, 3]", ["differ by 2 at most"]),
    "an attack beyond the range": ("eps: 0.02", "eps: 2.5", ["differ by 2 at most"]),
    "a negative radius": ("eps: 0.02", "eps: -0.02", ["must not be negative"]),
    "a modality that is not there": ("eps: 0.02", "modality: video", ["'video'", "audio"]),
    "a typo in a modality": ("norm: snr,", "norm: snr, modality: audoi,", ["Did you mean 'audio'?"]),
    "both of one": ("eps: 0.02", "modality: both", ["'both'", "several"]),
    "usual radii of no modality": ("norm: l2, steps: 3", "norm: l2, modality: vidio", ["'vidio'"]),
    "a mask of no modality": ("first-half,", "first-half, modality: video,", ["'video'"]),
    "noise in no modality": ("against: noise,", "against: noise, modality: both,", ["'both'"]),
    "radius by no modality": ("eps: 0.02", "eps: {video: 0.1}", ["'video'"]),
    "a window that ends before it begins": ("eps: 0.02", "window: [0.5, 0.2]", ["window"]),
    "an unknown class": ("mine.py:other", "mine.py:elsewhere", ["does not know", "high"]),
    "a name with a slash": ("name: tiny", "name: ../tiny", ["letters, digits", "'../tiny'"]),
    "a name with a line end": ("name: tiny", 'name: "tiny\\n"', ["letters, digits"]),
    "a name that parts names": ("  timing:", "  ti--ming:", ["single -"]),
    "a name too long": ("name: tiny", "name: " + "x" * 61, ["60"]),
    "a name that is a number": ("  timing:", "  7:", ["conditions"]),
    "weights with a field": ('"mine.py:other"}', '"mine.py:other", weights: "{sed}.x"}', ["{seed}", "'{sed}.x'"]),
    "weights with a brace": ('"mine.py:other"}', '"mine.py:other", weights: "{.x"}', ["{seed}"]),
    "weights with an attribute": ('"mine.py:other"}', '"mine.py:other", weights: "{seed.x}"}', ["{seed}"]),
    "training without weights": ('{model: "mine.py:other"}', "{model: m3, train: {}}", ["needs `weights`"]),
    "training into a name": ('{model: "mine.py:other"}', "{model: m3, train: {}, weights: m3}", ["FILE.safetensors"]),
    "training one's own": ('"mine.py:other"}', '"mine.py:other", train: {}, weights: m.safetensors}', ["are trained"]),
    "training key": ('{model: "mine.py:other"}', "{train: {epoch: 1}}", ["victims.other.train", "'epochs'"]),
    # YAML
    "not YAML": ("seeds: [0, 1]", "seeds: }", ["not YAML"]),
    "a tab": ("title: A", "\ttitle: A", ["not YAML"]),
    "code": ("seeds: [0, 1]", "seeds: !!python/object/apply:os.getpid []", ["not YAML"]),
    "a loop": ("seeds: [0, 1]", "seeds: &a [*a]", ["holds itself"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_by_line(mistake: str, refused: Refused) -> None:
    old, new, words = MISTAKES[mistake]
    content, line = changed(old, new)
    err = refused(content)
    told = [line, 10] if line == 12 else [line]  # what a victim cannot take is told of the condition as a whole
    assert err.startswith(tuple(f"robust: study.yaml:{one}: " for one in told)), err
    for word in words:
        assert word in err
    assert err.count("\n") == 1


CLAIMS = {
    "victim": ("mien[linf].auc > 0.5", ["Unknown victim 'mien'", "Did you mean 'mine'?"]),
    "condition": ("mine[lnif].auc > 0.5", ["Unknown condition 'lnif'", "Did you mean 'linf'?"]),
    "measure": ("mine[linf].aug > 0.5", ["Unknown measure 'aug'", "Did you mean 'auc'?"]),
    "cell": ("other[hidden].robust > 0.5", ["no cell of 'other' under 'hidden'", "attack, linf"]),
    "no scores": ("mine[timing].robust > 0.5", ["'latency', which has no scores"]),
    "which": ("mine.robust > 0.5", ["names no condition", "say which"]),
    "level": ("mine[linf].robust@0.02 > 0.5", ["0.02 is no level", "0.001, 0.00316228, 0.01, 0.0316228, 0.1"]),
    "level of noise": ("mine[noise].robust@15 > 0.5", ["15 is no level", "20, 10, 0"]),
    "level of the usual": ("mine[usual].robust@0.1 > 0.5", ["'usual'", "`eps`"]),
    "no level": ("mine[linf].robust > 0.5", ["needs a level"]),
    "a level too many": ("mine[attack].robust@0.02 > 0.5", ["takes no level"]),
    "a level of an area": ("mine[linf].auc@0.01 > 0.5", ["takes no level"]),
    "a level of nonsense": ("mine[linf].robust@1.2.3 > 0.5", ["'mine[linf].robust@1.2.3' is neither"]),
    "area of an attack": ("mine[attack].auc > 0.5", ["auc is of curves"]),
    "radius of noise": ("mine[noise].radius > other[noise].radius", ["knows no radius"]),
    "radius and score": ("mine[linf].radius > other[linf].auc", ["a radius alone"]),
    "score and radius": ("mine[linf].auc > other[linf].radius", ["a radius alone"]),
    "areas of two norms": ("mine[linf].auc > other[usual].auc", ["same levels of the same norm"]),
    "area and score": ("mine[linf].auc > other[linf].clean", ["an area is compared with an area"]),
    "radius and margin": ("mine[linf].radius > other[linf].radius + 0.1", ["without a margin"]),
    "radii of two norms": ("mine[linf].radius > other[usual].radius", ["linf in amplitude and l2 in amplitude"]),
    "radius in dB and a number": ("mine[snr].radius > 30", ["in dB"]),
    "no sign": ("mine[attack].robust = 0.5", ["is not TERM > TERM"]),
    "one side": ("mine[attack].robust >", ["is not TERM > TERM"]),
    "no side": ("", ["is not TERM > TERM"]),
    "two signs": ("0.1 < mine[attack].robust < 0.5", ["is not TERM > TERM"]),
    "number first": ("0.5 < mine[attack].robust", ["'0.5' is neither"]),
    "not a number": ("mine[attack].robust > nan", ["finite"]),
    "endless": ("mine[attack].robust < inf", ["finite"]),
    "margin": ("mine[attack].robust > 0.5 + e", ["margin 'e' is not a number"]),
    "endless margin": ("mine[attack].robust > 0.5 + 1e999", ["finite"]),
}


@pytest.mark.parametrize("mistake", CLAIMS)
def test_claims_about_what_is_not_there(mistake: str, refused: Refused) -> None:
    text, words = CLAIMS[mistake]
    content, line = changed(CLAIM, f'"{text}"')
    err = refused(content)
    assert err.startswith(f"robust: study.yaml:{line}: "), err
    for word in words:
        assert word in err


def test_claim_about_other_data(refused: Refused) -> None:
    content, line = changed(CLAIM, f"{CLAIM}, data: red")
    assert f"study.yaml:{line}: Unknown data set 'red'. Did you mean 'rec'?" in refused(content)
    content, line = changed(CLAIM, '"mine.clean > 0.5", condition: atack')
    assert f"study.yaml:{line}: Unknown condition 'atack'. Did you mean 'attack'?" in refused(content)


@pytest.mark.parametrize("group", ["victims", "data", "conditions"])
def test_empty_grids(group: str, refused: Refused) -> None:
    parts = {"victims": "{a: {model: m3}}", "data": "{events: {}}", "conditions": "{c: {kind: clean}}"}
    lines = [f"{name}: {'{}' if name == group else content}" for name, content in parts.items()]
    err = refused("\n".join(["name: n", *lines]))
    assert f"study.yaml:{2 + list(parts).index(group)}: {group} is empty: the grid would have no cell." in err
    err = refused("\n".join(["name: n", *(line for line in lines if not line.startswith(group))]))
    assert f"study.yaml:1: the study lacks the key {group!r}." in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "a study is a mapping"),
        (b"- name: list\n", "a study is a mapping"),
        (b"just words\n", "a study is a mapping"),
        (b"name: \xff\xfe\n", "cannot be read: not UTF-8"),
        (b"name: a\x00b\n", "not YAML"),
        (b"name: a\n---\nname: b\n", "not YAML"),
        (b"? [a, b]\n: 1\n", "not YAML"),
    ],
)
def test_what_is_no_study_file(content: bytes | None, words: str, refused: Refused) -> None:
    err = refused(content)
    assert "study.yaml" in err
    assert words in err


def test_options_that_do_not_fit(refused: Refused) -> None:
    err = refused(GOOD, "--root", "rce=recordings")
    assert "Unknown data set of the study 'rce'. Did you mean 'rec'?" in err
    assert "--root takes NAME=DIR" in refused(GOOD, "--root", "recordings")
    assert "does not exist" in refused(GOOD, "--root", "rec=nowhere")
    assert "Unknown executor 'lokal'. Did you mean 'local'?" in refused(GOOD, "--executor", "lokal")
    assert "at least 1; given 0" in refused(GOOD, "--executor", "processes", "--workers", "0")
    assert "cannot be used" in refused(GOOD, "--device", "cuda:7")


def test_places_that_are_taken(refused: Refused, room: Path) -> None:
    assert "mine.py is a file" in refused(GOOD, "--out", "mine.py")
    assert "recordings is not empty and holds no study" in refused(GOOD, "--out", "recordings")
    assert "The address 'nosuch://a' cannot be used" in refused(GOOD, "--out", "nosuch://a")
    assert "is Unknown" not in refused(GOOD, "--out", "/proc/nowhere/store")
    assert "Cannot write mine.py/store/study.json" in refused(GOOD, "--out", "mine.py/store")


def _checked(text: str) -> Source:
    source = Source("s.yaml", text)
    check_study(source)
    return source


@pytest.mark.parametrize(
    ("written", "levels"),
    [
        ("1e-5:1e-3:3", [1e-5, 1e-4, 1e-3]),
        ("60:0:4", [60, 40, 20, 0]),  # a number to the base of 60 in YAML 1.1
        ("1:100:3", [1, 10, 100]),
        ("0:10:3", [0, 5, 10]),
        ("-10:-20:2", [-10, -20]),
        ("[1e-5, 1E-4, .5, 1., +1.5, 010]", [1e-5, 1e-4, 0.5, 1.0, 1.5, 10]),
    ],
)
def test_numbers_are_what_they_look_like(written: str, levels: list[float]) -> None:
    text = f"name: n\nvictims: {{m3: }}\ndata: {{events: }}\nconditions: {{c: {{kind: curve, eps: {written}}}}}\n"
    study = check_study(Source("s.yaml", text))
    assert study.conditions["c"].eps == pytest.approx(levels)
    study = check_study(Source("s.yaml", text.replace("name: n", "name: 2024-13-45")))
    assert study.name == "2024-13-45"


def test_lines_of_what_stands_inside() -> None:
    source = Source("s.yaml", "a: 1\nb:\n  - x\n  - {c: 1,\n     d: 2}\n")
    places = {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("b", 1, "d"): 5}
    assert {place: source.line(place) for place in places} == places
    assert source.line(("b", 1, "nothing", "there")) == 4
    assert source.line(("nothing",)) == 1
    with pytest.raises(StudyError, match=r"s\.yaml:3: the key 'c' is there already, on line 2"):
        Source("s.yaml", "a:\n  c: 1\n  'c': 2\n")
    # An alias may stand twice, and a merge is no second key.
    study = "x: &x {kind: missing}\nb: *x\nc: {<<: *x, fill: mean}\n"
    assert Source("s.yaml", study).content["c"] == {"kind": "missing", "fill": "mean"}


def test_every_kind_can_be_shortened() -> None:
    lacking = {"occlude": {"pattern": "first-half"}, "thresholds": {}, "corruption": {"corruption": "pink"}}
    lacking["purify"] = {"purifier": "median:3", "eps": [0.001]}
    lacking["thresholds"] = {"audio_victim": "a", "video_victim": "v", "largest": {"audio": 1.0}}
    for kind, model in KINDS.items():
        condition = model.model_validate({"kind": kind, **lacking.get(kind, {})})
        short = shortened(condition)
        assert model.model_validate(short.model_dump()) == short
        for name in ("steps", "restarts", "epochs", "repeats"):
            assert getattr(short, name, 1) == 1
