"""Training defenses by name, alone or combined: `mixup`, `pgd`, `mixup+sam`, `pgd+latent-mixup+balanced`.

A defense makes the loss of each batch. It may change what is heard (noise, masks), mix clips, attack them, ask for a
margin in each modality, draw rare classes more often, and have the optimiser look for flat places: one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from attacks.errors import ThreatModelError, unknown
from defenses.adversarial import AdversarialTraining, back_in_range
from defenses.augmentation import GaussianNoise
from defenses.cutmix import cutmix
from defenses.defense_settings import (
    GROUPS,
    NAMES,
    DefenseSettings,
    as_json,
    check_settings,
    mixed_senses,
    parts_of,
    settings_of,
)
from defenses.fast import FastTraining, FreeTraining
from defenses.latent_mixup import check_coupling, draw_blend, mixed_answer, sense
from defenses.lesson import Learner, Lesson, Passes, Unopposed, generators_from, statistics_kept
from defenses.margin import check_modalities, margin_loss
from defenses.mixup import mixup
from defenses.sharpness_aware import RHO, SharpnessAware
from defenses.specaugment import SpecAugment
from defenses.trades import Mart, Trades, check_one_label


class Defense:
    """One defense or a combination; made by `load_defense`.

    In training: `wrap` the optimiser; give each batch `replays` times in a row; take `loss` for each and call
    `after_backward` when its gradients are there.

    Attributes:
        settings: What it was made from.
        replays: How often each batch is to be given.
        adversarial: Whether clips are attacked before they are learnt from.
        balanced: Whether clips are to be drawn by `defenses.balance.balanced_weights`.
        spent: Passes through the network so far, counted where they are made.
    """

    def __init__(self, settings: DefenseSettings, parts: Mapping[str, str]) -> None:
        self.settings, self.parts = settings, parts
        self.replays = settings.replays if parts.get("adversary") == "free" else 1
        self.adversarial = "adversary" in parts
        self.balanced = "sampling" in parts
        self.spent = Passes()
        self._adversary = _adversary(parts.get("adversary"), settings)
        self._gaussian = GaussianNoise(settings.sigma) if parts.get("noise") == "gaussian" else None
        self._optimizer: SharpnessAware | None = None

    def check(self, modalities: Iterable[str], *, multilabel: bool) -> None:
        """Whether it suits a victim, before any training.

        Args:
            modalities: Names of the victim's inputs.
            multilabel: Whether clips have many labels.

        Raises:
            ThreatModelError: If it does not.
        """
        names, parts = list(modalities), self.parts
        if parts.get("adversary") == "mart":
            check_one_label(multilabel=multilabel)
        for name in self.settings.threat if self.adversarial else ():
            if name not in names:
                raise ThreatModelError(unknown("modality in the threat model", name, names))
        if "margin" in parts:
            check_modalities(names)
        if parts.get("mixing") == "latent-mixup":
            check_coupling(mixed_senses(self.settings), names)
        if "noise" in parts and "audio" not in names:
            raise ThreatModelError(
                f"{parts['noise']} is added to the modality 'audio'; the victim takes {', '.join(names)}."
            )

    def loss(
        self, learner: Learner, inputs: Mapping[str, Tensor], targets: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss of a batch, a scalar with a graph.

        Args:
            learner: Who learns; see `defenses.lesson.Learner`.
            inputs: Modality -> (B, ...).
            targets: (B, K) label weights.
            generator: On the CPU; all randomness comes from it.

        Raises:
            ThreatModelError: If the defense does not suit the learner or the inputs.
        """
        self.spent.forget()
        # The second pass of a sharpness-aware step is at weights that will not stay.
        elsewhere = self._optimizer is not None and self._optimizer.climbed
        with statistics_kept(learner.victim) if elsewhere else nullcontext():
            lesson = self._lesson(learner, self._corrupted(inputs, generator), targets, generator)
            if self.adversarial:
                lesson.inputs = back_in_range(lesson.inputs, inputs, self.settings.threat)
            loss, learnt = self._adversary.loss(learner, lesson, generator)
            if "margin" in self.parts:
                loss = loss + self.settings.margin_weight * margin_loss(learner, learnt, lesson)
        return loss

    def after_backward(self) -> None:
        """To be called when the gradients of the last loss are there."""
        self.spent.backward()
        self._adversary.after_backward()

    def wrap(self, optimizer: Optimizer) -> Optimizer:
        """The optimiser as the defense has it; itself unless it is `sam` or `asam`."""
        kind = self.parts.get("flatness")
        if kind is None:
            return optimizer
        rho = RHO[kind] if self.settings.rho is None else self.settings.rho
        self._optimizer = SharpnessAware(optimizer, rho, adaptive=kind == "asam")
        return self._optimizer

    def state(self) -> dict[str, Any]:
        """What must be kept for a training to be taken up again; numbers and tensors."""
        return {"spent": [self.spent.forwards, self.spent.backwards], "adversary": self._adversary.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes `state` up again."""
        self.spent.forwards, self.spent.backwards = state["spent"]
        self._adversary.load(state["adversary"])

    def describe(self) -> dict[str, Any]:
        """Name and every setting that matters to it, as JSON; for the card."""
        told: dict[str, Any] = {"name": self.settings.name}
        for part in self.parts.values():
            told |= {name: as_json(value) for name, value in settings_of(part, self.settings).items()}
        return told

    def _corrupted(self, inputs: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Noise on the audio, then masks on all that is heard."""
        heard = dict(inputs)
        if self._gaussian is not None:
            heard["audio"] = self._gaussian(heard["audio"], generator)
        if self.parts.get("noise") == "noise":
            assert self.settings.channel is not None
            channel, clips = self.settings.channel, heard["audio"]
            with torch.no_grad():
                heard["audio"] = channel(clips, channel.draw(clips, generators_from(generator, len(clips))))
        if "masking" in self.parts:
            for name in heard:
                if sense(name) == "audio":
                    heard[name] = SpecAugment()(heard[name], generator)
        return heard

    def _lesson(
        self, learner: Learner, inputs: dict[str, Tensor], targets: Tensor, generator: torch.Generator
    ) -> Lesson:
        """Inputs, labels and answers, mixed as the settings say."""
        settings, kind = self.settings, self.parts.get("mixing")
        if kind in ("mixup", "cutmix"):
            mix = mixup if kind == "mixup" else cutmix
            inputs, targets = mix(inputs, targets, settings.alpha, generator, settings.pairing)
        if kind != "latent-mixup":
            return Lesson(inputs, targets, targets, learner.victim, self.spent)
        layer = settings.mix_layer or "fused"
        blend = draw_blend(
            inputs,
            targets,
            alpha=settings.alpha,
            coupling=mixed_senses(settings),
            pairing=settings.pairing,
            generator=generator,
        )
        weights = blend.labels(targets)
        if layer == "input":
            return Lesson(blend(inputs), weights, weights, learner.victim, self.spent)
        answer = partial(mixed_answer, learner.victim, layer=layer, blend=blend)
        return Lesson(inputs, targets, weights, answer, self.spent)


def load_defense(settings: DefenseSettings) -> Defense:
    """The defense that `settings` name.

    Raises:
        ThreatModelError: If a name is unknown, a combination is none, or a setting cannot hold.
    """
    parts = parts_of(settings.name)
    for part in parts.values():
        check_settings(part, settings)
    return Defense(settings, parts)


def _adversary(name: str | None, settings: DefenseSettings) -> Unopposed:
    threat, steps, beta = settings.threat, settings.steps, settings.beta
    made: dict[str | None, Callable[[], Unopposed]] = {
        None: Unopposed,
        "pgd": lambda: AdversarialTraining(threat, steps),
        "trades": lambda: Trades(threat, steps, beta),
        "mart": lambda: Mart(threat, steps, beta),
        "free": lambda: FreeTraining(threat),
        "fast": lambda: FastTraining(threat),
    }
    return made[name]()


__all__ = ["GROUPS", "NAMES", "Defense", "DefenseSettings", "load_defense"]
