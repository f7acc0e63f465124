"""A purified victim is a victim: whatever attacks, scores or draws victims takes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attacks.bpda import Held
from attacks.channel import Channel
from attacks.errors import RobustError
from robust.channels.condition import check_rate, heard_through
from robust.errors import VictimError
from robust.purifiers import load_purifier
from robust.types import Inputs
from robust.victims.base import Victim
from robust.victims.probe import check_gradients


class Purified(Victim):
    """A victim with a purifier before its ears.

    The purifier draws once, from `seed`, and every clip hears that draw: the *fixed-noise* variant, a deterministic
    function with a gradient, which makes it a victim like others. A random purifier draws anew in use, and one draw
    that an attacker knows can be harder or easier to pass than draws that nobody knows; the honest evaluation under
    attack is `robust.attack_purified`. Victims get no mask, so the purifier takes padding for sound too.

    Only `audio` is purified. The state dict holds the weights of both.

    Args:
        victim: Hears a waveform.
        purifier: For clips of its sample rate, e.g. from `robust.purifiers.load_purifier`.
        seed: Of the purifier's draw.
        label: Stands behind the victim's name, `ast+waveform:3`; the purifier's own name when None.

    Raises:
        VictimError: If the victim hears no waveform.
        ThreatModelError: If the purifier is made for another sample rate.

    Attributes:
        label: How the purifier is called.
    """

    def __init__(self, victim: Victim, purifier: Channel, *, seed: int = 0, label: str | None = None) -> None:
        if "audio" not in victim.spec.modalities:
            raise VictimError(
                f"A purifier cleans a waveform, `audio`; the victim {victim.spec.name!r} takes "
                f"{', '.join(victim.spec.modalities)}."
            )
        check_rate(purifier, victim.spec.sample_rate)
        called = label or purifier.name
        super().__init__(replace(victim.spec, name=f"{victim.spec.name}+{called}"))
        self.label = called
        self.victim, self.purifier = victim, Held(purifier, seed)
        self.config = {"victim": victim.config, "purifier": self.purifier.describe()}

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        return self.victim.embed(self.purify(inputs))

    def embed_modalities(self, inputs: Inputs) -> dict[str, Tensor]:
        return self.victim.embed_modalities(self.purify(inputs))

    def fuse(self, latents: Mapping[str, Tensor]) -> Tensor:
        return self.victim.fuse(latents)

    def head(self, fused: Tensor) -> Tensor:
        return self.victim.head(fused)

    def forward(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.victim(self.purify(inputs))
        return logits

    def purify(self, inputs: Inputs) -> Inputs:
        """The same inputs with `audio` (B, T) as the victim hears it."""
        clips = inputs["audio"]
        drawn = self.purifier.draw(clips, ())
        return {**inputs, "audio": heard_through(self.purifier, clips, drawn, None)}


def purified(victim: Victim, purifier: str | Channel, *, seed: int = 0, label: str | None = None) -> Purified:
    """`Purified` on the victim's device and in its mode, its gradients probed.

    Args:
        victim: Hears a waveform.
        purifier: A name as `robust.purifiers` has them (`waveform:3`), or a channel for the victim's clips.
        seed: Of the purifier's draw.
        label: Stands behind the victim's name; how the purifier was called when None.

    Raises:
        VictimError: If the victim hears no waveform, or no gradient comes through.
        ThreatModelError: If there is no such purifier, or it is for clips of another sample rate or length.
        CheckpointError: If its weights cannot be read.
    """
    device = next((parameter.device for parameter in victim.parameters()), torch.device("cpu"))
    if isinstance(purifier, str):
        spec, label = victim.spec, label or purifier
        purifier = load_purifier(purifier, sample_rate=spec.sample_rate, samples=spec.clip_samples, device=device)
    found = Purified(victim, purifier, seed=seed, label=label).to(device).train(victim.training)
    try:
        check_gradients(found, found.spec)
    except VictimError as error:
        if isinstance(error.__cause__, RobustError):
            raise error.__cause__ from None  # what the purifier says of the clips
        raise
    return found


__all__ = ["Purified", "purified"]
