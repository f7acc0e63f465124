"""The audio-visual family: six victims that differ in where sound and sight meet, and in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.gradients import Oracle
from attacks.losses import Goal, margin
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from robust.errors import VictimError
from robust.victims import Victim, build_victim
from robust.victims.fusion import MEETINGS, Fusion
from robust.victims.probe import check_gradients
from robust.victims.trunk import ConvTrunk

LABELS = tuple("abcd")
TOGETHER = ("early", "mid", "late", "decision")
TINY = {"embedding": 96, "heads": 4, "video_width": 4}


def tiny(meeting: str, **config: object) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_victim(f"av-{meeting}", labels=LABELS, **{**TINY, **config}).eval()


def clips(count: int = 3, seconds: float = 1.0, frames: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": 0.2 * (2 * torch.rand(count, round(16_000 * seconds), generator=generator) - 1),
        "video": torch.rand(count, frames, 3, 32, 32, generator=generator),
    }


def shapes_of(victim: Victim, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in victim.state_dict().items() if name.startswith(prefix)}


@pytest.mark.parametrize("meeting", MEETINGS)
class TestEveryMeeting:
    def test_clips_of_any_length(self, meeting):
        victim = tiny(meeting)
        for seconds, frames in ((0.3, 3), (1.7, 11)):
            logits = victim(clips(2, seconds, frames))
            assert logits.shape == (2, 4)
            assert bool(logits.isfinite().all())

    def test_results_do_not_depend_on_the_batch(self, meeting):
        """To the bit, as every attack asks it (in lanes of eight)."""
        victim, inputs = tiny(meeting), clips(11)
        rows = torch.arange(11)
        goal = Goal(torch.zeros(11, dtype=torch.int64))
        whole = Oracle(victim, 11, torch.device("cpu")).gradients(inputs, goal, margin, rows)
        few = torch.tensor([9, 2, 4])
        part = {name: value[few] for name, value in inputs.items()}
        alone = Oracle(victim, 11, torch.device("cpu")).gradients(part, goal.select(few), margin, few)
        assert torch.equal(whole[0][few], alone[0])
        assert all(torch.equal(whole[2][name][few], alone[2][name]) for name in inputs)

    def test_attack_lowers_the_margin_within_both_budgets(self, meeting):
        victim, inputs = tiny(meeting), clips(8)
        inputs = {name: inputs[name] for name in victim.spec.modalities}
        goal = Goal(victim(inputs).argmax(dim=1))
        threat = {name: Ball("linf", 0.01, low=victim.spec.bounds[name][0]) for name in inputs}
        found = pgd(victim, inputs, goal, threat, config=PGD(steps=20, stop_when_broken=False))
        assert bool((found.loss > margin(victim(inputs), goal) + 1e-3).all())
        for name, ball in threat.items():
            assert not bool(ball.around(inputs[name]).audit(found.inputs[name]).violated.any())

    def test_all_five_poolings(self, meeting):
        for pooling in ("max", "average", "linear", "exponential", "attention"):
            check_gradients(victim := tiny(meeting, pooling=pooling), victim.spec)


@pytest.mark.parametrize("meeting", TOGETHER)
def test_a_missing_modality_is_silence_or_black(meeting):
    victim, inputs = tiny(meeting), clips()
    for name in inputs:
        rest = {other: value for other, value in inputs.items() if other != name}
        blank = {**rest, name: torch.zeros_like(inputs[name])}
        torch.testing.assert_close(victim(rest), victim(blank), rtol=0, atol=0)
    with pytest.raises(VictimError, match="audio and video"):
        victim({})


def test_only_the_meeting_point_differs():
    victims = {meeting: tiny(meeting) for meeting in MEETINGS}
    hearing = [shapes_of(victims[meeting], "trunk") for meeting in ("audio", "mid", "late", "decision")]
    seeing = [shapes_of(victims[meeting], "sight") for meeting in ("video", "mid", "late", "decision")]
    heads = [shapes_of(victims[meeting], "frame_head") for meeting in MEETINGS]
    for same in (hearing, seeing, heads):
        assert same[0]
        assert all(other == same[0] for other in same)
    assert len({frozenset(victim.state_dict()) for victim in victims.values()}) == 6


def test_early_fusion_lays_the_sound_over_the_frames_of_its_time():
    victim = tiny("early")
    assert isinstance(victim, Fusion)
    inputs = clips(1)
    before = victim._channels(inputs)
    assert before.shape == (1, 8, 5, 32, 32)
    torch.testing.assert_close(before[:, :, :3], (inputs["video"] - 0.5) / 0.25)
    features = victim.hearing.features(inputs["audio"])[0]  # (64 frames, 64 bands)
    # Frame 5 hears spectrogram frames 40 to 47; bands of one parity, a row each; every step four columns wide.
    for parity in (0, 1):
        torch.testing.assert_close(before[0, 5, 3 + parity], features[40:48, parity::2].T.repeat_interleave(4, dim=1))


def test_early_fusion_keeps_sound_in_its_place_in_time():
    victim, inputs = tiny("early"), clips(1)
    assert isinstance(victim, Fusion)
    before = victim._channels(inputs)
    inputs["audio"][0, 8000:9000] += 0.1  # from 0.5 s on: spectrogram frames 31 to 37 with the window's reach
    changed = (victim._channels(inputs) != before)[0].flatten(2).any(dim=2).nonzero()
    assert set(changed[:, 1].tolist()) == {3, 4}
    assert set(changed[:, 0].tolist()) == {3, 4}


def test_decision_fusion_weighs_both_answers():
    victim = tiny("decision")
    inputs = clips()
    with torch.no_grad():
        fused = victim.embed(inputs)["fused"]
        heard, seen = (
            part.sigmoid() for part in (victim.frame_head(fused[..., :96]), victim.video_head(fused[..., 96:]))
        )
        torch.testing.assert_close(victim(inputs).sigmoid(), 0.6 * heard + 0.4 * seen)
        victim.weight[1] = 40.0
        torch.testing.assert_close(victim(inputs).sigmoid()[:, 1], heard[:, 1])


def test_log_mel_features_as_an_input():
    """The same network on the features it computes itself gives the same logits."""
    victim, features = tiny("mid"), tiny("mid", hears="logmel")
    features.load_state_dict(victim.state_dict())
    inputs = clips()
    given = {"logmel": victim.hearing.features(inputs["audio"]), "video": inputs["video"]}
    assert features.spec.shape("logmel") == given["logmel"].shape[1:]
    torch.testing.assert_close(features(given), victim(inputs))


def test_video_features_as_an_input():
    victim = tiny("late", sees="features", video_frames=10, video_size=48)
    assert victim.spec.shapes["video_features"] == (10, 48)
    logits = victim({"audio": clips()["audio"], "video_features": torch.rand(3, 10, 48)})
    assert logits.shape == (3, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sees": "frame"}, "frames"),
        ({"hears": "mel"}, "logmel"),
        ({"video_size": 30}, "multiple of 8"),
        ({"conv_layers": 7}, "multiple of pools"),
        ({"heads": 5}, "heads"),
        ({"pooling": "atention"}, "attention"),
    ],
)
def test_what_cannot_be_built_is_refused(config, message):
    with pytest.raises(VictimError, match=message):
        tiny("mid", **config)
    with pytest.raises(VictimError, match="Early fusion"):
        tiny("early", sees="features")


def test_clips_too_short_for_the_pools_are_refused():
    with pytest.raises(VictimError, match="too short"):
        ConvTrunk(32, 5, 5)(torch.zeros(1, 1, 3, 64))


def test_a_checkpoint_does_not_ask_for_the_file_its_weights_came_from():
    assert tiny("mid", video_weights="elsewhere.pth").config["video_weights"] is None
