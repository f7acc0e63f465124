"""Runs behind a defense in sentences: purifiers at one radius and at several, and certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robust.report.formats import UNITS, Shown, count, norm_name, number, percent, shown, with_interval
from robust.report.reading import Run

KINDS = ("purification", "purify", "certificate")


def condition_words(run: Run) -> str:
    """What was done, in a few words; a number that is not adaptive is called so."""
    told = run.summary
    if run.kind == "certificate":
        return f"smoothed by noise of σ {number(told['sigma'])}{denoised(told)}"
    where = weak_where(told)
    weak = "" if where is None else " (in part non-adaptive)" if where else " (non-adaptive)"
    if run.kind == "purify":
        radii = told["radii"]
        ends = " to ".join(dict.fromkeys(number(radius) for radius in (radii[0], radii[-1])))
        return f"behind {purifier_name(told)}, {norm_name(told['axis']['norm'])} {ends}{unit(told['axis'])}{weak}"
    return f"behind {purifier_name(told)}, {budget_words(told['threat'])}{weak}"


def purifier_name(told: Mapping[str, Any]) -> str:
    """As `--purify` names it."""
    return str((told.get("purifier") or {}).get("name") or "a purifier")


def is_weak(label: Any) -> bool:
    """Whether a number is not called adaptive."""
    return str(label) != "adaptive"


def weak_where(told: Mapping[str, Any]) -> str | None:
    """None where all robust numbers are adaptive; else the radii at which they are not, nothing where that is all."""
    levels = told.get("levels")
    if levels is None:
        return "" if is_weak(told["label"]) else None
    places = [place for place, level in enumerate(levels) if is_weak(level["label"])]
    if len(places) in (0, len(levels)):
        return "" if places else None
    return f" at {norm_name(told['axis']['norm'])} " + " and ".join(number(told["radii"][place]) for place in places)


def why_weak(told: Mapping[str, Any]) -> str:
    """What the attacks lack, at any radius."""
    labels = [str(level["label"]) for level in told.get("levels", [told])]
    parts = [part for label in labels if is_weak(label) for part in label.removeprefix("non-adaptive: ").split(", ")]
    return ", ".join(dict.fromkeys(parts))


def denoised(told: Mapping[str, Any]) -> str:
    """`, denoised by waveform`, or nothing."""
    denoiser = told.get("denoiser")
    return f", denoised by {denoiser.get('name', 'a model')}" if isinstance(denoiser, Mapping) else ""


def budget_words(threat: Mapping[str, Any]) -> str:
    """`L∞ 0.002`."""
    return " and ".join(f"{norm_name(ball['norm'])} {number(ball['radius_amplitude'])}" for ball in threat.values())


def unit(axis: Mapping[str, Any]) -> str:
    """` dB of SNR`; nothing of amplitudes, which are those of the model's input."""
    name = str(axis.get("unit", "amplitude"))
    return "" if name == "amplitude" else f" {UNITS.get(name, name)}"


def middle(levels: Sequence[Any]) -> int:
    """The place of the level that stands for a curve."""
    return len(levels) // 2


def scores(run: Run) -> list[Shown]:
    """The clean score and the one that the run is about, then those they are held against."""
    told = run.summary
    if run.kind == "certificate":
        return _certified(told)
    if run.kind == "purify":
        place = middle(told["radii"])
        level, at = told["levels"][place], f", {_radius(told, place)}"
    else:
        level, at = told, ""
    found = [
        shown("clean", told["clean"], "clean accuracy behind the purifier"),
        shown("robust", level["robust"], f"robust accuracy behind the purifier{at}", str(level["label"])),
        shown("clean", told["bare_clean"], "clean accuracy, no defense"),
    ]
    if isinstance(level.get("bare_robust"), Mapping):
        found.append(shown("robust", level["bare_robust"], f"robust accuracy, no defense{at}"))
    return found


def _radius(told: Mapping[str, Any], place: int) -> str:
    return f"{norm_name(told['axis']['norm'])} {number(told['radii'][place])}{unit(told['axis'])}"


def _certified(told: Mapping[str, Any]) -> list[Shown]:
    """Without noise, certified at the middle radius, and what an attack leaves there."""
    place = middle(told["radii"])
    radius = told["radii"][place]
    at = f"L2 radius {number(radius, 3)}"
    found = [
        shown("clean", told["clean"], f"clean {told['clean'].get('metric', 'score')}, no noise"),
        shown("robust", told["certified"][place], f"certified accuracy, {at}"),
    ]
    if isinstance(told.get("smoothed"), Mapping):
        found.append(shown("changed", told["smoothed"], "accuracy in noise"))
    left = attacked_at(told).get(radius)
    return found if left is None else [*found, shown("changed", left, f"accuracy under attack, {at}")]


def attacked_at(told: Mapping[str, Any]) -> dict[float, Mapping[str, Any]]:
    """Radius -> what an attack on the smoothed model leaves."""
    attacked = told.get("attacked") or {}
    return dict(zip(attacked.get("radii", ()), attacked.get("scores", ()), strict=True))


