"""`Victim`: a differentiable function from a mapping of modalities to logits, with a contract of what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robust.errors import VictimError
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.probe import check_gradients


class Victim(nn.Module):
    """Base of all victims; front end and normalisation are inside.

    Subclasses implement `embed` and `head`; `forward` is their composition.

    Attributes:
        spec: What the victim is and takes.
        config: The keyword arguments it was built with, for its card.
    """

    def __init__(self, spec: VictimSpec) -> None:
        super().__init__()
        self.spec = spec
        self.config: dict[str, Any] = {}

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """Latents: one entry per modality and `fused`, each (B, D) float32."""
        raise VictimError(f"The victim {self.spec.name!r} gives no embeddings; implement embed() and head().")

    def embed_modalities(self, inputs: Inputs) -> dict[str, Tensor]:
        """The latents of `embed` without `fused`: one for each modality that the victim hears or sees apart."""
        return {name: latent for name, latent in self.embed(inputs).items() if name != "fused"}

    def fuse(self, latents: Mapping[str, Tensor]) -> Tensor:
        """The fused latent from those of `embed_modalities`; of one modality alone, that latent itself.

        Raises:
            VictimError: If the victim does not say how it joins several.
        """
        if len(latents) == 1:
            return next(iter(latents.values()))
        raise VictimError(f"The victim {self.spec.name!r} does not say how it joins latents; implement fuse().")

    def head(self, fused: Tensor) -> Tensor:
        """Logits (B, K) from the fused latent (B, D)."""
        raise VictimError(f"The victim {self.spec.name!r} has no separate head; implement embed() and head().")

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (B, K) from `inputs`, modality -> (B, ...)."""
        return self.head(self.embed(inputs)["fused"])

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        *,
        sample_rate: int,
        labels: Sequence[str],
        task: Task = "multiclass",
        modalities: Sequence[str] = ("audio",),
        clip_seconds: float = 1.0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        name: str | None = None,
    ) -> Victim:
        """Makes anybody's module a victim.

        Args:
            module: Called with the tensor of its one modality, or with tensors in the order of `modalities`. Returns
                logits (B, K), or a mapping or object with `logits`, or a tuple whose first item they are.
            sample_rate: Hz at which the module wants audio.
            labels: Class names in the order of the logits.
            task: `multiclass` or `multilabel`.
            modalities: Names of the inputs.
            clip_seconds: Length of a clip.
            shapes: Shape of one example of every modality other than audio.
            bounds: Valid range per modality; audio [-1, 1] and video [0, 1] unless told.
            name: Shown in reports; the class's name unless told.

        Raises:
            VictimError: If a modality lacks a shape or bounds, the module cannot run on such inputs, or it detaches
                gradients (it is run once to see).
        """
        limits = {**DEFAULT_BOUNDS, **(bounds or {})}
        for modality in modalities:
            if modality not in limits or (modality != "audio" and modality not in (shapes or {})):
                raise VictimError(
                    f"The modality {modality!r} needs a shape and bounds: pass shapes={{{modality!r}: (...)}} and "
                    f"bounds={{{modality!r}: (low, high)}}."
                )
        spec = VictimSpec(
            name=name or type(module).__name__,
            labels=tuple(labels),
            task=task,
            modalities=tuple(modalities),
            sample_rate=sample_rate,
            clip_seconds=clip_seconds,
            shapes=dict(shapes or {}),
            bounds={modality: limits[modality] for modality in modalities},
        )
        victim = _Wrapped(module, spec)
        check_gradients(victim, spec)
        return victim


class _Wrapped(Victim):
    """A user's module behind the contract; see `Victim.wrap`."""

    def __init__(self, module: nn.Module, spec: VictimSpec) -> None:
        super().__init__(spec)
        self.module = module

    def forward(self, inputs: Inputs) -> Tensor:
        outputs = self.module(*(inputs[name] for name in self.spec.modalities))
        logits = _logits_of(outputs)
        if logits.ndim != 2 or logits.shape[1] != len(self.spec.labels):
            raise VictimError(
                f"The victim {self.spec.name!r} returned logits of shape {tuple(logits.shape)}; expected "
                f"(batch, {len(self.spec.labels)}), one column for each of the labels."
            )
        return logits


def _logits_of(outputs: Any) -> Tensor:
    """The logits in what a module returned: itself, `.logits`, `["logits"]`, or the first item of a tuple."""
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    elif hasattr(outputs, "logits"):
        outputs = outputs.logits
    elif isinstance(outputs, tuple | list) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, torch.Tensor):
        raise VictimError(
            "The module did not return logits; return a tensor (batch, classes), a mapping with 'logits', an object "
            "with .logits, or a tuple whose first item they are."
        )
    return outputs
