"""Missing and swapped modalities, and who decides when they contradict each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.errors import ThreatModelError
from robust.errors import DataError, StoreError
from robust.evaluation.condition_summary import condition_summary
from robust.evaluation.conditions import Condition
from robust.evaluation.deletions import Missing, Swap, mean_input, silence
from robust.evaluation.dominance import dominance
from robust.evaluation.engine import AlignedData, evaluate
from robust.evaluation.store import Store
from robust.types import Batch, Clip, Dataset, VictimSpec
from robust.victims import Victim
from tests.robust.av_toys import LABELS, PICTURE, SAMPLES, SIGHT, SOUND, AVData, clips, linear


def run(
    folder: Path, victim: Victim, data: Dataset, condition: Condition, batch_size: int = 8, seed: int = 0
) -> pd.DataFrame:
    store = Store.open(folder, {**condition.describe(), "seed": seed})
    evaluate(victim, AlignedData(data, victim.spec), condition, store, batch_size=batch_size, seed=seed)
    return store.records()


def one_batch(data: Dataset, victim: Victim) -> Batch:
    return AlignedData(data, victim.spec).batch(range(len(data)))


def both() -> Victim:
    return linear(SOUND, SIGHT)


@pytest.mark.parametrize("fill", ["zeros", "silence"])
def test_a_missing_modality_leaves_what_the_other_says(tmp_path: Path, fill: str) -> None:
    data = clips(12, noise=0.1)
    records = run(tmp_path, both(), data, Missing("audio", fill))
    batch = one_batch(data, both())
    expected = linear(sight=SIGHT)({"video": batch.inputs["video"]})
    np.testing.assert_allclose(np.stack(records["logits"]), expected.detach(), atol=1e-5)
    assert (records["missing"] == "audio").all()
    told = condition_summary(records, "multiclass", {"condition": "missing"})
    assert told["clean"]["score"] == 1.0


def test_black_video_carries_nothing_of_the_clip() -> None:
    batch = one_batch(clips(6), both())
    for fill in ("zeros", "silence"):
        outcome = Missing("video", fill).apply(both(), batch, torch.zeros(6, 3), 0)
        assert (outcome.inputs["video"] == 0).all()
        assert outcome.inputs["audio"] is batch.inputs["audio"]


def test_silent_features_are_the_clips_own_minimum_and_padding_does_not_count() -> None:
    value = torch.tensor([[[-3.0, 2.0], [1.0, 0.0], [-9.0, -9.0]], [[5.0, 4.0], [6.0, 7.0], [4.5, 8.0]]])
    valid = torch.tensor([[[True], [True], [False]], [[True], [True], [True]]])
    assert silence("logmel", value, valid).flatten().tolist() == [-3.0, 4.0]
    assert silence("logmel", value).flatten().tolist() == [-9.0, 4.0]
    assert silence("audio", value).flatten().tolist() == [0.0, 0.0]
    assert silence("logmel", value, torch.zeros_like(valid)).flatten().tolist() == [-9.0, 4.0]
    batch = Batch(("a", "b"), {"logmel": value}, torch.tensor([0, 1]), {"logmel": valid})
    filled = Missing("logmel", "silence").apply(both(), batch, torch.zeros(2, 3), 0).inputs["logmel"]
    assert filled[0].unique().tolist() == [-3.0]
    assert filled.shape == value.shape


def test_mean_input() -> None:
    data, victim = clips(10), both()
    aligned = AlignedData(data, victim.spec)
    mean = mean_input(aligned, "video")
    torch.testing.assert_close(mean, data.video.mean(dim=0))
    assert mean.dtype == torch.float32
    some = mean_input(aligned, "audio", limit=3)
    torch.testing.assert_close(some, data.audio[[0, 3, 6]].mean(dim=0))  # spread over the data, not its head
    torch.testing.assert_close(mean_input(aligned, "audio", limit=99), data.audio.mean(dim=0))
    outcome = Missing("video", "mean", mean).apply(victim, one_batch(data, victim), torch.zeros(10, 3), 0)
    assert (outcome.inputs["video"] == mean).all()


def test_mean_input_leaves_padding_out() -> None:
    class Padded(AVData):
        def clip(self, index: int, spec: VictimSpec) -> Clip:
            clip = super().clip(index, spec)
            real = torch.arange(SAMPLES) < 10 * (index + 1)
            return Clip(clip.id, {"audio": clip.inputs["audio"] * real}, clip.label, {"audio": real})

    source = clips(3)
    data = Padded(torch.ones(3, SAMPLES) * torch.tensor([[0.1], [0.2], [0.6]]), source.video, source.target)
    mean = mean_input(AlignedData(data, linear(SOUND).spec), "audio")
    expected = torch.tensor([0.3] * 10 + [0.4] * 10 + [0.6] * 10 + [0.0] * 10)
    torch.testing.assert_close(mean, expected)


def test_bad_fills_and_modalities_are_refused() -> None:
    batch = one_batch(clips(3), both())
    with pytest.raises(ThreatModelError, match="Did you mean 'silence'"):
        Missing("audio", "silent")
    with pytest.raises(ThreatModelError, match="needs a mean input"):
        Missing("audio", "mean")
    with pytest.raises(ThreatModelError, match="no other fill"):
        Missing("audio", "zeros", torch.zeros(SAMPLES))
    with pytest.raises(ThreatModelError, match="Did you mean 'video'"):
        Missing("vidoe").apply(both(), batch, torch.zeros(3, 3), 0)
    with pytest.raises(ThreatModelError, match=r"shape \(7,\), the clips have \(40,\)"):
        Missing("audio", "mean", torch.zeros(7)).apply(both(), batch, torch.zeros(3, 3), 0)
    with pytest.raises(ThreatModelError, match="Did you mean 'audio'"):
        Swap("adio", AlignedData(clips(3), both().spec))
    with pytest.raises(ThreatModelError, match="at least 1 clip"):
        mean_input(AlignedData(clips(3), both().spec), "audio", limit=0)


def test_means_are_told_apart_in_the_manifest() -> None:
    one, other = (Missing("audio", "mean", torch.full((SAMPLES,), level)) for level in (0.1, 0.2))
    assert one.describe() != other.describe()
    assert one.describe() == Missing("audio", "mean", torch.full((SAMPLES,), 0.1)).describe()


def test_partners_have_another_label_and_are_never_the_clip_itself(tmp_path: Path) -> None:
    data, victim = clips(30), both()
    records = run(tmp_path, victim, data, Swap("video", AlignedData(data, victim.spec)))
    assert (records["partner"] != records["id"]).all()
    assert (records["partner_label"] != records["label"]).all()
    assert (records["shared_labels"] == 0).all()
    assert records["partner"].nunique() > 12  # drawn, not always the same
    place = [int(name.split("/")[1]) for name in records["partner"]]
    mixed = victim({"audio": data.audio, "video": data.video[place]})
    np.testing.assert_allclose(np.stack(records["logits"]), mixed.detach(), atol=1e-5)
    plain = victim({"audio": data.audio[place], "video": data.video[place]}).argmax(dim=1)
    assert records["partner_prediction"].tolist() == plain.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_partners_do_not_depend_on_the_batch(tmp_path: Path, batch_size: int) -> None:
    data, victim = clips(30), both()
    swap = Swap("video", AlignedData(data, victim.spec))
    reference = run(tmp_path / "reference", victim, data, swap, batch_size=16)
    pd.testing.assert_frame_equal(reference, run(tmp_path / "other", victim, data, swap, batch_size), check_exact=True)


def test_partners_follow_the_seed_and_not_what_is_swapped(tmp_path: Path) -> None:
    data, victim = clips(30), both()
    aligned = AlignedData(data, victim.spec)
    video, audio = (run(tmp_path / name, victim, data, Swap(name, aligned)) for name in ("video", "audio"))
    assert video["partner"].tolist() == audio["partner"].tolist()
    later = run(tmp_path / "later", victim, data, Swap("video", aligned), seed=1)
    assert later["partner"].tolist() != video["partner"].tolist()
    fixed = run(tmp_path / "fixed", victim, data, Swap("video", aligned, seed=0), seed=1)
    assert fixed["partner"].tolist() == video["partner"].tolist()


def test_partners_of_a_part_are_those_of_the_whole() -> None:
    data, victim = clips(30), both()
    aligned = AlignedData(data, victim.spec)
    whole = Swap("video", aligned).apply(victim, aligned.batch(range(30)), torch.zeros(30, 3), 0)
    shard = Swap("video", aligned).apply(victim, aligned.batch([17, 4]), torch.zeros(2, 3), 0)
    assert shard.columns["partner"] == [whole.columns["partner"][17], whole.columns["partner"][4]]


def test_labels_are_read_once() -> None:
    data, victim = clips(30), both()
    aligned = AlignedData(data, victim.spec)
    swap = Swap("video", aligned)
    for first in range(0, 30, 10):
        swap.apply(victim, aligned.batch(range(first, first + 10)), torch.zeros(10, 3), 0)
    # The batches, their partners, each partner's id, and each label at most once.
    assert data.reads <= 30 + 30 + 30 + 30


def test_known_targets_spare_the_reading_and_give_the_same_partners() -> None:
    class Targeted(AVData):
        @property
        def targets(self) -> list[int]:
            return self.target.tolist()

        def clip_id(self, index: int, spec: VictimSpec) -> str:
            return f"av/{index}"

    source = clips(30)
    turned = linear(SOUND, SIGHT, labels=LABELS[::-1]).spec  # its labels stand in another order than the data's
    known = Targeted(source.audio, source.video, source.target)
    asked = [frozenset({2 - label}) for label in source.target.tolist()]
    ids = [f"av/{n}" for n in range(30)]
    found = Swap("video", AlignedData(known, turned)).partners(ids, asked, 0)
    assert found == Swap("video", AlignedData(source, turned)).partners(ids, asked, 0)
    assert (known.target != known.target[found]).all()
    assert known.reads == 0


def test_swap_of_many_labels_prefers_disjoint_partners() -> None:
    target = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.float32)
    source = clips(5)
    data = AVData(source.audio, source.video, target)
    victim = linear(SOUND, SIGHT, task="multilabel")
    aligned = AlignedData(data, victim.spec)
    for seed in range(5):
        columns = Swap("audio", aligned, seed=seed).apply(victim, aligned.batch(range(5)), torch.zeros(5, 3), 0).columns
        partners = [int(name.split("/")[1]) for name in columns["partner"]]
        shared = [int((target[n] * target[p]).sum()) for n, p in enumerate(partners)]
        assert columns["shared_labels"] == shared
        assert shared[:4] == [0, 0, 0, 0]
        assert shared[4] == 1  # nothing is disjoint from a clip with every label: one in common is the least
        assert partners[4] != 4


def test_a_clip_without_labels_is_not_its_own_partner() -> None:
    source = clips(2)
    data = AVData(source.audio, source.video, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    aligned = AlignedData(data, linear(SOUND, SIGHT, task="multilabel").spec)
    for seed in range(8):
        assert Swap("audio", aligned).partners(["av/0", "av/1"], [frozenset(), frozenset({0})], seed) == [1, 0]


def test_swap_without_a_second_label_is_refused() -> None:
    source = clips(6)
    data = AVData(source.audio, source.video, torch.zeros(6, dtype=torch.int64))
    victim = both()
    aligned = AlignedData(data, victim.spec)
    with pytest.raises(DataError, match="at least two labels"):
        Swap("audio", aligned).apply(victim, aligned.batch([0]), torch.zeros(1, 3), 0)
    unlabelled = AlignedData(AVData(source.audio, source.video, torch.full((6,), -1)), victim.spec)
    with pytest.raises(DataError, match="no labelled clip"):
        Swap("audio", unlabelled).apply(victim, aligned.batch([0]), torch.zeros(1, 3), 0)


@pytest.mark.parametrize("swapped", ["audio", "video"])
@pytest.mark.parametrize(("weight", "winner"), [(3.0, "audio"), (0.3, "video")])
def test_the_louder_modality_dominates_whichever_is_swapped(
    tmp_path: Path, swapped: str, weight: float, winner: str
) -> None:
    data, victim = clips(30), linear(weight * SOUND, SIGHT)
    found = dominance(run(tmp_path, victim, data, Swap(swapped, AlignedData(data, victim.spec))))
    assert found.pairs == found.asked == 30
    assert getattr(found, winner).score == 1.0
    assert getattr(found, winner).low == pytest.approx(0.8865, abs=1e-3)  # Wilson, 30 of 30
    assert found.neither.score == 0.0


def test_dominance_counts_only_contradictions_of_what_was_right() -> None:
    columns = ("swapped", "label", "clean_prediction", "prediction", "partner_label", "partner_prediction")
    rows = [
        ("video", 0, 0, 0, 1, 1),  # kept audio
        ("video", 0, 0, 1, 1, 1),  # swapped-in video
        ("video", 0, 0, 2, 1, 1),  # neither
        ("video", 0, 1, 1, 1, 1),  # wrong on its own clip: out
        ("video", 0, 0, 0, 1, 2),  # wrong on the partner: out
        ("audio", 0, 0, 0, 1, 1),  # kept video
        ("audio", 0, 0, 1, 1, 1),  # swapped-in audio
    ]
    records = pd.DataFrame(rows, columns=columns)
    found = dominance(records)
    assert (found.pairs, found.asked) == (5, 7)
    assert (found.audio.score, found.video.score, found.neither.score) == (0.4, 0.4, 0.2)
    none = dominance(records.iloc[3:5])
    assert (none.pairs, none.audio.low, none.audio.high) == (0, 0.0, 1.0)
    with pytest.raises(StoreError, match="lack swapped, partner_label"):
        dominance(records.drop(columns=["swapped", "partner_label"]))


def test_dominance_of_many_labels_goes_by_the_highest_logit() -> None:
    rows = [
        ("video", [1.0, 0, 0, 1], 3, 0, [0.0, 1, 1, 0], 2),  # audio: 0 is a label of the clip
        ("video", [1.0, 0, 0, 1], 0, 2, [0.0, 1, 1, 0], 1),  # video
        ("video", [1.0, 1, 0, 0], 0, 0, [0.0, 1, 1, 0], 1),  # they share a label: out
    ]
    columns = ("swapped", "label", "clean_prediction", "prediction", "partner_label", "partner_prediction")
    found = dominance(pd.DataFrame(rows, columns=columns))
    assert (found.pairs, found.audio.score, found.video.score) == (2, 0.5, 0.5)


def test_toys_fit_their_spec() -> None:
    batch = one_batch(clips(3), both())
    assert batch.inputs["video"].shape == (3, *PICTURE)
    assert both().spec.labels == LABELS
    assert both()(batch.inputs).argmax(dim=1).tolist() == [0, 1, 2]