def note(run: Run) -> str:
    """What the table of cells says beside the score."""
    told = run.summary
    if run.kind == "certificate":
        return " ".join(mean_radius(told))
    if run.kind == "purify":
        others = [(place, level) for place, level in enumerate(told["levels"]) if place != middle(told["radii"])]
        found = [f"{percent(level['robust'].get('score'))} at {_radius(told, place)}" for place, level in others]
        weak = any(is_weak(level["label"]) for _, level in others)
        words = f"at {_radius(told, middle(told['radii']))}" + (f"; {', '.join(found)}" if found else "")
        return words + (" (not all adaptive)" if weak else "")
    bare = told.get("bare_robust") or {}
    return f"no defense: {percent(bare['score'])}" if bare.get("score") is not None else ""


def mean_radius(told: Mapping[str, Any]) -> list[str]:
    """In the mean over clips, where all radii were asked for."""
    mean = told.get("average_radius")
    if not isinstance(mean, Mapping):
        return []
    ends = f" (95\u00a0% interval {number(mean.get('low'), 3)} to {number(mean.get('high'), 3)})"
    return [f"mean certified radius {number(mean.get('score'), 3)}{ends}"]


def told_of(run: Run) -> list[str]:
    """Sentences: what was done and what came of it."""
    told = run.summary
    if run.kind == "certificate":
        return _certificate(told)
    return [*_defense(told), *(_curve(told) if run.kind == "purify" else _outcome(told)), *_label(told)]


def _defense(told: Mapping[str, Any]) -> list[str]:
    random = (told.get("purifier") or {}).get("random")
    draws = (
        "" if random is None else "; it draws new noise for every clip" if random else "; it draws nothing at random"
    )
    worst = "each clip counts under the attack that does worst to it"
    if random and told.get("draws"):
        worst += f", by the share of {count(int(told['draws']), 'fresh draw')} of that noise in which it stands"
    cascade = ", from cheap to dear, each on what those before it left" if told.get("cascade") else ""
    return [
        f"The purifier “{purifier_name(told)}” stands before the model{draws}.",
        f"The two were attacked in several ways{cascade}; {worst}.",
    ]


def _outcome(told: Mapping[str, Any]) -> list[str]:
    bare = told.get("bare_robust")
    alone = f", and to {with_interval(bare)} under the attack on the model itself" if bare else ""
    return [
        f"Behind the purifier the accuracy goes from {with_interval(told['clean'])} on clean clips to "
        f"{with_interval(told['robust'])} under the worst attack; without a defense it is "
        f"{with_interval(told['bare_clean'])} on clean clips{alone.replace(', and to', ',')}."
    ]


def _curve(told: Mapping[str, Any]) -> list[str]:
    radii, levels = told["radii"], told["levels"]
    left = [
        f"{percent(level['robust'].get('score'))} at {number(radius)}"
        for radius, level in zip(radii, levels, strict=True)
    ]
    norm = f"{norm_name(told['axis']['norm'])} radius{unit(told['axis'])}"
    return [
        f"Behind the purifier {with_interval(told['clean'])} of the clean clips are right, without it "
        f"{with_interval(told['bare_clean'])}. Under the worst attack ({norm}) it is {', '.join(left)}. Each radius is "
        "a run of its own, with records and recordings, in the folder levels/."
    ]


def _label(told: Mapping[str, Any]) -> list[str]:
    """What the robust number may be called."""
    where = weak_where(told)
    if where is None:
        return [
            "The robust number is adaptive: among the attacks are the full gradient through the purifier (or what "
            "stands for it), one that takes it for the identity, one carried over from the bare model, and one that "
            "sees scores alone."
        ]
    return [
        f"The robust number{where} is NON-ADAPTIVE ({why_weak(told)}): an attacker who knows of the purifier may leave "
        "less, and it must not be told as the robustness of this defense."
    ]


def _certificate(told: Mapping[str, Any]) -> list[str]:
    denoiser = told.get("denoiser")
    cleaned = ""
    if isinstance(denoiser, Mapping):
        cleaned = f", the denoiser “{denoiser.get('name', '?')}” takes it out again,"
    radius = told["radii"][middle(told["radii"])]
    sentences = [
        f"Gaussian noise of standard deviation {number(told['sigma'])} is added to the clip{cleaned} and the majority "
        "over many such noises is the answer. That answer cannot change within the certified radius: no attack can "
        "leave less than is certified (randomised smoothing, Cohen et al. 2019)."
    ]
    if told.get("n0") and told.get("n"):
        sentences.append(
            f"{count(told['n0'], 'vote')} choose the answer and {'up to ' if told.get('radius') else ''}"
            f"{count(told['n'], 'vote')} test it; a clip's certificate is wrong with a probability of at most "
            f"{number(told.get('alpha'))}. So many votes cannot show a radius beyond {number(told['ceiling'], 3)}."
        )
    place = told["radii"].index(radius)
    left = attacked_at(told).get(radius)
    attack = f"; under attack {with_interval(left)} stand there" if left is not None else ""
    mean = "".join(f" The {words}." for words in mean_radius(told)).replace("radius ", "radius is ", 1)
    return [
        *sentences,
        f"At an L2 radius of {number(radius, 3)} {with_interval(told['certified'][place])} of the clips are certified "
        f"right{attack}.{mean}",
    ]
