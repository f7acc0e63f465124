"""Whether what a study asks for can be on a victim and its data; found out before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attacks.joint import JOINT
from robust import api, curves
from robust.channels.presets import read_channel
from robust.curve_levels import check_radii
from robust.errors import VictimError, unknown
from robust.evaluation.conditions import Attack
from robust.evaluation.engine import AlignedData, aligned_to
from robust.evaluation.occlusion import PATTERNS
from robust.evaluation.purification import Purification
from robust.purified_attack import suite
from robust.purifiers import load_purifier
from robust.study import conditions as kinds
from robust.threats import ThreatModel, make_support, posed, threat_model
from robust.types import Dataset
from robust.victims import Victim


def check(victim: Victim, data: Dataset, condition: kinds.Condition) -> None:
    """Holds a condition against a victim and the first clip of the data, by no pass through the victim.

    Raises:
        RobustError: For a modality that the victim has not, and budgets that cannot be.
    """
    modality = condition.modality or victim.spec.modalities[0]
    if isinstance(condition, kinds.UniversalKind) and (modality == JOINT or data.split in ("train", "all")):
        raise VictimError("A universal perturbation is fitted on train clips, with a budget each: score it on others.")
    if isinstance(condition, kinds.CurveKind):
        asked = {name: getattr(condition, name) for name in ("norm", "eps", "unit", "scale", "against")}
        curves.check(victim, data, modality=modality, **asked)
        return
    victim, data = posed(victim, data, modality)
    own = CHECKS.get(type(condition))
    if own is not None:
        own(victim, data, modality, condition)
    elif isinstance(condition, kinds.UniversalKind | kinds.SurfaceKind | kinds.LatentsKind):
        _check_radii(victim, data, threat_model(victim, modality, condition.norm, condition.eps))
    elif isinstance(condition, kinds.ThresholdsKind):
        for name in condition.largest:
            _check_one_modality(victim, name)
    else:
        _check_one_modality(victim, modality)
        if isinstance(condition, kinds.ChannelKind):
            read_channel(condition.channel)
        if isinstance(condition, kinds.OccludeKind):
            length = AlignedData(data, victim.spec).batch([0]).inputs[modality].shape[1]
            PATTERNS[condition.pattern].mask(length)


def _check_attack(victim: Victim, data: Dataset, modality: str, asked: kinds.AttackKind) -> None:
    allowed = make_support(victim.spec.sample_rate, window=asked.window, band=asked.band, mels=asked.mels)
    threat = threat_model(victim, modality, asked.norm, asked.eps, asked.unit, support=allowed, scale=asked.scale)
    Attack(threat.balls, target=api.target_index(victim, asked.target), success=asked.success)
    _check_radii(victim, data, threat)


def _check_air(victim: Victim, data: Dataset, modality: str, asked: kinds.AirKind) -> None:
    """Budget and target; the channel is only read, since its rooms may have to be built."""
    allowed = make_support(victim.spec.sample_rate, window=asked.window, band=asked.band)
    threat = threat_model(victim, modality, asked.norm, asked.eps, asked.unit, support=allowed)
    api.target_index(victim, asked.target)
    read_channel(asked.channel)
    _check_radii(victim, data, threat)


def _check_purify(victim: Victim, data: Dataset, modality: str, asked: kinds.PurifyKind) -> None:
    """Budgets, target, attacks, and the purifier, which is opened: its weights must be of the victim's clips."""
    assert isinstance(asked.purifier, str)
    spec = victim.spec
    purifier = load_purifier(asked.purifier, sample_rate=spec.sample_rate, samples=spec.clip_samples)
    for eps in asked.eps:
        threat = threat_model(victim, modality, asked.norm, eps, asked.unit)
        attack = Attack(threat.balls, target=api.target_index(victim, asked.target), packing=threat.packing)
        Purification(attack, purifier, suite(asked.norm, asked.attacks))
        _check_radii(victim, data, threat)


def _check_radii(victim: Victim, data: Dataset, threat: ThreatModel) -> None:
    check_radii(threat.balls, aligned_to(victim, data, threat.packing)[1].batch([0]))


def _check_one_modality(victim: Victim, modality: str) -> None:
    own = victim.spec.modalities
    if modality not in own:
        raise VictimError(unknown(f"modality of {victim.spec.name}", modality, own))


CHECKS: Mapping[type[kinds.Condition], Callable[[Victim, Dataset, str, Any], None]] = {
    kinds.AttackKind: _check_attack,
    kinds.AirKind: _check_air,
    kinds.PurifyKind: _check_purify,
}
