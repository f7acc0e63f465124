"""`robust attack --purify`: how often does this victim stand behind a purifier, under attacks that know of it?"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from robust.purified_attack import PurifiedRun
    from robust.purifier_choice import Choice
    from robust.types import Dataset
    from robust.victims import Victim

Purify = Annotated[
    str | None,
    typer.Option(help="Attack behind a purifier: waveform:3 (or :auto), mel:5, low-pass:4000, gate...; + chains."),
]
Attacks = Annotated[
    str | None,
    typer.Option(
        help="With --purify: transfer, bpda, fixed, full-K (K draws a step); with or without: square, nes. With commas."
    ),
]
Draws = Annotated[
    int | None, typer.Option(help="With --purify: draws of its noise to choose the worst attack, and to score it.")
]
Queries = Annotated[int | None, typer.Option(help="With --purify: of each black-box attack on each clip.")]
Cascade = Annotated[bool, typer.Option(help="With --purify: dear attacks work on what cheap ones left.")]

STEPS, BARE_STEPS = 70, 40
"""Of an attack behind a purifier, and without one."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of a purifier; None where it says nothing."""

    purify: str | None
    attacks: str | None
    draws: int | None
    queries: int | None
    cascade: bool
    check: bool

    def refuse(
        self,
        missing: str | None,
        swap: str | None,
        occlude: str | None,
        scale: str | None,
        mels: str | None,
        cut: bool,
        rescale: bool,
        inaudible: int,
        success: str | None,
        by: str | None,
    ) -> None:
        """Ends the command where options could not act together."""
        others = {
            "--missing": missing,
            "--swap": swap,
            "--occlude": occlude,
            "--scale": scale,
            "--mels": mels,
            "--cut": cut,
            "--rescale": rescale,
            "--inaudible": inaudible,
            "--success": success,
            "--by": by,
        }
        if self.purify is not None:
            clashing = [name for name, value in others.items() if value]
            if clashing:
                told = ", ".join(clashing)
                raise typer.BadParameter(
                    f"{told} cannot act together with --purify or --attacks; leave out one of them"
                )
            return
        own = {"--attacks": self.attacks, "--draws": self.draws, "--queries": self.queries}
        own["--no-cascade"] = None if self.cascade else False
        lonely = [name for name, value in own.items() if value is not None]
        if lonely:
            raise typer.BadParameter(
                f"{', '.join(lonely)} goes with --purify, e.g. --purify waveform:3 "
                "(--attacks square,nes without it, too)"
            )

    @property
    def black_box(self) -> bool:
        """Whether every attack asked for needs scores alone, so that a victim without gradients will do."""
        from robust.evaluation.purifier_attacks import take_no_gradient

        names = self.names()
        return names is not None and take_no_gradient(names)

    def or_bare(self) -> Asked:
        """Black-box attacks without a purifier are on the bare victim."""
        return replace(self, purify="none") if self.purify is None and self.black_box else self

    @property
    def usual_steps(self) -> int:
        """Steps of PGD unless told."""
        return BARE_STEPS if self.purify is None else STEPS

    @property
    def word(self) -> str:
        """The purifier as part of a file name."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.purify or "").strip("-")

    def names(self) -> tuple[str, ...] | None:
        """The attacks asked for; a smoke run takes one draw for many."""
        if self.attacks is None:
            return None
        given = [name.strip() for name in self.attacks.split(",")]
        return tuple(dict.fromkeys(re.sub(r"^full-\d+$", "full-1", name) for name in given) if self.check else given)

    def counts(self) -> dict[str, Any]:
        """Draws and queries, as `attack_purified` takes them; what is not given is its default."""
        if self.check:
            return {"draws": 1, "queries": 1, "sure": 1}
        given = {"draws": self.draws, "queries": self.queries}
        return {name: count for name, count in given.items() if count is not None}


def show(
    asked: Asked,
    victim: Victim,
    data: Dataset,
    validation: Callable[[int], Dataset],
    *,
    as_json: bool,
    **settings: Any,
) -> None:
    """Attacks a victim behind a purifier and prints what came of it.

    Args:
        asked: Of the purifier.
        victim: The bare victim.
        data: What it is attacked on.
        validation: Opens so many validation clips; for `waveform:auto`.
        as_json: One JSON document instead of words.
        **settings: More arguments of `robust.attack_purified`.
    """
    from robust.purified_attack import attack_purified

    assert asked.purify is not None
    choice = _choice(asked, victim, validation, settings)
    facts = None if choice is None else {"chosen_steps": choice.table}
    run = attack_purified(
        victim,
        data,
        purifier=asked.purify if choice is None else choice.purifier,
        attacks=asked.names(),
        cascade=asked.cascade,
        facts=facts,
        **asked.counts(),
        **settings,
    )
    told = None if choice is None else choice.table
    if as_json:
        print(json.dumps({**run.summary, **({} if told is None else {"chosen_steps": told})}, indent=2))
    else:
        for row in told or ():
            scores = f"clean {100 * row['clean']:.1f} %, robust {100 * row['robust']:.1f} %"
            print(f"n* = {row['steps']:<3} {scores} on validation clips ({row['label']})")
        _show(run)


def _choice(
    asked: Asked, victim: Victim, validation: Callable[[int], Dataset], settings: dict[str, Any]
) -> Choice | None:
    """n* by a validation curve, where `auto` stands for it."""
    from robust.purifier_choice import CANDIDATES, CLIPS, automatic, choose_steps

    found = automatic(asked.purify or "")
    if found is None:
        return None
    kept = {name: value for name, value in settings.items() if name not in ("out", "resume", "checks")}
    candidates = CANDIDATES[:2] if asked.check else CANDIDATES
    counts = asked.counts()
    clips = validation(1 if asked.check else CLIPS)
    source, method = found
    return choose_steps(victim, clips, source=source, method=method, candidates=candidates, **counts, **kept)


def _show(run: PurifiedRun) -> None:
    from rich.console import Console

    from robust.evaluation.purifier_attacks import take_no_gradient
    from robust.evaluation.summary import failed_checks

    console = Console(highlight=False, soft_wrap=True, markup=False)
    told = run.summary
    threat = next(iter(told["threat"].values()))
    purifier = told["purifier"]["name"]
    console.print(f"victim   {told['victim']}" + ("" if purifier == "none" else f", behind {purifier}"))
    console.print(f"data     {told['data']['name']} {told['data']['split']}, {told['clips']} clips, {told['task']}")
    console.print(f"threat   {threat['norm']} {threat['radius_amplitude']:g}")
    if take_no_gradient(told["attacks"]):
        for name, row in told["attacks"].items():
            console.print(f"attack   {name}: {row['what']}")
        console.print("why      --attacks names black boxes alone: no gradient was asked for, and one may break more")
    if purifier != "none":
        console.print(f"bare     clean {_interval(told['bare_clean'])}; attacked {_interval(told['bare_robust'])}")
    console.print(f"clean    {run.clean.metric} {run.clean}")
    console.print(f"robust   {run.robust.metric} {run.robust}, {told['label']}")
    console.print(f"always   {_interval(told['always'])} stand in all of {told['draws']} draws")
    _table(console, told)
    for name, why in told["skipped"].items():
        console.print(f"skipped  {name}: {why}")
    audit = told["audit"]
    console.print(f"audit    {audit['violations']} violations; largest realised / allowed {audit['worst_ratio']:.7f}")
    passes = f"{told['forwards_per_clip']:.0f} forwards and {told['backwards_per_clip']:.0f} backwards a clip"
    console.print(f"cost     {passes}; {told['seconds']:.1f} s")
    for line in failed_checks(told):
        console.print(f"CHECK    {line}")
    console.print(f"records  {told['run']} ({len(told.get('audio', []))} recordings to listen to in audio/)")
    sys.stdout.flush()


def _table(console: Console, told: dict[str, Any]) -> None:
    """What each attack did, from cheap to dear."""
    from rich.table import Table

    table = Table("attack", "clips", "stand", "left after it", "worst for", "passes", box=None, pad_edge=False)
    for name, row in told["attacks"].items():
        passes = f"{row['forwards']:.0f} + {row['backwards']:.0f}"
        stand, left = _interval(row["standing"]), f"{100 * row['left']['score']:.1f} %"
        table.add_row(name, str(row["clips"]), stand, left, str(row["worst_for"]), passes)
        if "held" in row:
            table.add_row("  its own draw", str(row["held"]["clips"]), _interval(row["held"]), "", "", "")
    console.print(table)


def _interval(score: dict[str, Any] | None) -> str:
    if score is None:
        return "not measured"
    return f"{100 * score['score']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
