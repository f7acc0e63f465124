"""Runs of the physical world in sentences: over the air, under corruptions, against music, through stickers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robust.report.formats import (
    Shown,
    count,
    difference_words,
    number,
    p_value,
    percent,
    shown,
    with_interval,
)
from robust.report.reading import Run

KINDS = ("air", "noise", "music", "stickers")
MASKERS = {"silence": "silence", "noise": "white noise", "plain": "plain music", "adversarial": "adversarial music"}
"""What plays beside the speech, the strongest last."""


def condition_words(run: Run) -> str:
    """What was done, in a few words."""
    told = run.summary
    if run.kind == "air":
        return f"over the air ({told.get('channel', 'a channel')})"
    if run.kind == "noise":
        purified = told.get("purified") or {}
        beside = f", with and without {purified['purifier']['name']}" if purified.get("purifier") else ""
        return count(len({cell["corruption"] for cell in told["cells"]}), "corruption") + beside
    if run.kind == "music":
        return f"music ({told.get('score', 'a tune')})"
    return f"stickers, {told['source']} to {told.get('target') or 'any other class'}"


def scores(run: Run) -> list[Shown]:
    """The score before and the one that the run is about."""
    told = run.summary
    if run.kind == "air":
        return [shown("clean", told["clean"]), shown("robust", told["robust"], "robust accuracy in held-out rooms")]
    if run.kind == "noise":
        return [shown("clean", told["clean"]), *_under_corruption(told)]
    if run.kind == "music":
        return _heard(told)
    return _through_stickers(told)


def _under_corruption(told: Mapping[str, Any]) -> list[Shown]:
    """One minus the mean error; its interval turns round."""
    if told.get("mean_error") is None:
        return []
    ends = {"low": told.get("mean_error_high"), "high": told.get("mean_error_low")}
    score = {name: None if value is None else 1 - value for name, value in ends.items()}
    metric = told["clean"].get("metric", "score")
    score |= {"score": 1 - told["mean_error"], "metric": metric, "clips": told["clips"]}
    return [shown("changed", score, f"mean {metric} under corruption")]


def _heard(told: Mapping[str, Any]) -> list[Shown]:
    """F1 in silence, and at the loudest music."""
    found = [shown("clean", _f1(cell, told), "F1 in silence") for cell in told["cells"] if cell["masker"] == "silence"]
    loudest = loudest_ratio(told)
    for cell in told["cells"]:
        if cell["masker"] == "adversarial" and cell["smr_db"] == loudest:
            found.append(shown("changed", _f1(cell, told), f"F1 under adversarial music, {ratio_words(loudest)}"))
    return found


def _f1(cell: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    return {"score": cell["f1"], "low": cell["low"], "high": cell["high"], "metric": "F1", "clips": told["clips"]}


def loudest_ratio(told: Mapping[str, Any]) -> float | None:
    """The lowest speech-to-music ratio of a run, dB; None where no music was played."""
    return min((cell["smr_db"] for cell in told["cells"] if cell["smr_db"] is not None), default=None)


def ratio_words(ratio: float | None) -> str:
    """A level as text."""
    return "" if ratio is None else f"{number(float(ratio))} dB"


def _through_stickers(told: Mapping[str, Any]) -> list[Shown]:
    seen = told["jittered"]
    found = [shown("clean", seen["clean"], "accuracy through a bare lens")] if seen.get("clean") else []
    for aim, words in (("targeted", f"taken for {told.get('target')}"), ("untargeted", "taken for something else")):
        if aim in seen:
            found.append(shown("changed", seen[aim]["rate"], words))
    return found


def told_of(run: Run) -> list[str]:
    """Sentences: what was done and what came of it."""
    return {"air": _air, "noise": _noise, "music": _music, "stickers": _stickers}[run.kind](run.summary)


def _air(told: Mapping[str, Any]) -> list[str]:
    draws, situations = told.get("draws"), told.get("situations")
    made = f", averaged over {count(draws, 'draw')} of the channel at every step" if draws else ""
    rooms = f" {count(situations, 'situation')} each of" if situations else ""
    plain, eot = (told[name]["held_out_rooms"]["success"] for name in ("plain", "eot"))
    sentences = [
        f"Each clip was attacked twice within that budget: by plain PGD, as if there were no channel, and in "
        f"expectation over the channel “{told.get('channel', '?')}” (EOT){made}.",
        f"Clips, with random noise of the attack's size as a control, were then heard without a channel, in{rooms} "
        "training rooms and of rooms that no attack had seen (held out).",
    ]
    if plain["score"] is None or eot["score"] is None:
        return [*sentences, "In the held-out rooms no unperturbed clip stands: there is no success to count."]
    sentences.append(
        f"In rooms never seen the EOT attack succeeds on {with_interval(eot)} of what stands there unattacked, the "
        f"plain attack on {with_interval(plain)}."
    )
    return [*sentences, *_gain(told.get("gain")), *_recovered(told)]


def _gain(gain: Any) -> list[str]:
    words = difference_words(gain) if isinstance(gain, Mapping) else ""
    p = f"; {p_value(gain.get('p'))}, {gain.get('test', 'paired test')}" if words else ""
    return [f"The difference is {words}{p}."] if words else []


def _recovered(told: Mapping[str, Any]) -> list[str]:
    share = told.get("recovered")
    if not isinstance(share, Mapping):
        return []
    if share.get("score") is None:
        return ["The air costs the plain attack nothing here, so there is nothing to win back."]
    return [f"EOT wins back {with_interval(share)} of what the air costs the plain attack."]


def _noise(told: Mapping[str, Any]) -> list[str]:
    cells = told["cells"]
    names, levels = {cell["corruption"] for cell in cells}, {cell["severity"] for cell in cells if cell["severity"]}
    severities = f" at {count(len(levels), 'level')} of severity" if levels else ""
    sentences = [
        f"Nothing was attacked: every clip was damaged by {count(len(names), 'corruption')}{severities}, the same draw "
        "for every model and severity."
    ]
    if told.get("mean_error") is not None:
        error = {
            name: told.get(f"mean_error{end}") for name, end in (("score", ""), ("low", "_low"), ("high", "_high"))
        }
        worst = max(cells, key=lambda cell: -1.0 if cell["score"] is None else 1 - cell["score"])
        level = f", severity {worst['severity']}" if worst["severity"] else ""
        sentences.append(
            f"The mean error over them is {with_interval(error)}; the worst cell is {worst['corruption']}{level}, "
            f"which leaves {percent(worst['score'])} of {percent(told['clean'].get('score'))}."
        )
    sentences.append(_mce(told))
    sentences += _purified(told.get("purified"))
    if told.get("silent_clips"):
        sentences.append(
            f"{count(told['silent_clips'], 'clip')} held nothing but silence, which noise leaves as it is."
        )
    return sentences


def _purified(told: Any) -> list[str]:
    """What a purifier wins under corruptions, and what it costs."""
    if not isinstance(told, Mapping):
        return []
    name = (told.get("purifier") or {}).get("name", "?")
    errors = [(told.get(side) or {}).get("mean_error") for side in ("before", "after")]
    cost = difference_words((told.get("clean") or {}).get("difference") or {})
    lost = f", and the score on clean clips changes by {cost}" if cost else ""
    return [
        f"Heard through the purifier “{name}”, the same clips give a mean error of {percent(errors[1])} instead of "
        f"{percent(errors[0])}{lost}."
    ]


def _mce(told: Mapping[str, Any]) -> str:
    """The mean corruption error, or why there is none."""
    if told.get("mce") is None:
        why = told.get("no_reference") or "the reference makes no errors here"
        return f"There is no mean corruption error (mCE): {str(why).rstrip('.')}."
    low, high = told.get("mce_low"), told.get("mce_high")
    ends = "" if low is None or high is None else f" (95\u00a0% interval {number(low, 3)} to {number(high, 3)})"
    reference = told.get("reference") or {}
    return (
        f"The mean corruption error (mCE) is {number(told['mce'], 3)}{ends}: 1 is as many errors as the reference "
        f"{reference.get('model', '?')} makes, on {reference.get('data', 'the same clips')}."
    )


def _music(told: Mapping[str, Any]) -> list[str]:
    rooms = told.get("rooms")
    where = "without rooms"
    if isinstance(rooms, Mapping):
        named = rooms.get("rooms")
        name = f" “{named['name']}”" if isinstance(named, Mapping) and "name" in named else ""
        where = f"in {count(int(rooms.get('held_out', 0)), 'room')}{name} that it was not fitted in"
    sentences = [
        f"The detector listens for “{told.get('wake', '?')}”. One rendering of a guitar tune "
        f"({told.get('score', '?')}) was optimised to hide that word, the same for all clips, and played "
        f"beside speech {where}. Controls at equal loudness: the tune before it was optimised, white noise, "
        "and silence.",
    ]
    lost = _left_of_plain(told)
    return [*sentences, lost] if lost else sentences


def _left_of_plain(told: Mapping[str, Any]) -> str:
    """At the loudest music: both F1, and the ratio."""
    loudest = loudest_ratio(told)
    f1 = {cell["masker"]: _f1(cell, told) for cell in told["cells"] if cell["smr_db"] == loudest}
    if loudest is None or not {"plain", "adversarial"} <= set(f1):
        return ""
    sentence = (
        f"At a speech-to-music ratio of {ratio_words(loudest)} the plain tune leaves an F1 of "
        f"{with_interval(f1['plain'])}, the optimised one of {with_interval(f1['adversarial'])}"
    )
    for row in told.get("adversarial_over_plain") or []:
        if row["smr_db"] == loudest and row.get("ratio") is not None:
            sentence += f": {number(row['ratio'], 3)} times as much"
    return f"{sentence}."


def _stickers(told: Mapping[str, Any]) -> list[str]:
    fitted, sheet = told.get("fitted_on") or {}, told.get("stickers") or {}
    wanted = f"take them for {told['target']}" if told.get("target") else "take them for anything else"
    dots = count(len(sheet.get("centres") or []), "translucent dot")
    on = (
        f" on {count(int(fitted['clips']), 'clip')} of the {fitted.get('split', '?')} split"
        if "clips" in fitted
        else ""
    )
    seen = told["jittered"]
    sentences = [
        f"{dots} on the lens, the same on every frame of every clip of {told['source']}, were fitted{on} to make the "
        f"model {wanted}, and scored on clips they never saw, with jitter, blur and brightness of the camera."
    ]
    for aim in ("targeted", "untargeted"):
        if aim in seen:
            what = f"taken for {told.get('target')}" if aim == "targeted" else "taken for something else"
            rate, random = (with_interval(seen[aim][name]) for name in ("rate", "random"))
            sentences.append(f"Of clips that are right through a bare lens, {rate} are {what}; random dots: {random}.")
    return sentences
