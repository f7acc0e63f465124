"""Every corruption: harder at every severity, the same for the same seed, deaf to its neighbours."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from attacks.errors import ThreatModelError
from robust.corruptions import CATEGORIES, CORRUPTIONS, SEVERITIES, Corruption, find_corruption, suited
from robust.corruptions.augmenting import augmentation_corruption, global_randomness, waveform_transforms
from robust.corruptions.base import on_clips, register_corruption
from robust.corruptions.naming import checked_severities, chosen_corruptions
from robust.corruptions.noises import SNR_DB
from tests.robust.corruption_clips import clips, everywhere, rendered

EVERY = list(CORRUPTIONS)
AUDIO = [name for name, one in CORRUPTIONS.items() if one.modality == "audio"]
ADDED = [name for name, one in CORRUPTIONS.items() if one.values == SNR_DB]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def global_states() -> tuple[object, ...]:
    """Of every generator that is nobody's own."""
    numpy = np.random.get_state()  # noqa: NPY002
    return (
        random.getstate(),
        *(value.tobytes() if isinstance(value, np.ndarray) else value for value in numpy),
        (torch.get_rng_state().numpy().tobytes()),
    )


def harder(corruption: Corruption, column: str, sample_rate: int, count: int) -> np.ndarray:
    """(steps, clips) by how much each severity is harder than the one before."""
    inputs = clips(count, sample_rate)
    found = [rendered(corruption, one, inputs, sample_rate=sample_rate).columns[column] for one in SEVERITIES]
    return np.diff(found, axis=0)


class TestSeverity:
    @pytest.mark.parametrize("name", EVERY)
    def test_every_severity_is_harder_than_the_one_before_for_every_clip(self, name):
        corruption = CORRUPTIONS[name]
        steps = harder(corruption, "realised", 16_000, 3) * (1 if corruption.measure.harder == "up" else -1)
        if name == "packet-loss":  # packets are lost by chance: of few, a little more may be as many
            assert steps.min() >= 0
            assert steps.mean(axis=1).min() > 0.005
        else:
            assert steps.min() > 1e-3

    @pytest.mark.parametrize("name", [name for name, one in CORRUPTIONS.items() if one.category == "audio-visual"])
    def test_both_senses_are_hit_harder_with_severity(self, name):
        for column in ("snr_db", "psnr_db"):
            assert harder(CORRUPTIONS[name], column, 16_000, 3).max() < -0.05

    @pytest.mark.parametrize("name", ["low-pass", "resample", "loudspeaker", "opus", "pitch"])
    @pytest.mark.parametrize("sample_rate", [8_000, 32_000])
    def test_at_other_rates_too(self, name, sample_rate):
        corruption = CORRUPTIONS[name]
        steps = harder(corruption, "realised", sample_rate, 2) * (1 if corruption.measure.harder == "up" else -1)
        assert steps.min() > 1e-3

    @pytest.mark.parametrize("name", ADDED)
    def test_added_noise_has_the_snr_it_says_and_severity_5_is_the_hardest(self, name):
        inputs = clips(3)
        for severity, snr_db in zip(SEVERITIES, SNR_DB, strict=True):
            found = rendered(CORRUPTIONS[name], severity, inputs)
            np.testing.assert_allclose(found.columns["snr_db"], snr_db, atol=0.05)

    @pytest.mark.parametrize("name", ["dropouts", "gap", "edges"])
    def test_as_much_is_muted_as_is_said(self, name):
        corruption, inputs = CORRUPTIONS[name], clips(3)
        for severity in SEVERITIES:
            heard = rendered(corruption, severity, inputs).inputs(inputs)["audio"]
            silent = ((heard == 0) & (inputs["audio"] != 0)).double().mean(dim=1)
            np.testing.assert_allclose(silent, corruption.value(severity), atol=2e-3)  # and what is rounded to 0

    @pytest.mark.parametrize("name", ["white", "dropouts", "gap", "video-drop", "av-interference"])
    def test_one_draw_at_all_severities(self, name):
        inputs = clips(2)
        own = {key: inputs[key] for key in CORRUPTIONS[name].modalities}
        weak, strong = (rendered(CORRUPTIONS[name], one, own).inputs(own) for one in (2, 4))
        for key in own:
            moved = [(heard[key] - own[key]).flatten(1) for heard in (weak, strong)]
            if name == "white":
                alike = torch.nn.functional.cosine_similarity(*moved)
                assert alike.min() > 0.999
            else:  # what is hit at one severity is hit at the next
                assert not ((moved[0].abs() > 0.01) & (moved[1].abs() < 0.001)).any()


