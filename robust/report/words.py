"""What was attacked, and by what, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from robust.report.formats import (
    UNITS,
    count,
    decibels,
    norm_name,
    number,
    p_value,
    percent,
    points,
    with_interval,
)
from robust.report.levels import axis_words
from robust.report.reading import Run
from robust.report.tellers import TELLERS

NORM_MEANINGS = {
    "linf": "no single value may change by more than the radius",
    "l2": "the root of the summed squares of all changes is at most the radius",
    "l1": "the changes summed up without their signs are at most the radius",
}
SENSES = {
    "audio": "the sound (waveform)",
    "video": "the sight (video frames)",
    "logmel": "the log-mel spectrogram inside the model",
    "video_features": "precomputed video features",
    "joint": "all senses under one common budget",
    "both": "both senses",
}
FILLS = {"zeros": "zeros", "mean": "the mean input of the data set", "silence": "silence"}
DECIDED = {"audio": "the sound", "video": "the sight", "neither": "neither"}
STEPS_16_BIT = 2.0**15
GREY_LEVELS = 255


def sense(modality: str) -> str:
    """A modality in words."""
    return SENSES.get(modality, modality)


def _short(modality: str) -> str:
    return "all senses jointly" if modality == "joint" else modality


def headline(run: Run) -> str:
    """A title for a page about this run alone."""
    data = data_name(run)
    if run.kind == "attack":
        by_norm: dict[str, list[str]] = {}
        for name, budget in run.summary["threat"].items():
            by_norm.setdefault(norm_name(budget["norm"]), []).append(_short(name))
        budgets = " and ".join(f"{norm} in {' and '.join(names)}" for norm, names in by_norm.items())
        return f"{run.victim} on {data}, attacked within {budgets}"
    if run.kind == "curve":
        return f"{run.victim} on {data} over {axis_words(run.summary['axis'])[0]}"
    if run.kind == "noise":
        return f"{run.victim} on {data} under {condition_name(run)}"
    return f"{run.victim} on {data}: {condition_name(run)}"


def condition_name(run: Run) -> str:
    """What was done, in two words."""
    if run.kind == "change":
        told = run.summary.get("condition")
        name = told.get("condition") if isinstance(told, Mapping) else told
        return str(name or run.cell.condition)
    if run.kind == "attack":
        return " and ".join(
            f"{norm_name(told['norm'])} {number(told['radius_amplitude'])} in {_short(name)}"
            for name, told in run.summary["threat"].items()
        )
    if run.kind in TELLERS:
        return TELLERS[run.kind].condition_words(run)
    return f"over {axis_words(run.summary['axis'])[0]}" if run.kind == "curve" else run.kind


def data_name(run: Run) -> str:
    """`events`, or as it is called."""
    data = run.summary.get("data")
    return str(data.get("name", "?")) if isinstance(data, Mapping) else str(data or run.cell.data)


def told_of(run: Run) -> list[str]:
    """Sentences: the victim, the data, what was done to it, what came of it."""
    return [*_victim(run), *_done(run), *_outcome(run)]


def _victim(run: Run) -> list[str]:
    data = run.summary.get("data")
    split = f", {data['split']} split" if isinstance(data, Mapping) and data.get("split") else ""
    clips = f"{count(run.summary['clips'], 'clip')} of " if "clips" in run.summary else ""
    labels = len(run.labels)
    classes = f" It tells {count(labels, 'class')} apart" if labels else ""
    many = ", any number of them in a clip." if run.task == "multilabel" else ", one in each clip."
    return [f"The model {run.victim} was tested on {clips}{data_name(run)}{split}.{classes + many if classes else ''}"]


def _done(run: Run) -> list[str]:
    if run.kind in ("attack", "air"):
        return [_attacker(run), *(_budget(name, told) for name, told in run.summary["threat"].items()), *_limits(run)]
    if run.kind == "purification":
        return [*(_budget(name, told) for name, told in run.summary["threat"].items()), *_limits(run)]
    if run.kind == "change":
        return [_change(run.summary.get("condition"), condition_name(run))]
    if run.kind == "curve":
        return [_curve(run.summary)]
    if run.kind == "universal":
        fitted = run.summary.get("fitted_on", {})
        return [
            "One perturbation, the same for every clip, was fitted on "
            f"{count(int(fitted.get('clips', 0)), 'clip')} of the {fitted.get('split', 'train')} split and scored on "
            "clips it never saw, beside random noise of the same size."
        ]
    return []


def _attacker(run: Run) -> str:
    config = run.manifest.get("config")
    if not isinstance(config, Mapping):
        return "The attacker knows the model and follows its gradients (white box)."
    loss = config.get("loss") or ("bce" if run.task == "multilabel" else "margin")
    restarts = int(config.get("restarts") or 1)
    many = f" from each of {restarts} starts" if restarts > 1 else ""
    target = run.manifest.get("target")
    wanted = "to any wrong answer" if target is None else f"to the answer “{_label(run, target)}”"
    if run.task == "multilabel" and target is None:
        wanted = f"away from its labels (success: {run.manifest.get('success') or 'all-gone'})"
    return (
        f"The attacker knows the model and follows its gradients (white box): projected gradient steps, at most "
        f"{config.get('steps', '?')} of them{many}, {loss} loss, driving each clip {wanted}."
    )


def _label(run: Run, index: Any) -> str:
    labels = run.labels
    return labels[index] if isinstance(index, int) and 0 <= index < len(labels) else str(index)


def _budget(name: str, told: Mapping[str, Any]) -> str:
    """One modality's budget in plain words and other units."""
    norm, radius = str(told["norm"]), told.get("radius_amplitude")
    others = [*_usual_units(name, norm, radius), *_levels(name, told)]
    meaning = NORM_MEANINGS.get(norm, "a norm of the change is at most the radius")
    given = "" if told.get("unit", "amplitude") == "amplitude" else f" on the median clip, given as {_radius(told)}"
    beside = f" ({'; '.join(others)})" if others else ""
    return f"In {sense(name)} it may use an {norm_name(norm)} budget of {number(radius)}{given}{beside}: {meaning}."


