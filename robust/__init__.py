"""How far can you trust your audio or audio-visual event classifier?

    import robust

    victim = robust.load_victim("ast")
    data = robust.load_data("events", split="test", limit=200)
    result = robust.attack(victim, data, norm="linf", eps=0.002, steps=40)
    print(result.robust)

Names are imported when first used, so that `robust --help` need not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.pgd import PGD as PGD
    from attacks.threat import Ball as Ball
    from robust.api import AttackRun as AttackRun
    from robust.api import attack as attack
    from robust.certification import CertifyRun as CertifyRun
    from robust.certification import certify as certify
    from robust.change import Evaluation as Evaluation
    from robust.change import evaluate as evaluate
    from robust.change import missing as missing
    from robust.change import swap as swap
    from robust.corruption_run import NoiseRun as NoiseRun
    from robust.corruption_run import noise as noise
    from robust.curve_levels import geomspace as geomspace
    from robust.curves import curve as curve
    from robust.data import load_data as load_data
    from robust.diffusion_models import load_diffusion as load_diffusion
    from robust.diffusion_training import train_diffusion as train_diffusion
    from robust.errors import RobustError as RobustError
    from robust.evaluation.curve_summary import Curve as Curve
    from robust.evaluation.paired import compare as compare
    from robust.evaluation.thresholds import thresholds as thresholds
    from robust.generation import generate as generate
    from robust.jamming import JamRun as JamRun
    from robust.jamming import jam as jam
    from robust.model_geometry import Geometry as Geometry
    from robust.model_geometry import GeometrySettings as GeometrySettings
    from robust.model_geometry import geometry as geometry
    from robust.over_the_air import AirRun as AirRun
    from robust.over_the_air import air as air
    from robust.pretraining import pretrain as pretrain
    from robust.purified_attack import PurifiedRun as PurifiedRun
    from robust.purified_attack import attack_purified as attack_purified
    from robust.purified_curve import purified_curve as purified_curve
    from robust.purifier_choice import choose_steps as choose_steps
    from robust.purifiers import load_purifier as load_purifier
    from robust.stickers import StickerRun as StickerRun
    from robust.stickers import sticker as sticker
    from robust.training import train as train
    from robust.training_defense import TrainingDefense as TrainingDefense
    from robust.types import Batch as Batch
    from robust.types import Clip as Clip
    from robust.types import Dataset as Dataset
    from robust.types import VictimSpec as VictimSpec
    from robust.universals import universal as universal
    from robust.victims import Victim as Victim
    from robust.victims import list_victims as list_victims
    from robust.victims import load_victim as load_victim
    from robust.victims import register as register
    from robust.victims.purified import purified as purified

_HOMES = {
    "choose_steps": "robust.purifier_choice",
    "attack_purified": "robust.purified_attack",
    "PurifiedRun": "robust.purified_attack",
    "purified_curve": "robust.purified_curve",
    "purified": "robust.victims.purified",
    "load_purifier": "robust.purifiers",
    "certify": "robust.certification",
    "CertifyRun": "robust.certification",
    "generate": "robust.generation",
    "geometry": "robust.model_geometry",
    "Geometry": "robust.model_geometry",
    "GeometrySettings": "robust.model_geometry",
    "TrainingDefense": "robust.training_defense",
    "train_diffusion": "robust.diffusion_training",
    "load_diffusion": "robust.diffusion_models",
    "PGD": "attacks.pgd",
    "Ball": "attacks.threat",
    "AttackRun": "robust.api",
    "attack": "robust.api",
    "JamRun": "robust.jamming",
    "NoiseRun": "robust.corruption_run",
    "StickerRun": "robust.stickers",
    "sticker": "robust.stickers",
    "jam": "robust.jamming",
    "noise": "robust.corruption_run",
    "AirRun": "robust.over_the_air",
    "air": "robust.over_the_air",
    "Evaluation": "robust.change",
    "evaluate": "robust.change",
    "missing": "robust.change",
    "swap": "robust.change",
    "Curve": "robust.evaluation.curve_summary",
    "curve": "robust.curves",
    "geomspace": "robust.curve_levels",
    "load_data": "robust.data",
    "RobustError": "robust.errors",
    "compare": "robust.evaluation.paired",
    "thresholds": "robust.evaluation.thresholds",
    "train": "robust.training",
    "pretrain": "robust.pretraining",
    "Batch": "robust.types",
    "Clip": "robust.types",
    "Dataset": "robust.types",
    "VictimSpec": "robust.types",
    "universal": "robust.universals",
    "Victim": "robust.victims",
    "list_victims": "robust.victims",
    "load_victim": "robust.victims",
    "register": "robust.victims",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robust' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