class TestDraws:
    @pytest.mark.parametrize("name", EVERY)
    def test_a_clip_depends_on_its_id_and_the_seed_alone(self, name):
        corruption, inputs = CORRUPTIONS[name], clips(3)
        together = rendered(corruption, 3, inputs)
        again = rendered(corruption, 3, inputs)
        alone = rendered(corruption, 3, {key: value[2:] for key, value in inputs.items()}, first=2)
        for key, value in together.arrays.items():
            np.testing.assert_array_equal(value, again.arrays[key])
            np.testing.assert_array_equal(value[2:], alone.arrays[key])

    @pytest.mark.parametrize("name", ["white", "babble", "room-small", "dropouts", "av-rain", "video-noise"])
    def test_other_seeds_and_other_clips_are_other_draws(self, name):
        corruption = CORRUPTIONS[name]
        inputs = {key: value[:1].expand(2, *value.shape[1:]).clone() for key, value in clips(1).items()}
        heard, other = rendered(corruption, 5, inputs), rendered(corruption, 5, inputs, seed=1)
        for key, value in heard.arrays.items():
            if value.ndim > 1:
                assert (value[0] != value[1]).any()
                assert (value != other.arrays[key]).any()

    @pytest.mark.parametrize("name", ["white", "pitch", "stretch", "video-noise", "room-large"])
    def test_nothing_global_changes(self, name):
        before = global_states()
        rendered(CORRUPTIONS[name], 3, clips(2))
        assert global_states() == before

    def test_global_states_come_back_after_an_error(self):
        before = global_states()
        with contextlib.suppress(ZeroDivisionError), global_randomness(7):
            assert global_states() != before
            raise ZeroDivisionError
        assert global_states() == before

    def test_inputs_are_not_touched(self):
        inputs = clips(2)
        kept = {key: value.clone() for key, value in inputs.items()}
        for corruption in CORRUPTIONS.values():
            rendered(corruption, 5, inputs)
        assert all(torch.equal(kept[key], inputs[key]) for key in kept)


class TestHardClips:
    @pytest.mark.parametrize("name", AUDIO)
    def test_padding_stays_and_nothing_leaks_from_it(self, name):
        inputs = {"audio": clips(2)["audio"]}
        valid = everywhere(inputs)
        valid["audio"][:, 12_000:] = False
        inputs["audio"][:, 12_000:] = 0.0
        loud = {"audio": torch.where(valid["audio"], inputs["audio"], 0.5)}
        quiet, noisy = (rendered(CORRUPTIONS[name], 5, one, valid=valid).inputs(one) for one in (inputs, loud))
        assert torch.equal(quiet["audio"][:, 12_000:], inputs["audio"][:, 12_000:])
        assert torch.allclose(quiet["audio"][:, :12_000], noisy["audio"][:, :12_000], atol=2e-4)

    @pytest.mark.parametrize("name", AUDIO)
    def test_silence_is_counted_and_gives_no_nan(self, name):
        inputs = {"audio": torch.cat([torch.zeros(1, 16_000), clips(1)["audio"]])}
        found = rendered(CORRUPTIONS[name], 5, inputs)
        heard = found.inputs(inputs)["audio"]
        assert torch.isfinite(heard).all()
        assert found.columns["silent"].tolist() == [True, False]
        assert np.isnan(found.columns["snr_db"][0])
        if name == "opus":  # the decoder dithers
            assert heard[0].abs().max() < 1e-3
        elif name != "dc-offset":
            assert torch.equal(heard[0], inputs["audio"][0])

    def test_a_quiet_clip_between_the_steps_of_16_bits_is_left_as_it_is(self):
        inputs = {"audio": torch.full((1, 4000), 1.1e-5)}
        assert torch.equal(rendered(CORRUPTIONS["white"], 5, inputs).inputs(inputs)["audio"], inputs["audio"])

    def test_what_goes_beyond_the_range_is_kept_and_told(self):
        inputs = {"audio": clips(2)["audio"]}
        inputs["audio"] /= inputs["audio"].abs().amax(dim=1, keepdim=True)
        found = rendered(CORRUPTIONS["white"], 5, inputs)
        beyond = (found.inputs(inputs)["audio"].abs() > 1).double().mean(dim=1)
        assert beyond.min() > 0
        np.testing.assert_allclose(found.columns["over_range"], beyond)
        np.testing.assert_allclose(found.columns["snr_db"], -5, atol=0.01)


