"""The guitar, its loudness, and music that jams a toy detector."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from attacks.errors import ThreatModelError
from attacks.jamming import Jamming, draw_meeting, fit_music, heard, windows
from attacks.loudness import k_weighting, loudness_lufs, weighted
from attacks.music import LOUDNESS_LUFS, Music, ValidSet
from attacks.score import Note, Score, tune

RATE = 4000
SHORT = Score((Note(0.0, 4, 0, 0.1), Note(0.1, 5, 3, 0.15), Note(0.25, 6, 1, 0.1)), 0.4, "short")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestLoudness:
    def test_the_sine_of_the_standard(self):
        # BS.1770: 997 Hz at full scale in one channel is -3.01 LUFS.
        times = torch.arange(48_000, dtype=torch.float64) / 48_000
        assert float(loudness_lufs(torch.sin(2 * math.pi * 997 * times), 48_000)) == pytest.approx(-3.01, abs=0.005)

    @pytest.mark.parametrize("rate", [16_000, 48_000])
    def test_agrees_with_pyloudnorm(self, rate):
        pyloudnorm = pytest.importorskip("pyloudnorm")
        noise = 0.1 * torch.randn(4 * rate, generator=generator(), dtype=torch.float64)
        meter = pyloudnorm.Meter(rate, filter_class="DeMan")
        assert float(loudness_lufs(noise, rate)) == pytest.approx(meter.integrated_loudness(noise.numpy()), abs=0.1)

    def test_weighting_a_waveform_is_weighting_its_power(self):
        noise = torch.randn(999, generator=generator(), dtype=torch.float64)
        power = weighted(noise, RATE).square().mean()
        assert float(-0.691 + 10 * power.log10()) == pytest.approx(float(loudness_lufs(noise, RATE)), abs=1e-9)

    def test_silence_has_a_finite_loudness_and_gradient(self):
        silence = torch.zeros(100, requires_grad=True)
        loudness_lufs(silence, RATE).backward()
        assert silence.grad is not None
        assert torch.isfinite(silence.grad).all()

    def test_low_tones_count_less_and_high_ones_more(self):
        gain = 10 * k_weighting(8001, 16_000).clamp_min(1e-9).log10()
        assert gain[20] < -8
        assert abs(gain[1000]) < 1
        assert gain[4000] == pytest.approx(4, abs=0.3)


class TestScore:
    def test_the_tune_is_made_of_its_chords(self):
        score = tune(("Am", "G"), eighth_s=0.2, eighths=3)
        assert score.seconds == pytest.approx(1.2)
        assert len(score.notes) == 5 + 4 + 6 + 4
        assert all(0 <= note.onset_s < score.seconds for note in score.notes)
        assert json.loads(json.dumps(score.describe()))["name"] == "Am-G"

    def test_what_is_no_tune_is_refused(self):
        with pytest.raises(ThreatModelError, match="Did you mean"):
            tune(("Amm",))
        with pytest.raises(ThreatModelError, match="note or more"):
            Score((), 1.0)
        with pytest.raises(ThreatModelError, match="begin within"):
            Score((Note(2.0, 1, 0),), 1.0)
        with pytest.raises(ThreatModelError, match="strings 1 to 6"):
            Score((Note(0.0, 9, 0),), 1.0)


class TestMusic:
    def test_loudness_is_fixed_whatever_the_volume(self):
        music = Music(SHORT, RATE)
        theta = music.plain(generator())
        louder = {**theta, "volume_db": theta["volume_db"] + 5, "excitation": 0.1 * theta["excitation"]}
        for played in (theta, louder):
            sound = music.render(played)
            assert sound.shape == (1600,)
            assert float(loudness_lufs(sound, RATE)) == pytest.approx(LOUDNESS_LUFS, abs=1e-3)
        torch.testing.assert_close(music.render(louder), music.render(theta), rtol=1e-4, atol=1e-6)

    def test_notes_stand_where_the_score_and_their_shift_say(self):
        score = Score((Note(0.1, 1, 0, 0.1),), 0.4)
        music = Music(score, RATE)
        theta = music.plain(generator())
        still = music.unlevelled(theta)
        assert still[:399].abs().max() < 1e-3
        assert still[400:420].abs().max() > 0.1
        assert still[801:].abs().max() < 1e-3  # damped where the note ends
        late = music.unlevelled({**theta, "shift_ms": torch.tensor([10.0])})
        torch.testing.assert_close(late[440:600], still[400:560], rtol=0, atol=1e-3)

    def test_what_rings_on_is_heard_at_the_beginning(self):
        music = Music(Score((Note(0.3, 6, 0, 0.2),), 0.4), RATE)
        sound = music.unlevelled(music.plain(generator()))
        assert sound[:300].abs().max() > 0.05
        assert sound[450:1150].abs().max() < 1e-3

    def test_gradients_are_those_of_finite_differences(self):
        music = Music(Score((Note(0.0, 1, 24, 0.02), Note(0.01, 2, 24, 0.02)), 0.03), 8000)
        theta = {name: value.double() for name, value in music.plain(generator()).items()}
        theta["excitation"] = theta["excitation"][:, :6]
        theta["shift_ms"] += 1.3  # at whole samples the interpolation has one slope to each side
        names = list(theta)
        leaves = [theta[name].requires_grad_() for name in names]
        music.periods = music.periods.clamp_max(6)

        def render(*values):
            return music.render(dict(zip(names, values, strict=True)))

        assert torch.autograd.gradcheck(render, leaves, eps=1e-4, atol=1e-4, rtol=1e-3)

    def test_projection_keeps_it_music(self):
        music = Music(SHORT, RATE)
        wild = {name: torch.full_like(value, 1e3) for name, value in music.plain(generator()).items()}
        assert music.violations(wild) > 0
        tame = music.projected(wild)
        assert music.violations(tame) == 0
        assert float(tame["damping"].max()) == pytest.approx(0.999)
        assert float(tame["shift_ms"].max()) == 25.0
        for row, period in zip(tame["excitation"], (RATE / music.hz).floor().int().tolist(), strict=True):
            assert not row[period:].any()
        again = music.projected(tame)
        assert all(torch.equal(again[name], tame[name]) for name in tame)

    @pytest.mark.parametrize(
        "bounds", [{"damping": (0.9, 1.0)}, {"smoothing": (0.6, 0.5)}, {"shift_ms": 200.0}, {"volume_db": (0.0, 90.0)}]
    )
    def test_bounds_that_are_none_are_refused(self, bounds):
        with pytest.raises(ThreatModelError, match=next(iter(bounds))):
            ValidSet(**bounds)

    def test_notes_too_high_for_the_rate_are_refused(self):
        with pytest.raises(ThreatModelError, match="sample rate"):
            Music(Score((Note(0.0, 1, 24),), 1.0), RATE)

    def test_it_says_what_it_is(self):
        assert json.loads(json.dumps(Music(SHORT, RATE).describe()))["valid"]["shift_ms"] == 25.0


class Echo:
    """A channel that adds an echo of a drawn delay."""

    def draw(self, clips, generators):
        return {"delay": torch.stack([torch.randint(1, 50, (), generator=own) for own in generators])}

    def __call__(self, clips, parameters):
        moved = [torch.roll(clip, int(delay)) for clip, delay in zip(clips, parameters["delay"], strict=True)]
        return clips + 0.5 * torch.stack(moved)


class TestMeeting:
    def test_windows_go_round(self):
        loop = torch.arange(5.0)
        found = windows(loop, torch.tensor([3, -2]), 6)
        assert found.tolist() == [[3, 4, 0, 1, 2, 3], [3, 4, 0, 1, 2, 3]]

    def test_levels_are_as_asked(self):
        clips = torch.zeros(3, 800)
        loop = Music(SHORT, RATE).render(Music(SHORT, RATE).plain(generator()))
        own = [generator(seed) for seed in range(3)]
        meeting = draw_meeting(
            clips, own, loop_samples=len(loop), smr_db=(3.0, 3.0), speech_channel=None, music_channel=None
        )
        lufs = torch.tensor([-23.0, -33.0, -13.0])
        mixture = heard(clips, lufs, loop, meeting, speech_channel=None, music_channel=None)
        for row, (start, loudness) in enumerate(zip(meeting.starts.tolist(), lufs.tolist(), strict=True)):
            gain = 10 ** ((loudness - 3.0 + 23.0) / 20)
            wanted = (gain * loop.roll(-start)[:800]).clamp(-1, 1)
            torch.testing.assert_close(mixture[row], wanted)

    def test_a_clip_meets_the_same_whatever_its_company(self):
        clips = 0.1 * torch.randn(4, 500, generator=generator())
        loop, lufs, echo = 0.1 * torch.randn(700, generator=generator(1)), torch.full((4,), -20.0), Echo()

        def meet(rows):
            own = [generator(100 + row) for row in rows]
            settings = {"speech_channel": echo, "music_channel": Echo()}
            meeting = draw_meeting(clips[rows], own, loop_samples=700, smr_db=(-5.0, 5.0), **settings)
            return heard(clips[rows], lufs[rows], loop, meeting, **settings)

        together = meet([0, 1, 2, 3])
        torch.testing.assert_close(meet([2]), together[2:3])
        alone = draw_meeting(
            clips[:1],
            [generator(100)],
            loop_samples=700,
            smr_db=(0.0, 0.0),
            speech_channel=None,
            music_channel=None,
        )
        silent = heard(clips[:1], lufs[:1], None, alone, speech_channel=None, music_channel=None)
        assert torch.equal(silent, clips[:1])


class Listener(nn.Module):
    """Hears the word in a clip that has power in one band and little in another."""

    def forward(self, inputs):
        spectrum = torch.fft.rfft(inputs["audio"]).abs().square() / inputs["audio"].shape[1]
        word, other = spectrum[:, 20:60].mean(1), spectrum[:, 80:200].mean(1)
        odds = 3 * ((word + 1e-6).log() - (other + 1e-6).log()) - 2
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def spoken(count: int = 12) -> torch.Tensor:
    times = torch.arange(1000) / RATE
    hz = 100 + 100 * torch.rand(count, 1, generator=generator(5))
    return 0.1 * torch.sin(2 * math.pi * hz * times)


class TestFit:
    def test_music_learns_to_hide_the_word(self):
        clips, labels = spoken(), torch.ones(12, dtype=torch.int64)
        lufs = loudness_lufs(clips, RATE)
        music = Music(SHORT, RATE)
        config = Jamming(steps=25, clips_per_step=8, step=0.1, smr_db=(0.0, 0.0), reward_until=50.0)
        played = fit_music(
            Listener(), music, clips, labels, lufs, generator=generator(), config=config,
            speech_channel=Echo(), music_channel=Echo(),
        )  # fmt: skip
        assert music.violations(played.theta) == 0
        assert float(loudness_lufs(played.loop, RATE)) == pytest.approx(LOUDNESS_LUFS, abs=1e-3)
        assert sum(played.trace[-5:]) > sum(played.trace[:5]) + 2
        assert played.forwards == played.backwards == 200

    def test_the_same_generator_plays_the_same(self):
        clips, labels = spoken(4), torch.ones(4, dtype=torch.int64)
        config = Jamming(steps=2, clips_per_step=2, draws=2)
        state = torch.random.get_rng_state()
        first, second = (
            fit_music(
                Listener(), Music(SHORT, RATE), clips, labels, torch.full((4,), -20.0), generator=generator(3),
                config=config,
            )
            for _ in range(2)
        )  # fmt: skip
        assert torch.equal(first.loop, second.loop)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_a_penalty_alone_is_minimised(self):
        # A listener without an opinion leaves the penalty alone to be heard: high frequencies fall.
        def brightness(loop):
            power = torch.fft.rfft(loop).abs().square()
            return 10 * (power[200:].sum() / power.sum()).log10()

        class Deaf(nn.Module):
            def forward(self, inputs):
                return torch.zeros(len(inputs["audio"]), 2) + 0 * inputs["audio"].sum()

        music = Music(SHORT, RATE)
        before = brightness(music.render(music.plain(generator())))
        played = fit_music(
            Deaf(), music, spoken(2), torch.ones(2, dtype=torch.int64), torch.full((2,), -20.0),
            generator=generator(), config=Jamming(steps=10, clips_per_step=2, step=0.1), penalty=brightness,
        )  # fmt: skip
        assert brightness(played.loop) < before - 1

    def test_nothing_to_hide_is_refused(self):
        with pytest.raises(ThreatModelError, match="there are none"):
            fit_music(
                Listener(), Music(SHORT, RATE), torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64), torch.zeros(0),
                generator=generator(),
            )  # fmt: skip

    @pytest.mark.parametrize(
        "settings", [{"steps": 0}, {"step": 0.0}, {"smr_db": (5.0, 0.0)}, {"smr_db": (0.0, math.nan)}]
    )
    def test_settings_that_cannot_be_are_refused(self, settings):
        with pytest.raises(ThreatModelError, match=next(iter(settings))):
            dataclasses.replace(Jamming(), **settings)
