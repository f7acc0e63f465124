"""From files to a trained and attacked audio-visual victim, through the calls a user makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import robust
from robust.data import load_data
from robust.training import default_recipe, with_limits
from robust.victims import load_victim
from tests.robust.test_audioset import features_root as features_root  # fixtures of real-format trees
from tests.robust.test_video_sets import vggsound as vggsound

SMALL = {"embedding": 64, "transformer_layers": 1}
ONE_STEP = {"epochs": 1, "max_steps": 1}


@pytest.mark.filterwarnings("ignore")
def test_videos_are_trained_on_and_attacked(vggsound: Path, tmp_path: Path) -> None:
    config = {**SMALL, "video_width": 4, "clip_seconds": 0.4}
    recipe = with_limits(default_recipe("av-mid"), **ONE_STEP)
    done = robust.train(
        "av-mid", "vggsound", root=vggsound, out=tmp_path / "v", recipe=recipe, config=config, batch_size=4
    )
    victim = load_victim("av-mid", weights=done.path)
    data = load_data("vggsound", root=vggsound)
    run = robust.attack(victim, data, modality="both", steps=2, checks=False, out=tmp_path / "run")
    assert run.summary["clips"] == 4
    assert run.summary["audit"]["violations"] == 0
    assert done.card["data"]["name"] == "vggsound"


@pytest.mark.filterwarnings("ignore")
def test_features_are_trained_on_and_attacked(features_root: Path, tmp_path: Path) -> None:
    features = {"hears": "logmel", "hop_length": 400, "clip_seconds": 10.0}
    sight = {"sees": "features", "video_frames": 10, "video_size": 2048}
    recipe = with_limits(default_recipe("av-late"), **ONE_STEP)
    done = robust.train(
        "av-late",
        "audioset-features",
        root=features_root,
        out=tmp_path / "v",
        recipe=recipe,
        config={**SMALL, **features, **sight},
        batch_size=2,
        normalise="10log10",
    )
    victim = load_victim("av-late", weights=done.path)
    assert victim.spec.task == "multilabel"
    assert victim.spec.shape("logmel") == (400, 64)
    data = load_data("audioset-features", root=features_root, normalise="10log10")
    run = robust.attack(victim, data, modality="both", steps=2, checks=False)
    assert run.summary["clean"]["metric"] == "mAP"
    assert run.summary["audit"]["violations"] == 0
    assert np.isfinite(run.records["l2_video_features"]).all()
