"""The same victim one step later: what follows its front end, attacked on the features the front end computes.

A perturbation of features is not always one of any sound; published attacks on audio-visual models are made there
(methods.md 1.3), and only there do mel bands and frames have meaning as coordinates.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from robust.errors import VictimError
from robust.types import Clip, Dataset, VictimSpec
from robust.victims.base import Victim
from robust.victims.hearing import Hearing
from robust.victims.registry import build_victim


def on_features(victim: Victim) -> Victim:
    """A victim with the weights of `victim` that takes its log-mel features, modality `logmel` (B, frames, mels).

    Raises:
        VictimError: If its front end is not one that can be taken off.
    """
    hearing_of(victim)
    config = {**victim.config, "hears": "logmel"}
    with torch.random.fork_rng():  # building draws weights from the global generator
        copy = build_victim(victim.spec.name, labels=victim.spec.labels, task=victim.spec.task, **config)
    copy.load_state_dict(victim.state_dict())
    device = next(victim.parameters()).device
    return copy.to(device).train(victim.training)


def hearing_of(victim: Victim) -> Hearing:
    """The front end of a victim that hears waveforms.

    Raises:
        VictimError: If it has none of the kind that can be taken off.
    """
    hearing = getattr(victim, "hearing", None)
    if not isinstance(hearing, Hearing) or hearing.modality != "audio":
        raise VictimError(
            f"The victim {victim.spec.name!r} takes {', '.join(victim.spec.modalities)} and has no log-mel front end "
            "that can be taken off; cnn-transformer and the av- family do."
        )
    return hearing


class FeatureData(Dataset):
    """A data set as the victim of `on_features` takes it: waveforms become the features of the victim's front end.

    A frame is valid if any sample of its hop is. Other modalities pass through.
    """

    def __init__(self, data: Dataset, victim: Victim) -> None:
        self.data, self.hears = data, victim.spec
        self.hearing = hearing_of(victim)
        self.name, self.split, self.labels, self.task = data.name, data.split, data.labels, data.task
        self.modalities = tuple("logmel" if name == "audio" else name for name in data.modalities)

    def __len__(self) -> int:
        return len(self.data)

    def clip(self, index: int, spec: VictimSpec) -> Clip:
        modalities = tuple("audio" if name == "logmel" else name for name in spec.modalities)
        clip = self.data.clip(index, replace(self.hears, modalities=modalities))
        inputs, valid = dict(clip.inputs), dict(clip.valid)
        if "audio" in inputs:
            audio = inputs.pop("audio")[None]
            with torch.no_grad():
                inputs["logmel"] = self.hearing.features(audio.to(next(self.hearing.buffers()).device))[0].cpu()
            hops = valid.pop("audio", torch.ones_like(audio[0], dtype=torch.bool))
            count, hop = inputs["logmel"].shape[0], self.hearing.hop_length
            valid["logmel"] = hops[: count * hop].reshape(count, hop).any(dim=1)[:, None].expand(count, -1)
            valid["logmel"] = valid["logmel"].expand_as(inputs["logmel"])
        return Clip(clip.id, inputs, clip.label, valid)

    def fingerprint(self) -> str:
        return self.data.fingerprint()
