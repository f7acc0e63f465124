"""What each check asks, in plain words (methods.md 9.2; `robust.evaluation.checks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEANINGS = {
    "S1": "With a budget of zero the attack must change nothing at all. If it does, scores at small budgets mean "
    "nothing.",
    "S2": "A larger budget, or more steps, can only help the attacker. If fewer clips break, the search is being "
    "lost and the robust score is too high.",
    "S3": "Allowed to change everything, an attack must break every clip. If clips still stand, the attack is at "
    "fault or the model hides its gradients; neither is robustness.",
    "S4": "Many small steps must do at least as well as one big one. A clip that only the single step breaks is a "
    "sign of hidden gradients.",
    "S5": "An attack that sees inside the model must beat one that only sees its answers. If it does not, gradients "
    "are hidden.",
    "S6": "An attack made on another model must not beat the attack made on this one. If it does, this model was "
    "not attacked at full strength.",
    "S7": "Random noise of the same size must be weaker than the attack. If noise alone breaks clips that the "
    "attack left standing, the attack was too weak to tell anything.",
    "S8": "Gradients must reach the input, be finite and agree with what small changes really do. Otherwise the "
    "attacker walks blind, and the robust score flatters the model.",
    "S9": "The same clip must get the same answer twice. A model that draws at random has to be attacked in "
    "expectation over its draws.",
    "S10": "The attack works on raw scores before any squashing. Probabilities, or scores far out where they "
    "saturate, leave gradients that vanish.",
    "S11": "The loss around a clip should be smooth along the attack and across it. A rugged surface suggests hidden "
    "gradients.",
    "S12": "Every perturbation was measured again in double precision: it must lie within the budget, the range of "
    "the data and the part of the clip that is not padding. One violation makes the score invalid.",
    "S13": "The last ten steps should bring next to nothing. If they still gain, more steps would break more clips.",
    "S14": "The attack must break a model known to be weak and must fail on one whose answer never changes.",
    "S15": "Dropout has to be off and batch statistics frozen while the model is tested, or it is not the model in "
    "use.",
    "S16": "It must be said what counts as success, and clips that were wrong from the start must not be counted as "
    "broken.",
    "S17": "The rooms in which success is told are not those in which the attack was made. Much less success in rooms "
    "never seen than in known ones means that the attack learned its rooms by heart; more draws or more rooms help.",
    "S18": "Each step follows a mean over a few draws of the channel. Where that mean is mostly chance, the attacker "
    "walks at random, and more draws would make a stronger attack.",
    "S19": "The attack with the full gradient must do at least as well as those that know less. If a transferred, an "
    "approximate or a blind attack leaves fewer clips, the purifier hides its gradient, and the score is too high.",
    "S20": "Gradients averaged over more draws of the purifier's noise must bring little. If they break more clips, "
    "the draws were too few.",
    "S21": "A purifier that draws at random gives the same clip a good and a bad day. The more its result differs "
    "between draws, the less one draw tells, and an attacker who may try again needs only one bad day.",
    "S22": "No attack within a certified radius may change the answer. One that does disproves the certificate.",
    "S23": "Votes cast in low precision must be those of full precision; those that could differ are cast anew.",
    "S24": "With so many votes no larger radius than the ceiling can be shown. Where many clips reach it, the curve "
    "ends for want of votes and not of robustness.",
    "S25": "Where most clips get no answer, the model cannot hear through the noise: train it with noise of this "
    "level, or give it a denoiser.",
}
"""Number of a check -> what it asks and why it matters."""

WORDS = {"pass": "passed", "warn": "warning", "fail": "FAILED", "skipped": "not asked"}
MARKS = {"pass": "✓", "warn": "!", "fail": "✕", "skipped": "○"}
ORDER = ("fail", "warn", "pass", "skipped")


@dataclass(frozen=True)
class Check:
    """One check as the page shows it; `word` and `mark` say the verdict without colour."""

    number: str
    name: str
    verdict: str
    word: str
    mark: str
    detail: str
    meaning: str


def gathered(checks: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> list[dict[str, Any]]:
    """Checks asked at each of several levels in turn: one for each name, with the worst verdict and all findings.

    Args:
        checks: One level after another; a name that was told already begins the next level.
        levels: What to call them.
    """
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    told: set[str] = set()
    place = 0
    for check in checks:
        name = str(check.get("name", ""))
        if name in told:
            place, told = place + 1, set()
        told.add(name)
        found.setdefault(name, []).append((place, check))
    return [{"name": name, **_together(own, levels)} for name, own in found.items()]


def _together(own: Sequence[tuple[int, Mapping[str, Any]]], levels: Sequence[str]) -> dict[str, str]:
    verdicts = {str(check.get("verdict", "unknown")) for _, check in own}
    worst = next((verdict for verdict in ORDER if verdict in verdicts), "unknown")
    details = [str(check.get("detail", "")) for _, check in own]
    if len(set(details)) == 1:
        return {"verdict": worst, "detail": details[0]}
    names = [levels[place] if place < len(levels) else "?" for place, _ in own]
    return {"verdict": worst, "detail": "; ".join(f"{name}: {one}" for name, one in zip(names, details, strict=True))}


def explained(checks: Sequence[Mapping[str, Any]]) -> list[Check]:
    """The checks of a summary with their meaning, in their own order."""
    return [_explained(check) for check in checks]


def counted(checks: Sequence[Check]) -> str:
    """`11 passed, 1 not asked`; empty where nothing was asked."""
    verdicts = [*ORDER, *sorted({check.verdict for check in checks} - set(ORDER))]
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in verdicts}
    return ", ".join(f"{number} {WORDS.get(verdict, verdict).lower()}" for verdict, number in counts.items() if number)


def _explained(check: Mapping[str, Any]) -> Check:
    number, _, name = str(check.get("name", "")).partition(" ")
    verdict = str(check.get("verdict", "unknown"))
    return Check(
        number,
        name or number,
        verdict,
        WORDS.get(verdict, verdict),
        MARKS.get(verdict, "?"),
        str(check.get("detail", "")),
        MEANINGS.get(number, "This page knows no explanation of this check."),
    )