def _radius(told: Mapping[str, Any]) -> str:
    radius = told.get("radius")
    shown = number(float(radius)) if isinstance(radius, (int, float)) else "a radius for each clip"
    return f"{shown} {UNITS.get(str(told.get('unit')), told.get('unit'))}"


def _usual_units(name: str, norm: str, radius: float | None) -> list[str]:
    if radius is None or norm != "linf":
        return []
    if name == "audio":
        return [f"{number(radius * STEPS_16_BIT, 3)} steps of 16-bit sound"]
    return [f"{number(radius * GREY_LEVELS, 3)} of 255 grey levels"] if name == "video" else []


def _levels(name: str, told: Mapping[str, Any]) -> list[str]:
    if name not in ("audio", "video", "joint"):
        return []
    level, noise = told.get("radius_dbfs"), told.get("snr_db_median")
    levels = [] if level is None or name == "video" else [decibels(level, "dBFS")]
    return levels + ([] if noise is None else [f"at worst an SNR of {decibels(noise)} on the median clip"])


def _limits(run: Run) -> list[str]:
    """Windows, bands and cuts."""
    threat = run.manifest.get("threat")
    budgets = threat.items() if isinstance(threat, Mapping) else []
    told = [f"In {name} only this part may change: {ball['support']}." for name, ball in budgets if "support" in ball]
    if run.manifest.get("cut"):
        how = "scaled up to the radius again" if run.manifest.get("rescale") else "left at that size"
        told.append(f"The perturbation was then cut down to {run.manifest['cut']} and {how}.")
    return told


def _change(condition: Any, name: str) -> str:
    told = condition if isinstance(condition, Mapping) else {}
    modality = told.get("modality")
    if "fill" in told:
        fill = FILLS.get(told["fill"], told["fill"])
        return f"Nothing was attacked: {sense(str(modality))} was taken away and {fill} put in."
    if "partners" in told:
        return f"Nothing was attacked: {sense(str(modality))} of each clip came from another clip with another label."
    if "pattern" in told:
        return f"Nothing was attacked: parts of {sense(str(modality))} were silenced in the pattern {told['pattern']}."
    if "corruption" in told:
        level = f" at severity {told['severity']} of 5" if told.get("severity") else ""
        value = (
            f" ({told.get('parameter', 'value')}: {number(told['value'], 3)})" if told.get("value") is not None else ""
        )
        return f"Nothing was attacked: every clip was damaged by {told['corruption']}{level}{value}."
    if isinstance(told.get("channel"), Mapping):
        split = _splits(told["channel"])
        rooms = f", in {' and '.join(split)} rooms" if split else ""
        return (
            f"Nothing was attacked: every clip was heard through the channel “{told['channel'].get('channel', name)}”, "
            f"with a draw of its own{rooms}."
        )
    if "std" in told:
        return (
            f"Nothing was attacked: Gaussian noise of standard deviation {number(told['std'])} was added to {modality}."
        )
    return f"Nothing was attacked: the clips were changed by {name}."


