"""`concat:A+B+C`: the features of several registered victims, side by side before one head.

Source: the NTU-GURA team of HEAR 2021 (fusion_cat_xwc), which concatenated the features of self-supervised models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robust.errors import VictimError, unknown
from robust.frontends.resample import Resampler
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.checkpoints import load_checkpoint
from robust.victims.loading import embedded_weights
from robust.victims.probe import probe_inputs
from robust.victims.registry import VictimEntry, build_victim, register_open, victim_entry
from robust.victims.unused import freeze_unused

PREFIX = "concat"
SEPARATOR = "+"
STARTS = ("embedded", "random")


@dataclass(frozen=True)
class JoinedSettings:
    """Configuration.

    Attributes:
        frozen: Whether members that begin with trained weights keep them; the others are trained in any case.
        init: `embedded`: members begin with their embedded weights, or those their name stands for, where there are
            any; `random`: none does.
        configs: Configuration of members, by name. Those that have one here begin with random weights, unless their
            name stands for weights, as `hf:DIR` does; the others have that of their embedded weights.
        hidden: Width of a hidden layer in the head; 0 for a linear head.
        dropout: Dropout before each layer of the head, in training.
        sample_rate: Hz of what is heard, resampled for each member; the highest among members when None.
        clip_seconds: Length of a clip; that of the longest-hearing member when None.
        members: What a card says of the members - model, config, labels, task, frozen - so that a checkpoint is
            rebuilt from itself alone; not to be given by hand.
    """

    frozen: bool = True
    init: str = "embedded"
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hidden: int = 0
    dropout: float = 0.1
    sample_rate: int | None = None
    clip_seconds: float | None = None
    members: Sequence[Mapping[str, Any]] = ()

    def check(self, names: Sequence[str]) -> None:
        """Raises `VictimError` for a start that there is not, or configurations of models that are not members."""
        if self.init not in STARTS:
            raise VictimError(unknown("init", self.init, STARTS))
        for name in self.configs:
            if name not in names:
                raise VictimError(unknown("member in configs", name, names))
        if self.hidden < 0:
            raise VictimError(f"hidden={self.hidden} must be 0, for a linear head, or the width of a hidden layer.")


class Joined(Victim):
    """Members hear the same sound, each at its own rate; their latents, pooled over frames, are concatenated."""

    def __init__(
        self, name: str, members: Sequence[Victim], *, labels: tuple[str, ...], task: Task, settings: JoinedSettings
    ) -> None:
        rate = settings.sample_rate or max(member.spec.sample_rate for member in members)
        super().__init__(
            VictimSpec(
                name=name,
                labels=labels,
                task=task,
                sample_rate=rate,
                clip_seconds=settings.clip_seconds or max(member.spec.clip_seconds for member in members),
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.members = nn.ModuleList(members)
        self.resamplers = nn.ModuleList(Resampler(rate, member.spec.sample_rate) for member in members)
        self.frozen = [bool(member["frozen"]) for member in settings.members]
        with torch.no_grad(), torch.random.fork_rng():
            width = self.eval()._latent(probe_inputs(self.spec, count=1)).shape[1]
        for member, frozen in zip(members, self.frozen, strict=True):
            if frozen:
                member.requires_grad_(False)
            else:
                freeze_unused(member, partial(_pooled, member, probe_inputs(member.spec)))
        self.norm = nn.BatchNorm1d(width)  # members' latents differ in scale by orders of magnitude
        self.classifier = _head(width, settings.hidden, len(labels), settings.dropout)
        self.config = {**asdict(settings), "configs": {}}
        self.train()

    def train(self, mode: bool = True) -> Joined:
        """As of every module, but frozen members stay in evaluation: their statistics are part of their weights."""
        super().train(mode)
        for member, frozen in zip(self.members, self.frozen, strict=True):
            if frozen:
                member.eval()
        return self

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        latent = self._latent(inputs)
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.norm(fused))
        return logits

    def _latent(self, inputs: Inputs) -> Tensor:
        heard = [resampler(inputs["audio"]) for resampler in self.resamplers]
        latents = [_pooled(member, {"audio": audio}) for member, audio in zip(self.members, heard, strict=True)]
        return torch.cat(latents, dim=1)


def _pooled(member: nn.Module, inputs: Inputs) -> Tensor:
    """A member's latent (B, D), the mean over frames where it has them."""
    assert isinstance(member, Victim)
    latent = member.embed(inputs)["fused"]
    return latent.mean(dim=1) if latent.ndim == 3 else latent


def _head(width: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


@register_open(
    PREFIX,
    argument="A+B+C",
    summary="features of several victims before one head (NTU-GURA, HEAR 2021); members keep their weights or train",
    family="joined",
    parity="features are the members' own",
)
def open_joined(argument: str) -> VictimEntry:
    """The victim that joins the models named in `argument`.

    Raises:
        VictimError: If there are not at least two, one is named twice, is itself joined, or is not registered.
    """
    names = argument.split(SEPARATOR)
    name = f"{PREFIX}:{argument}"
    if len(names) < 2 or len(set(names)) < len(names):
        raise VictimError(f"{name} must join two or more different models, as {PREFIX}:m5+cnn14 does.")
    for member in names:
        if member.startswith(f"{PREFIX}:"):
            raise VictimError(f"{name} has a joined model in it; name its members themselves, each once.")
        victim_entry(member)

    def build(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
        settings = JoinedSettings(**config)
        settings.check(names)
        if settings.members:
            members = [_rebuilt(facts) for facts in settings.members]
        else:
            members, facts = _begun(names, labels, task, settings)
            settings = JoinedSettings(**{**config, "members": facts})
        return Joined(name, members, labels=labels, task=task, settings=settings)

    return VictimEntry(
        name,
        build,
        f"features of {', '.join(names)} before one head",
        family="joined",
        parity="features are the members' own",
        recipe={"learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.1},
    )


def _begun(
    names: Sequence[str], labels: tuple[str, ...], task: Task, settings: JoinedSettings
) -> tuple[list[Victim], list[dict[str, Any]]]:
    """The members as training begins, and what a card needs to say of them."""
    members, facts = [], []
    for name in names:
        entry, config = victim_entry(name), settings.configs.get(name)
        trained = settings.init == "embedded" and (entry.itself is not None or config is None)
        if trained and entry.itself is None:
            trained = embedded_weights(name).is_file()
        if trained and entry.itself is None:
            member = load_checkpoint(embedded_weights(name))
        else:
            # A name that stands for weights (`hf:DIR`) loads them as it is built, whatever the labels.
            member = build_victim(name, labels=labels, task=task, **{**entry.small, **(config or {})})
        if member.spec.modalities != ("audio",):
            raise VictimError(
                f"{name} takes {' and '.join(member.spec.modalities)}; {PREFIX} joins models that take audio alone."
            )
        members.append(member)
        facts.append(
            {
                "model": name,
                "config": member.config,
                "labels": list(member.spec.labels),
                "task": member.spec.task,
                "frozen": trained and settings.frozen,
            }
        )
    return members, facts


def _rebuilt(facts: Mapping[str, Any]) -> Victim:
    """A member as a card tells it; its weights are those of the whole checkpoint."""
    return build_victim(facts["model"], labels=tuple(facts["labels"]), task=facts["task"], **facts["config"])