class TestNames:
    def test_there_are_enough_in_every_category(self):
        assert len(AUDIO) >= 24
        assert {one.category for one in CORRUPTIONS.values()} == set(CATEGORIES)
        assert all(len(one.values) == 5 and one.summary and one.parameter for one in CORRUPTIONS.values())
        assert len(suited(["audio"])) == len(AUDIO)
        assert {one.modality for one in suited(["video"])} == {"video"}
        assert suited(["logmel"]) == []

    def test_the_same_name_twice_and_values_too_few_are_programming_errors(self):
        white = CORRUPTIONS["white"]
        with pytest.raises(ValueError, match="taken"):
            register_corruption(white)
        with pytest.raises(ValueError, match="five values"):
            register_corruption(Corruption("new", "noise", "audio", "x", (1.0,), white.make))

    def test_names_categories_and_all_are_understood(self):
        names = [one.name for one in chosen_corruptions(["white, room", "white,mp3"], ["audio"])]
        assert names == ["white", "room-small", "room-large", "echo", "mp3"]
        assert len(chosen_corruptions("all", ["audio", "video"])) == len(CORRUPTIONS)
        assert checked_severities([3, 1, 3]) == (1, 3)

    @pytest.mark.parametrize(
        ("given", "modalities", "match"),
        [
            ("whit", ["audio"], "Did you mean 'white'"),
            ("", ["audio"], "No corruption is given"),
            ("video-blur", ["audio"], "damages video; the victim takes audio"),
            ("av-rain", ["video"], "audio and video; the victim takes video"),
            ("video", ["audio"], "No corruption of 'video'"),
            ("all", ["logmel"], "No corruption of 'all'"),
            ("audiomentations:PitchShft", ["audio"], "Did you mean 'PitchShift'"),
            ("audiomentations:Lambda", ["audio"], "wraps a function"),
            ("audiomentations:Gain,min_gain=3", ["audio"], "Did you mean 'min_gain_db'"),
            ("audiomentations:Gain,min_gain_db=30,max_gain_db=3", ["audio"], "does not run|cannot be made"),
            ("audiomentations:ApplyImpulseResponse", ["audio"], "needs ir_path"),
            ("audiomentations:AddBackgroundNoise,sounds_path=nowhere", ["audio"], "cannot be made|does not run"),
            ("audiomentations:TimeStretch,min_rate=0.01", ["audio"], "min_rate must be"),
        ],
    )
    def test_what_cannot_be_is_told(self, given, modalities, match):
        with pytest.raises(ThreatModelError, match=match):
            chosen_corruptions(given, modalities)

    def test_severities_and_rates_that_cannot_be(self):
        for wrong in ([0], [6], [], [True], [2.5], [1.0]):
            with pytest.raises(ThreatModelError, match="1 to 5"):
                checked_severities(wrong)
        with pytest.raises(ThreatModelError, match="severities 1, 2, 3, 4, 5"):
            find_corruption("white").transform(0, 16_000)
        with pytest.raises(ThreatModelError, match="8000 Hz or more"):
            find_corruption("white").transform(1, 4_000)


