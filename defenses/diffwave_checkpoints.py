"""Published DiffWave checkpoints, unconditional ones, as diffusion models of waveforms: read without running code.

Two layouts are known: that of the DiffWave authors' SC09 models, which AudioPure purifies with
(`residual_layer.residual_blocks.0...`), and that of LMNT (`residual_layers.0...`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.errors import RobustError
from defenses.diffusion import Schedule
from defenses.diffwave import LONG_CYCLE, USUAL_CYCLE, DiffWave, DiffWaveSettings


def load_diffwave(
    path: str | os.PathLike[str],
    *,
    sample_rate: int = 16_000,
    samples: int = 16_000,
    dilation_cycle: int | None = None,
    schedule: Schedule | None = None,
) -> DiffWave:
    """An unconditional DiffWave from a published checkpoint; never runs code from it.

    Sizes are read from the shapes. What shapes do not tell (dilation cycle, schedule, sample rate) is taken from the
    checkpoint's `params` (LMNT), or from a `config.json` beside it (the authors' and AudioPure's); where neither says
    it, from the arguments.

    Args:
        path: `.safetensors`, or what torch saved (.pt, .pth, .pkl): a state dict, bare or under `model_state_dict`,
            `model` or `state_dict`.
        sample_rate: Hz of the clips.
        samples: Their length.
        dilation_cycle: Where nothing says it and this is None: 12 of 36 layers and the like, 10 else.
        schedule: Where nothing says it and this is None: 200 steps from 1e-4 to 0.02.

    Raises:
        RobustError: If the file cannot be read, is no unconditional DiffWave, or is of another sample rate.
    """
    place = Path(path).expanduser()
    state, facts = _read(place)
    told = _Told.of(facts, place)
    if told.sample_rate not in (None, sample_rate):
        raise RobustError(
            f"The DiffWave checkpoint {place} was trained at {told.sample_rate} Hz and is asked to purify clips of "
            f"{sample_rate} Hz; use a checkpoint of {sample_rate} Hz, or a victim that hears {told.sample_rate} Hz."
        )
    found = _Found(state, place)
    settings, weights = found.authors() if "init_conv.0.conv.bias" in state else found.lmnt()
    long = settings["layers"] % LONG_CYCLE == 0 and settings["layers"] % USUAL_CYCLE != 0
    cycle = told.cycle or dilation_cycle or (LONG_CYCLE if long else USUAL_CYCLE)
    with torch.random.fork_rng():  # building draws weights from the global generator
        model = DiffWave(
            DiffWaveSettings(dilation_cycle=cycle, **settings),
            schedule=told.schedule or schedule,
            sample_rate=sample_rate,
            samples=samples,
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RobustError(f"The shapes in {place} do not fit each other: {error}") from error
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Told:
    """What a checkpoint or its configuration says of itself."""

    cycle: int | None
    schedule: Schedule | None
    sample_rate: int | None

    @classmethod
    def of(cls, facts: Mapping[str, Any], path: Path) -> _Told:
        try:
            if "noise_schedule" in facts:  # LMNT
                betas = [float(beta) for beta in facts["noise_schedule"]]
                return cls(facts.get("dilation_cycle_length"), _linear(betas), facts.get("sample_rate"))
            noise = facts.get("diffusion_config")
            schedule = None if noise is None else Schedule("linear", noise["T"], noise["beta_0"], noise["beta_T"])
            cycle = facts.get("wavenet_config", {}).get("dilation_cycle")
            return cls(cycle, schedule, facts.get("trainset_config", {}).get("sampling_rate"))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise RobustError(
                f"The configuration of the DiffWave checkpoint {path} cannot be understood "
                f"({type(error).__name__}: {error}); expected diffusion_config with T, beta_0 and beta_T, or LMNT's "
                "params with a linear noise_schedule."
            ) from error


def _linear(betas: list[float]) -> Schedule:
    """The linear schedule that a list of betas is."""
    step = (betas[-1] - betas[0]) / (len(betas) - 1) if len(betas) > 1 else math.nan
    if not all(abs(beta - betas[0] - place * step) < 1e-9 for place, beta in enumerate(betas)):
        raise ValueError("noise_schedule is not linear")
    return Schedule("linear", len(betas), betas[0], betas[-1])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, without the prefix of data-parallel training, and what stands beside them."""
    if not path.is_file():
        raise RobustError(f"There is no DiffWave checkpoint at {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RobustError(
            f"{path} cannot be read as weights: {first} Checkpoints that need code to be read are refused; save the "
            "state dict alone, with safetensors.torch.save_file."
        ) from error
    facts = content.get("params") if isinstance(content, dict) else None
    for key in ("model_state_dict", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RobustError(
            f"{path} holds no state dict (names and tensors), bare or under `model_state_dict` or `model`."
        )
    state = {str(name).removeprefix("module."): value.float() for name, value in content.items()}
    return state, dict(facts) if isinstance(facts, Mapping) else _config_beside(path)


def _config_beside(path: Path) -> dict[str, Any]:
    """What `config.json`, or a JSON file with the checkpoint's name, says."""
    for config in (path.with_suffix(".json"), path.parent / "config.json"):
        if config.is_file():
            try:
                facts = json.loads(config.read_text())
            except (OSError, ValueError) as error:
                raise RobustError(f"{config}, beside the checkpoint, cannot be read: {error}.") from error
            if isinstance(facts, dict):
                return facts
    return {}


class _Found:
    """Weights of a checkpoint under its own names, taken one by one: none may be missing, and none left."""

    def __init__(self, state: dict[str, Tensor], path: Path) -> None:
        self.left, self.path = dict(state), path

    def authors(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Sizes and weights in the layout of the DiffWave authors."""
        weights: dict[str, Tensor] = {}
        self._pair(weights, "first", "init_conv.0.conv")
        self._pair(weights, "steps_in", "residual_layer.fc_t1")
        self._pair(weights, "steps_out", "residual_layer.fc_t2")
        layers = self._count("residual_layer.residual_blocks.")
        for place in range(layers):
            theirs, ours = f"residual_layer.residual_blocks.{place}", f"layers.{place}"
            self._pair(weights, f"{ours}.step", f"{theirs}.fc_t")
            self._pair(weights, f"{ours}.dilated", f"{theirs}.dilated_conv_layer.conv")
            onwards, skipped = self._taken(f"{theirs}.res_conv"), self._taken(f"{theirs}.skip_conv")
            both = (torch.cat(pair) for pair in zip(onwards, skipped, strict=True))
            weights[f"{ours}.out.weight"], weights[f"{ours}.out.bias"] = both
        self._pair(weights, "skip", "final_conv.0.conv")
        self._pair(weights, "last", "final_conv.2.conv")
        return self._sizes(layers, weights, ascending=False, carries_step=True), weights

    def lmnt(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Sizes and weights in LMNT's layout."""
        if any("conditioner_projection" in name or "spectrogram_upsampler" in name for name in self.left):
            raise RobustError(
                f"{self.path} is a DiffWave that is conditioned on spectrograms (a vocoder); purification needs an "
                "unconditional one."
            )
        weights: dict[str, Tensor] = {}
        self._pair(weights, "first", "input_projection")
        self._pair(weights, "steps_in", "diffusion_embedding.projection1")
        self._pair(weights, "steps_out", "diffusion_embedding.projection2")
        layers = self._count("residual_layers.")
        for place in range(layers):
            theirs, ours = f"residual_layers.{place}", f"layers.{place}"
            self._pair(weights, f"{ours}.step", f"{theirs}.diffusion_projection")
            gate_first = self._taken(f"{theirs}.dilated_conv")
            halves = (torch.cat(value.chunk(2)[::-1]) for value in gate_first)
            weights[f"{ours}.dilated.weight"], weights[f"{ours}.dilated.bias"] = halves
            self._pair(weights, f"{ours}.out", f"{theirs}.output_projection")
        self._pair(weights, "skip", "skip_projection")
        self._pair(weights, "last", "output_projection")
        return self._sizes(layers, weights, ascending=True, carries_step=False), weights

    def _sizes(self, layers: int, weights: dict[str, Tensor], **more: bool) -> dict[str, Any]:
        if self.left:
            names = sorted(self.left)
            more_than = ", ..." if len(names) > 3 else ""
            raise RobustError(
                f"{self.path} holds {len(names)} weights that an unconditional DiffWave has not: "
                f"{', '.join(names[:3])}{more_than}."
            )
        return {
            "layers": layers,
            "channels": weights["first.weight"].shape[0],
            "skip_channels": weights["skip.weight"].shape[0],
            "embedded": weights["steps_in.weight"].shape[1],
            "hidden": (weights["steps_in.weight"].shape[0], weights["steps_out.weight"].shape[0]),
            **more,
        }

    def _count(self, start: str) -> int:
        """Layers, by the highest number behind `start`."""
        places = [name.removeprefix(start).split(".")[0] for name in self.left if name.startswith(start)]
        return max((int(place) + 1 for place in places if place.isdigit()), default=0)

    def _pair(self, weights: dict[str, Tensor], ours: str, theirs: str) -> None:
        weights[f"{ours}.weight"], weights[f"{ours}.bias"] = self._taken(theirs)

    def _taken(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer; weight norm is multiplied out."""
        for length, direction in (("weight_g", "weight_v"), _PARAMETRISED):
            if f"{name}.{length}" in self.left:
                direct = self._one(f"{name}.{direction}")
                norm = direct.flatten(1).norm(dim=1).reshape(-1, *[1] * (direct.ndim - 1))
                return self._one(f"{name}.{length}") * direct / norm, self._one(f"{name}.bias")
        return self._one(f"{name}.weight"), self._one(f"{name}.bias")

    def _one(self, name: str) -> Tensor:
        try:
            return self.left.pop(name)
        except KeyError:
            raise RobustError(
                f"{self.path} lacks {name!r}, which an unconditional DiffWave has in this layout."
            ) from None


_PARAMETRISED = ("parametrizations.weight.original0", "parametrizations.weight.original1")
"""What newer torch calls length and direction of a weight-normed layer."""

__all__ = ["load_diffwave"]