def _splits(channel: Mapping[str, Any]) -> list[str]:
    """`training`, `held-out`: of which split the rooms of a channel are."""
    parts = [channel, *(part for part in channel.get("parts") or [] if isinstance(part, Mapping))]
    names = {"train": "training"}
    return sorted({names.get(str(part["split"]), str(part["split"])) for part in parts if "split" in part})


def _curve(summary: Mapping[str, Any]) -> str:
    axis, radii = summary["axis"], summary["radii"]
    name, unit = axis_words(axis)
    ends = f", from {number(radii[0], 3)} to {number(radii[-1], 3)}{f' {unit}' if unit else ''}" if radii else ""
    modality = f" in {sense(str(axis['modality']))}" if axis.get("modality") else ""
    return f"It was tested at {count(len(radii), 'level')} of {name}{modality}{ends}, from easy to hard."


def _outcome(run: Run) -> list[str]:
    told = run.summary
    if run.kind in TELLERS:
        return TELLERS[run.kind].told_of(run)
    if run.kind == "curve":
        return _curve_outcome(told)
    after = {"attack": "robust", "universal": "robust", "change": "changed"}.get(run.kind)
    if after is None:
        return []
    metric = told["clean"].get("metric", "score")
    shown = [with_interval(told[side]) for side in ("clean", after)]
    sentence = f"The {metric} goes from {shown[0]} on clean clips to {shown[1]}"
    under = "so changed" if run.kind == "change" else "under this attack"
    return [f"{sentence} {under}{_besides(run)}.", *_dominance(told)]


def _besides(run: Run) -> str:
    if run.kind == "universal":
        beside = f", and to {with_interval(run.summary['random'])} under random noise of the same size"
        paired = run.summary.get("against_random")
        return beside + (f" ({points(paired['difference'])} points, {p_value(paired['p'])})" if _told(paired) else "")
    success = run.summary.get("success")
    if run.kind == "attack" and isinstance(success, Mapping) and success.get("clips"):
        broken, of = round((success.get("score") or 0) * success["clips"]), success["clips"]
        how = "are broken" if run.manifest.get("target") is None else "give the answer that the attacker wants"
        return f": {broken:,} of the {count(of, 'clip')} attacked {how}"
    difference = run.summary.get("difference")
    if run.kind == "change" and _told(difference):
        ends = f"{points(difference['low'])} to {points(difference['high'])}"
        return f": {points(difference['difference'])} points ({ends}; {p_value(difference['p'])}, {difference['test']})"
    return ""


def _told(comparison: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a comparison has numbers."""
    names = ("difference", "low", "high", "p")
    return isinstance(comparison, Mapping) and all(comparison.get(name) is not None for name in names)


def _dominance(told: Mapping[str, Any]) -> list[str]:
    """Of a swap: which sense is believed where the two contradict each other."""
    found = told.get("dominance")
    if not isinstance(found, Mapping) or not found.get("pairs"):
        return []
    shares = [f"{with_interval(found[name])} for {words}" for name, words in DECIDED.items() if name in found]
    return [
        f"Of {found['pairs']:,} pairs of sound and sight that contradict each other it decides {', '.join(shares)}."
    ]


def _curve_outcome(told: Mapping[str, Any]) -> list[str]:
    unit = axis_words(told["axis"])[1]
    unit = f" {unit}" if unit else ""
    sentences = [f"The clean {told['clean'].get('metric', 'score')} is {with_interval(told['clean'])}."]
    if "radius_half" in told:
        sentences.append(_fall(told, 0.5, "one half", told["radius_half"], unit))
    threshold = told.get("threshold")
    if threshold is not None and "radius_threshold" in told and not math.isclose(threshold, 0.5):
        sentences.append(_fall(told, threshold, percent(threshold), told["radius_threshold"], unit))
    if told.get("auc") is not None:
        sentences.append(f"Its mean over the axis (AUC) is {percent(told['auc'])}.")
    return sentences


def _fall(told: Mapping[str, Any], threshold: float, word: str, level: float | None, unit: str) -> str:
    """Where a curve falls under a score; a level in dB is infinite, and stored as none, at either end of the axis."""
    clean = told["clean"].get("score")
    if clean is not None and clean < threshold:
        return f"It is under {word} before anything is done."
    if level is None:
        return f"It does not fall under {word} within these levels."
    return f"It falls under {word} at {number(level, 3)}{unit}."
