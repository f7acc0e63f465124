"""Peers as functions of one shape, so that tables can put them side by side.

Each takes a victim, waveforms (B, T) in [-1, 1], labels, a norm, a radius and a number of steps, starts at a
random point of the ball (each library's own draw), and returns adversarial waveforms. What breaks its budget is not
counted as broken (`standing_within`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from attacks.losses import Goal
from attacks.pgd import PGD, pgd
from attacks.threat import Ball
from attacks.zoo import run_torchattacks
from robust.victims import Victim

Peer = Callable[[Victim, Tensor, Tensor, str, float, int], Tensor]


class AudioModule(nn.Module):
    """A victim as a module on (B, T) waveforms."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, audio: Tensor) -> Tensor:
        return self.victim({"audio": audio})


def ours(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """Our defaults."""
    config = PGD(steps=steps)
    return pgd(victim, {"audio": audio}, Goal(labels), {"audio": Ball(norm, eps)}, config=config).inputs["audio"]


def torchattacks_pgd(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """PGD or PGDL2 of torchattacks behind our adapter; it has no L1."""
    name = {"linf": "PGD", "l2": "PGDL2"}[norm]
    threat = {"audio": Ball(norm, eps)}
    result = run_torchattacks(
        victim, {"audio": audio}, Goal(labels), threat, name, steps=steps, alpha=eps / 2 * 0.1, random_start=True
    )
    return result.inputs["audio"]


def torchattacks_apgd(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """APGD (cross-entropy) of torchattacks behind our adapter."""
    threat = {"audio": Ball(norm, eps)}
    name = {"linf": "APGD", "l2": "APGD"}[norm]
    result = run_torchattacks(victim, {"audio": audio}, Goal(labels), threat, name, steps=steps)
    return result.inputs["audio"]


def foolbox_pgd(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """Projected gradient descent of foolbox in each norm, with its default relative steps."""
    import foolbox

    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD, "l1": foolbox.attacks.L1PGD}[norm]
    return _foolbox(victim, attack(steps=steps, random_start=True), audio, labels, eps)


def foolbox_sparse(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """SparseL1Descent of foolbox."""
    import foolbox

    attack = {"l1": foolbox.attacks.SparseL1DescentAttack}[norm]
    return _foolbox(victim, attack(steps=steps, random_start=True), audio, labels, eps)


def _foolbox(victim: Victim, attack: object, audio: Tensor, labels: Tensor, eps: float) -> Tensor:
    import foolbox

    model = foolbox.PyTorchModel(AudioModule(victim).eval(), bounds=(-1, 1), device="cpu")
    _, clipped, _ = attack(model, audio, labels, epsilons=eps)  # type: ignore[operator]
    return clipped.detach()


def art_pgd(victim: Victim, audio: Tensor, labels: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    """ART's ProjectedGradientDescent in each norm, with a step of a tenth of the radius."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        AudioModule(victim).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=(audio.shape[1],),
        nb_classes=len(victim.spec.labels),
        clip_values=(-1.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        norm={"linf": np.inf, "l2": 2, "l1": 1}[norm],
        eps=eps,
        eps_step=eps / 10,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(audio),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(audio.numpy(), labels.numpy()))


PEERS: dict[str, dict[str, Peer]] = {
    "linf": {
        "torchattacks PGD": torchattacks_pgd,
        "torchattacks APGD": torchattacks_apgd,
        "foolbox PGD": foolbox_pgd,
        "ART PGD": art_pgd,
    },
    "l2": {
        "torchattacks PGDL2": torchattacks_pgd,
        "torchattacks APGD": torchattacks_apgd,
        "foolbox PGD": foolbox_pgd,
        "ART PGD": art_pgd,
    },
    "l1": {"foolbox L1PGD": foolbox_pgd, "foolbox SparseL1": foolbox_sparse, "ART PGD": art_pgd},
}


def standing_within(victim: Victim, audio: Tensor, attacked: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """(B,) bool: still right, or broken only by leaving the budget by more than one part in a thousand."""
    audit = Ball(norm, eps).around(audio).audit(attacked)
    with torch.no_grad():
        right = victim({"audio": attacked}).argmax(dim=1) == labels
    return right | (audit.ratio > 1.001)
