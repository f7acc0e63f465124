"""What runs each kind of condition: from an opened cell to a run folder whose last file is its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.pgd import PGD
from attacks.universal import Universal
from robust import api, change, curves, universals
from robust.atomic import clear, write_atomically
from robust.certification import certify
from robust.channels.condition import Through
from robust.channels.presets import load_channel
from robust.corruptions.condition import Corrupted
from robust.evaluation.conditions import Unchanged
from robust.evaluation.occlusion import Occlusion, WhiteNoise
from robust.model_geometry import geometry
from robust.over_the_air import air
from robust.purified_curve import purified_curve
from robust.study import conditions as kinds
from robust.study.opened import Opened as Opened
from robust.study.opened import hiding, optimised
from robust.study.transfers import transfers
from robust.threats import make_support, posed

if TYPE_CHECKING:
    import pandas as pd


def run(cell: Opened) -> None:
    """Measures what a cell asks for; goes on where an interrupted run stopped."""
    RUNNERS[type(cell.condition)](cell)


def _attack(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.AttackKind)
    allowed = make_support(cell.victim.spec.sample_rate, window=asked.window, band=asked.band, mels=asked.mels)
    api.attack(
        cell.victim,
        cell.data,
        **_shared(cell, asked),
        support=None if asked.cut else allowed,
        cut=allowed if asked.cut else None,
        rescale=asked.rescale,
        inaudible=hiding(asked.inaudible),
        target=asked.target,
        success=asked.success,
    )


def _curve(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.CurveKind)
    curves.curve(
        cell.victim,
        cell.data,
        **_shared(cell, asked),
        against=asked.against,
        threshold=asked.threshold,
    )


def _shared(cell: Opened, asked: kinds.AttackKind | kinds.CurveKind) -> dict[str, Any]:
    """What `attack` and `curve` take alike."""
    return {**optimised(cell, asked), "scale": asked.scale}


def _change(cell: Opened) -> None:
    asked = cell.condition
    victim, data = posed(cell.victim, cell.data, cell.modality)
    condition: Any
    if isinstance(asked, kinds.CleanKind):
        condition = Unchanged()
    elif isinstance(asked, kinds.MissingKind):
        condition = change.missing(victim, data, cell.modality, asked.fill)
    elif isinstance(asked, kinds.SwapKind):
        condition = change.swap(victim, data, cell.modality)
    elif isinstance(asked, kinds.OccludeKind):
        condition = Occlusion(cell.modality, asked.pattern)
    elif isinstance(asked, kinds.CorruptionKind):
        condition = Corrupted(asked.corruption, asked.severity)
    elif isinstance(asked, kinds.ChannelKind):
        channel = load_channel(asked.channel, sample_rate=victim.spec.sample_rate, split=asked.split)
        condition = Through(channel, cell.modality, label=f"channel-{asked.channel}")
    else:
        assert isinstance(asked, kinds.NoiseKind)
        condition = WhiteNoise(cell.modality, asked.std)
    change.evaluate(victim, data, condition, seed=cell.seed, out=cell.folder, resume=True, facts=cell.facts)


def _air(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.AirKind)
    air(
        cell.victim,
        cell.data,
        channel=asked.channel,
        support=make_support(cell.victim.spec.sample_rate, window=asked.window, band=asked.band),
        draws=asked.draws,
        keep_steps=asked.keep_steps,
        situations=asked.situations,
        plain_steps=asked.plain_steps,
        inaudible=hiding(asked.inaudible),
        target=asked.target,
        **optimised(cell, asked),
    )


def _purify(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.PurifyKind)
    assert isinstance(asked.purifier, str)
    purified_curve(
        cell.victim,
        cell.data,
        purifier=asked.purifier,
        attacks=asked.attacks,
        draws=asked.draws,
        queries=asked.queries,
        sure=asked.sure,
        cascade=asked.cascade,
        target=asked.target,
        transfers=transfers(cell.victim, cell.data, asked, cell.seed),
        **optimised(cell, asked),
    )


def _certificate(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.CertificateKind)
    assert asked.denoiser is None or isinstance(asked.denoiser, str)
    certify(
        cell.victim,
        cell.data,
        sigma=asked.sigma,
        denoiser=asked.denoiser,
        n0=asked.n0,
        n=asked.n,
        alpha=asked.alpha,
        radii=asked.radii,
        attack=PGD(steps=asked.steps) if asked.attack else False,
        draws=asked.draws,
        checks=asked.checks,
        seed=cell.seed,
        out=cell.folder,
        resume=True,
        facts=cell.facts,
    )


def _universal(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.UniversalKind)
    clear(cell.folder)  # the fit is not resumable, and a second one would find the first's records
    universals.universal(
        cell.victim,
        cell.training(asked.fit_limit),
        cell.data,
        norm=asked.norm,
        eps=asked.eps,
        modality=cell.modality,
        config=Universal(epochs=asked.epochs),
        seed=cell.seed,
        out=cell.folder,
        facts=cell.facts,
    )


def _thresholds(cell: Opened) -> None:
    from robust.evaluation.thresholds import thresholds

    asked = cell.condition
    assert isinstance(asked, kinds.ThresholdsKind)
    found = thresholds(
        cell.victim,
        cell.others["audio"],
        cell.others["video"],
        cell.data,
        largest=asked.largest,
        norm=asked.norm,
        config=PGD(steps=asked.steps),
        tolerance=asked.tolerance,
        seed=cell.seed,
    )
    _finish(cell, found.frame, found.summary())


def _surface(cell: Opened) -> None:
    from robust.evaluation.landscape import loss_surface

    asked = cell.condition
    assert isinstance(asked, kinds.SurfaceKind)
    table = loss_surface(
        cell.victim,
        cell.data,
        norm=asked.norm,
        eps=asked.eps,
        modality=cell.modality,
        config=PGD(steps=asked.steps),
        points=asked.points,
        extent=asked.extent,
        clips=min(asked.clips, len(cell.data)),
        seed=cell.seed,
    )
    radii = {name: float(ball.radius) for name, ball in cell.attack(asked).threat.items()}
    eps = next(iter(radii.values())) if len(radii) == 1 else radii
    told = {"norm": asked.norm, "eps": eps, "modality": cell.modality, "extent": asked.extent, "points": asked.points}
    _finish(cell, table, {**told, "clips": int(table["clip"].nunique())})


def _latents(cell: Opened) -> None:
    from robust.evaluation.latents import latent_table

    asked = cell.condition
    assert isinstance(asked, kinds.LatentsKind)
    table, told = latent_table(cell.victim, cell.data, attack=cell.attack(asked), method=asked.method, seed=cell.seed)
    _finish(cell, table, told)


def _latency(cell: Opened) -> None:
    from robust.evaluation.latency import layer_latency

    asked = cell.condition
    assert isinstance(asked, kinds.LatencyKind)
    table, told = layer_latency(cell.victim, batch_size=asked.batch_size, repeats=asked.repeats, seed=cell.seed)
    _finish(cell, table, told)


def _geometry(cell: Opened) -> None:
    asked = cell.condition
    assert isinstance(asked, kinds.GeometryKind)
    clear(cell.folder)  # what an interrupted run left holds no result
    geometry(cell.victim, cell.data, settings=asked.chosen(), seed=cell.seed, out=str(cell.folder), facts=cell.facts)


def _finish(cell: Opened, table: pd.DataFrame, told: Mapping[str, Any]) -> None:
    """Writes what has no records of clips: manifest, table, and the summary last."""
    settings = cell.condition.model_dump(mode="json", exclude={*kinds.WHERE, "kind"})
    described = {"condition": cell.condition.kind, "settings": settings}
    manifest = api.make_manifest(cell.victim, cell.data, described, cell.seed, 0, cell.facts)
    write_atomically(cell.folder / "manifest.json", json.dumps(manifest, indent=2, default=str).encode())
    write_atomically(cell.folder / "table.parquet", table.to_parquet())
    summary = {
        "kind": cell.condition.kind,
        "victim": cell.victim.spec.name,
        "data": {"name": cell.data.name, "split": cell.data.split, "fingerprint": cell.data.fingerprint()},
        **told,
        "run": str(cell.folder),
    }
    write_atomically(cell.folder / "summary.json", json.dumps(summary, indent=2, default=_plain).encode())


def _plain(value: Any) -> Any:
    """Numbers of numpy as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)


RUNNERS: Mapping[type[kinds.Condition], Callable[[Opened], None]] = {
    kinds.AttackKind: _attack,
    kinds.CurveKind: _curve,
    kinds.CleanKind: _change,
    kinds.MissingKind: _change,
    kinds.SwapKind: _change,
    kinds.OccludeKind: _change,
    kinds.NoiseKind: _change,
    kinds.CorruptionKind: _change,
    kinds.ChannelKind: _change,
    kinds.AirKind: _air,
    kinds.PurifyKind: _purify,
    kinds.CertificateKind: _certificate,
    kinds.UniversalKind: _universal,
    kinds.ThresholdsKind: _thresholds,
    kinds.SurfaceKind: _surface,
    kinds.LatentsKind: _latents,
    kinds.LatencyKind: _latency,
    kinds.GeometryKind: _geometry,
}
CHANGES = ("clean", "missing", "swap", "occlude", "noise", "corruption", "channel")
"""Kinds whose runs are of the kind `change`."""