class TestAudiomentations:
    def test_every_waveform_transform_that_needs_no_file_runs_or_says_why(self):
        ran = []
        for name in waveform_transforms():
            with contextlib.suppress(ThreatModelError):
                assert augmentation_corruption(name, {}).severities == (0,)
                ran.append(name)
        assert len(ran) >= 25
        assert {"PitchShift", "TimeStretch", "GainTransition", "AirAbsorption", "SevenBandParametricEQ"} <= set(ran)

    def test_parameters_arrive_and_lengths_stay(self):
        (gain,) = chosen_corruptions("audiomentations:Gain,min_gain_db=-6,max_gain_db=-6", ["audio"])
        inputs = {"audio": clips(2)["audio"]}
        heard = rendered(gain, 0, inputs).inputs(inputs)["audio"]
        assert torch.allclose(heard, inputs["audio"] * 10 ** (-6 / 20), atol=1e-4)
        (longer,) = chosen_corruptions("audiomentations:AdjustDuration,duration_seconds=1.5", ["audio"])
        assert rendered(longer, 0, inputs).inputs(inputs)["audio"].shape == inputs["audio"].shape

    def test_draws_are_the_clips_own(self):
        (noise,) = chosen_corruptions("audiomentations:AddGaussianSNR", ["audio"])
        inputs = {"audio": clips(1)["audio"].expand(2, -1).clone()}
        random.seed(1)
        heard = rendered(noise, 0, inputs).arrays["audio"]
        random.seed(2)
        np.testing.assert_array_equal(heard, rendered(noise, 0, inputs).arrays["audio"])
        assert (heard[0] != heard[1]).any()

    def test_rooms_of_pyroomacoustics_are_the_clips_own_too(self):
        (room,) = chosen_corruptions("audiomentations:RoomSimulator,use_ray_tracing=true", ["audio"])
        inputs = {"audio": clips(1)["audio"]}
        heard = [rendered(room, 0, inputs).arrays["audio"] for _ in range(2)]
        np.testing.assert_array_equal(*heard)


class TestOddClips:
    @pytest.mark.parametrize("name", [name for name in EVERY if name not in ("room-large", "room-small")])
    def test_clips_of_which_hardly_anything_is_real(self, name):
        """Of nothing at all nothing is measured, and what is no clip stays as it is."""
        corruption = CORRUPTIONS[name]
        inputs = {"audio": torch.zeros(3, 1600), "video": torch.zeros(3, 8, 3, 16, 16)}
        valid = {key: torch.zeros_like(value, dtype=torch.bool) for key, value in inputs.items()}
        generator = torch.Generator().manual_seed(0)
        for row, (samples, frames) in enumerate(((0, 0), (2, 1), (37, 2))):
            inputs["audio"][row, 100 : 100 + samples] = 0.1 * torch.randn(samples, generator=generator)
            inputs["video"][row, 3 : 3 + frames] = torch.rand(frames, 3, 16, 16, generator=generator)
            valid["audio"][row, 100 : 100 + samples] = True
            valid["video"][row, 3 : 3 + frames] = True
        for severity in (1, 5):
            found = rendered(corruption, severity, inputs, valid=valid)
            for key, value in found.inputs(inputs).items():
                assert value.isfinite().all()
                assert torch.equal(value[~valid[key]], inputs[key][~valid[key]])
            assert np.isnan(found.columns["realised"][0])

    @pytest.mark.parametrize("name", ["video-drop", "video-freeze"])
    def test_frames_that_are_hit_are_frames_that_are_there(self, name):
        inputs = {"video": clips(12)["video"]}
        valid = everywhere(inputs)
        valid["video"][:, 4:] = False
        inputs["video"][:, 4:] = 0.0
        found = rendered(CORRUPTIONS[name], 4, inputs, valid=valid)
        assert found.columns["realised"] == pytest.approx(np.full(12, 0.5))
        assert found.columns["psnr_db"].max() < np.inf

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused_and_not_taken_for_the_clip_as_it_was(self, wrong):
        def make(value, sample_rate):
            return on_clips(lambda clip, generator: np.full_like(clip, wrong))

        broken = Corruption("broken", "device", "audio", "gain", (1.0, 2.0, 3.0, 4.0, 5.0), make)
        with pytest.raises(ThreatModelError, match="'broken' makes audio of the clip 'clip-0' NaN or infinite"):
            rendered(broken, 1, {"audio": clips(2)["audio"]})
