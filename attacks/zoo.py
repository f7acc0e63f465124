"""Every attack of torchattacks 3.5.1 by name, made safe for signed waveforms and inputs of any shape.

torchattacks takes images (B, C, H, W) in [0, 1] and clamps to that range: given a waveform it deletes every negative
sample, whatever the radius. Here `[low, high]` is mapped to [0, 1], the input is laid out as (B, 1, 1, N) and the
budget is divided by `high - low`; the victim is called through a module that undoes both. What comes back is measured
against the declared budget, and success is decided again, in full precision, on the input that is returned.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attacks.errors import ThreatModelError, unknown
from attacks.gradients import Oracle, Victim, frozen
from attacks.losses import Goal, margin
from attacks.pgd import AttackResult, around
from attacks.projections import per_example
from attacks.threat import ORDERS, Ball, Region
from attacks.zoo_entries import ENTRIES, ZooEntry, find_entry, list_attacks

# Double precision makes the affine map exact; these mix in single-precision tensors of their own and fail on doubles.
_SINGLE_PRECISION = frozenset({"FAB", "EADL1", "EADEN", "AutoAttack"})
_NORM_NAMES = {"linf": "Linf", "l2": "L2"}
_STEPS_OPTIONS = ("steps", "nb_iter", "max_iterations")
_OURS = frozenset({"self", "model", "eps", "norm", "n_classes", "seed"})
_FEWEST_CLASSES = {"APGDT": 4, "AutoAttack": 4}
_EXCESS = 1e-3
"""Relative excess over the budget that is taken for rounding and repaired."""


def run_torchattacks(
    victim: Victim,
    inputs: Mapping[str, Tensor],
    goal: Goal,
    threat: Mapping[str, Ball],
    name: str,
    *,
    modality: str = "audio",
    steps: int | None = None,
    valid: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    **options: Any,
) -> AttackResult:
    """Attacks one modality of a batch with an attack of torchattacks.

    Examples of equal radius are attacked together, each alone where there are other modalities; what torchattacks does
    to an example may depend on its neighbours.

    Args:
        victim: Maps modalities to logits (B, K), differentiably.
        inputs: Modality -> (B, ...) clean inputs.
        goal: One label a clip; torchattacks knows no multi-label goals.
        threat: The budget of `modality` alone. A fixed-budget attack needs one of its own norms; any will do for the
            others, whose results are kept only where they lie in the ball.
        name: A name from `list_attacks`.
        modality: Which input to attack.
        steps: Iterations; the attack's own default when None (10 for most, far fewer than an evaluation needs).
        valid: Modality -> bool mask. torchattacks knows no padding: it is put back afterwards.
        seed: Of all its random draws.
        options: Further arguments of the attack's constructor, in its own units (shares of the data range). Step
            lengths (`alpha`, `lr`) that are not given keep their default ratio to the radius.

    Returns:
        Inputs in the budget; the clean input, unbroken, where the attack found nothing or gave NaN. The loss is the
        margin; passes are averages over the examples that were attacked together.

    Raises:
        ThreatModelError: If the attack is unknown or cannot work here, an option is unknown, or it broke its budget.
    """
    entry = find_entry(name)
    if list(threat) != [modality]:
        raise ThreatModelError(f"torchattacks attacks one modality; give a budget for {modality!r} alone.")
    region = around(inputs, threat, valid or {})[modality]
    _refuse(entry, goal, region)
    oracle = Oracle(victim, len(goal.labels), goal.labels.device)
    everyone = torch.arange(len(goal.labels), device=goal.labels.device)
    point = region.clean.clone()
    with frozen(victim):
        classes = oracle.logits(inputs, everyone).shape[1]
        _check_classes(entry, classes, options)
        labels, targeted = _aim(entry, goal, classes)
        for rows in _groups(region, alone=len(inputs) > 1):
            others = {other: value[rows] for other, value in inputs.items() if other != modality}
            image_victim = _ImageVictim(victim, modality, others, region)
            budget = float(region.radius[rows[0]]) / image_victim.span
            settings = _settings(entry, region.norm, budget, classes, steps, options)
            with _own_randomness(seed, region.clean.device):
                attack = _build(entry, image_victim, settings, steps, seed, targeted=targeted)
                point[rows] = _through_image(entry, attack, image_victim, region.select(rows), labels[rows])
            oracle.forwards[rows] += -(-image_victim.forwards // len(rows))
            oracle.backwards[rows] += -(-image_victim.backwards // len(rows))
        point = _within_budget(entry, region, point)
        found = {**{key: value.detach().clone() for key, value in inputs.items()}, modality: point}
        logits = oracle.logits(found, everyone)
    return AttackResult(found, goal.broken(logits), margin(logits, goal), oracle.forwards, oracle.backwards)


class _ImageVictim(nn.Module):
    """The victim as torchattacks wants it: (B, 1, 1, N) in [0, 1] to logits, with the passes counted."""

    def __init__(self, victim: Victim, modality: str, others: dict[str, Tensor], region: Region) -> None:
        super().__init__()
        # Not registered as a submodule: torchattacks would switch its modes.
        self.call: Victim = lambda inputs: victim(inputs)
        self.modality, self.others = modality, others
        self.shape, self.dtype = region.clean.shape[1:], region.clean.dtype
        self.low, self.span = float(region.low), float(region.high) - float(region.low)
        self.forwards = self.backwards = 0
        # torchattacks takes its device from the first parameter.
        self.anchor = nn.Parameter(torch.zeros((), device=region.clean.device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        count = len(images)
        values = (self.low + self.span * images).to(self.dtype).reshape(count, *self.shape)
        others = {name: value.expand(count, *value.shape[1:]) for name, value in self.others.items()}
        logits: Tensor = self.call({**others, self.modality: values}).float()
        self.forwards += count
        if logits.requires_grad:
            hook: Any = logits.register_hook  # not annotated by torch
            hook(lambda _: self._went_back(count))
        return logits

    def _went_back(self, count: int) -> None:
        self.backwards += count


def _build(
    entry: ZooEntry, victim: _ImageVictim, settings: dict[str, Any], steps: int | None, seed: int, *, targeted: bool
) -> Any:
    """The attack of torchattacks, ready to be called."""
    import torchattacks  # half a second, scipy with it

    if "seed" in _signature(entry):
        settings = {**settings, "seed": seed}
    attack = getattr(torchattacks, entry.name)(victim, **settings)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    if entry.name == "AutoAttack":
        # Square would spend 5,000 queries on the clean input, and fail under L2.
        stages = [stage for stage in attack._autoattack.attacks if type(stage).__name__ != "Square"]
        attack._autoattack.attacks = stages
        for stage in stages if steps else ():
            stage.steps = steps
    return attack


def _through_image(entry: ZooEntry, attack: Any, victim: _ImageVictim, region: Region, labels: Tensor) -> Tensor:
    """What the attack makes of the clean inputs of `region`, with padding put back."""
    single = entry.name in _SINGLE_PRECISION or region.clean.device.type == "mps"
    clean = region.clean.to(torch.float32 if single else torch.float64)
    images = ((clean - region.low) / victim.span).flatten(1)[:, None, None, :].contiguous()
    changed = attack(images.clone(), labels).detach() - images
    # The difference, not the image: where nothing was changed the clean input comes back bit for bit.
    moved = region.clean.double() + victim.span * changed.double().view_as(region.clean)
    point = moved.to(region.clean.dtype)
    return point if region.valid is None else torch.where(region.valid, point, region.clean)


def _within_budget(entry: ZooEntry, region: Region, point: Tensor) -> Tensor:
    """`point` with rounding repaired; the clean input where it is not finite or, without a budget, outside the ball.

    A gradient of zero makes several of these attacks divide by zero: such an example is simply not broken.
    """
    finite = point.flatten(1).isfinite().all(dim=1)
    point = torch.where(per_example(finite, point), point, region.clean)
    # One rounding of every value in [0, 1]; matters where the radius is nearly as small.
    values = region.clean[0].numel()
    rounding = 2.0**-23 * (region.high - region.low) * values ** (1 / ORDERS[region.norm])
    size = region.size(point)
    outside = size > region.radius * (1 + _EXCESS) + rounding
    if entry.kind == "fixed-budget" and bool(outside.any()):
        factor = float((size / region.radius.clamp_min(1e-30))[outside].max())
        raise ThreatModelError(
            f"{entry.name} broke its {region.norm} budget: it moved {int(outside.sum())} of {len(size)} examples by "
            f"up to {factor:.3g} times the radius. Its result is not used; choose another attack or other options."
        )
    return region.project(torch.where(per_example(outside, point), region.clean, point))


def _refuse(entry: ZooEntry, goal: Goal, region: Region) -> None:
    """Raises where the attack cannot do what is asked."""
    values = region.clean[0].numel()
    if not entry.supported:
        raise ThreatModelError(f"{entry.name} of torchattacks does not work on waveforms: {entry.reason}.")
    if entry.most_values is not None and values > entry.most_values:
        raise ThreatModelError(
            f"{entry.name} pairs every value with every other and takes {entry.most_values} values at most; an example "
            f"has {values}. Use SparseFool."
        )
    if isinstance(region.low, Tensor) or isinstance(region.high, Tensor):
        raise ThreatModelError(
            f"{entry.name} of torchattacks takes one data range for all values; here each has its own (packed "
            "modalities, say). Use attacks.pgd."
        )
    if goal.multilabel:
        raise ThreatModelError(f"{entry.name} of torchattacks knows one label a clip; use attacks.pgd for multi-label.")
    if entry.kind == "fixed-budget" and region.norm not in entry.norms:
        raise ThreatModelError(
            f"{entry.name} bounds {' or '.join(entry.norms)}, not {region.norm}; give a budget in that norm, or choose "
            f"one of: {', '.join(other.name for other in ENTRIES if other.supported and region.norm in other.norms)}."
        )
    if goal.targets is not None and not _targetable(entry):
        raise ThreatModelError(f"{entry.name} of torchattacks cannot be targeted; drop the targets or use PGD.")


def _targetable(entry: ZooEntry) -> bool:
    """Whether the attack heads for given labels; FAB says that it does, but takes them for ranks of classes."""
    import torchattacks

    if entry.kind == "baseline" or entry.name == "FAB":
        return False
    probe = getattr(torchattacks, entry.name)(nn.Linear(1, 1))
    return "targeted" in probe.supported_mode


def _check_classes(entry: ZooEntry, classes: int, options: Mapping[str, Any]) -> None:
    fewest = 3 if options.get("loss") == "dlr" else _FEWEST_CLASSES.get(entry.name, 2)
    if classes < fewest:
        raise ThreatModelError(
            f"{entry.name} uses a DLR loss, which needs at least {fewest} classes; the victim has {classes}. Use APGD."
        )


def _aim(entry: ZooEntry, goal: Goal, classes: int) -> tuple[Tensor, bool]:
    """The labels that the attack is called with, and whether they are targets."""
    if goal.targets is not None:
        return goal.targets, True
    if entry.name == "JSMA":  # always targeted; its own choice, (label + 1) % 10, takes ten classes for granted
        return (goal.labels + 1) % classes, True
    return goal.labels, False


def _groups(region: Region, *, alone: bool) -> Iterator[Tensor]:
    """Rows to be attacked together: of one radius, as torchattacks takes one number; radius 0 is left out."""
    live = (region.radius > 0).nonzero()[:, 0]
    if alone:  # torchattacks calls the victim with any subset of its batch: other modalities could not follow
        yield from torch.split(live, 1)
    else:
        for radius in sorted(set(region.radius[live].tolist())):
            yield (region.radius == radius).nonzero()[:, 0]


def _signature(entry: ZooEntry) -> Mapping[str, inspect.Parameter]:
    import torchattacks

    return inspect.signature(getattr(torchattacks, entry.name).__init__).parameters


def _settings(
    entry: ZooEntry, norm: str, budget: float, classes: int, steps: int | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of the attack's constructor; `budget` is the radius as a share of the data range."""
    accepted = _signature(entry)
    free = [option for option in accepted if option not in _OURS]
    for option in options:
        if option not in free:
            raise ThreatModelError(unknown(f"option of {entry.name}", option, free))
    settings = dict(options)
    given = {"eps": budget, "norm": _NORM_NAMES.get(norm, "L2"), "n_classes": classes}
    settings |= {option: value for option, value in given.items() if option in accepted}
    if "eps" in accepted:
        for option in ("alpha", "lr"):
            if option in accepted and option not in options:
                settings[option] = budget * accepted[option].default / accepted["eps"].default
    if steps is not None:
        settings |= _steps(entry, accepted, steps)
    return settings


def _steps(entry: ZooEntry, accepted: Mapping[str, inspect.Parameter], steps: int) -> dict[str, Any]:
    if steps < 1:
        raise ThreatModelError(f"steps must be 1 or more; given {steps}.")
    if entry.name == "AutoAttack":
        return {}
    for option in _STEPS_OPTIONS:
        if option in accepted:
            # EAD's early stop looks every steps // 10 iterations, and divides by it.
            return {option: steps, **({"abort_early": False} if "abort_early" in accepted and steps < 10 else {})}
    raise ThreatModelError(f"{entry.name} takes no steps: it has none, or a fixed number; leave them out.")


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global generators within and puts them back after.

    Nothing else in this package touches them: torchattacks draws from nothing else (OnePixel from NumPy's), and APGD,
    FAB and AutoAttack seed torch's by themselves.
    """
    import numpy as np

    before = np.random.get_state()  # noqa: NPY002 - see above
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


__all__ = ["ZooEntry", "list_attacks", "run_torchattacks"]
