"""What every victim must keep, whatever its architecture; a test of one derives from `VictimContract`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from robust.errors import VictimError
from robust.victims.base import Victim
from robust.victims.checkpoints import load_checkpoint, save_checkpoint
from robust.victims.probe import check_gradients
from robust.victims.registry import build_victim, victim_entry

LABELS = tuple("abcdef")


def build_seeded(name: str, seed: int = 0, **config: Any) -> Victim:
    """An untrained victim with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # layers draw their weights from the global generator
        return build_victim(name, labels=LABELS, **config).eval()


def inputs_of(victim: Victim, batch: int = 3) -> dict[str, Tensor]:
    """Quiet noise in the shape of a batch."""
    generator = torch.Generator().manual_seed(0)
    return {
        modality: torch.rand(batch, *victim.spec.shape(modality), generator=generator)
        * (0.2 if modality == "audio" else 1)
        for modality in victim.spec.modalities
    }


class VictimContract:
    """The contract; a subclass names a registered victim and a configuration small enough for float64.

    Attributes:
        name: Registered name.
        tiny: Updates the configuration of the embedded weights.
        largest: Bytes that the embedded weights may have.
        heard: Least share of an input that a logit depends on.
        source: Whether there is one that the victim was held against.
    """

    name: ClassVar[str]
    tiny: ClassVar[dict[str, Any]] = {}
    largest: ClassVar[float] = 2e6
    heard: ClassVar[float] = 0.5
    source: ClassVar[bool] = True

    @pytest.fixture
    def victim(self) -> Victim:
        return self.made()

    def made(self, seed: int = 0) -> Victim:
        return build_seeded(self.name, seed, **{**victim_entry(self.name).small, **self.tiny})

    def test_shapes_and_composition(self, victim: Victim) -> None:
        inputs = inputs_of(victim)
        latents, logits = victim.embed(inputs), victim(inputs)
        assert victim.spec.name == self.name
        assert {"fused"} <= latents.keys() <= {*victim.spec.modalities, "fused"}
        assert all(latent.ndim in (2, 3) and len(latent) == 3 for latent in latents.values())
        assert logits.shape == (3, len(LABELS))
        assert logits.dtype == torch.float32
        torch.testing.assert_close(victim.head(latents["fused"]), logits)

    def test_gradients_reach_the_input(self, victim: Victim) -> None:
        check_gradients(victim, victim.spec)

    def test_gradients_are_those_of_the_function(self, victim: Victim) -> None:
        victim = victim.double()
        inputs = {key: value.double().requires_grad_() for key, value in inputs_of(victim, 2).items()}
        gradients = torch.autograd.grad(victim(inputs)[:, 0].sum(), list(inputs.values()))
        for (key, value), gradient in zip(inputs.items(), gradients, strict=True):
            assert (gradient != 0).double().mean() > self.heard
            step = 1e-7 * gradient / gradient.norm()
            with torch.no_grad():
                up, down = ({**inputs, key: value + sign * step} for sign in (1, -1))
                rise = victim(up)[:, 0].sum() - victim(down)[:, 0].sum()
            torch.testing.assert_close(rise / 2e-7, gradient.norm(), rtol=1e-3, atol=1e-9)

    def test_evaluation_is_deterministic_and_does_not_depend_on_the_batch(self, victim: Victim) -> None:
        inputs = inputs_of(victim)
        kept = {key: value.clone() for key, value in inputs.items()}
        state = {key: value.clone() for key, value in victim.state_dict().items()}
        first, second = victim(inputs), victim(inputs)
        assert torch.equal(first, second)
        assert all(torch.equal(inputs[key], kept[key]) for key in kept)
        assert all(torch.equal(value, state[key]) for key, value in victim.state_dict().items())
        for row in range(3):
            alone = victim({key: value[row : row + 1] for key, value in inputs.items()})
            torch.testing.assert_close(alone, first[row : row + 1], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("share", [0.6, 1.7])
    def test_clips_of_other_lengths(self, victim: Victim, share: float) -> None:
        if victim.spec.modalities != ("audio",):
            pytest.skip("sound alone may have any length")
        samples = round(share * victim.spec.clip_samples)
        audio = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
        logits = victim({"audio": audio.requires_grad_()})
        assert logits.shape == (2, len(LABELS))
        assert torch.isfinite(logits).all()
        assert torch.isfinite(torch.autograd.grad(logits.square().sum(), audio)[0]).all()

    @pytest.mark.parametrize("what", ["silence", "clipping", "nearly silent"])
    def test_silence_and_clipping_are_finite(self, victim: Victim, what: str) -> None:
        inputs = inputs_of(victim)
        for key, value in inputs.items():
            level = {"silence": 0.0, "nearly silent": 1e-6, "clipping": 1.0}[what]
            extreme = level * torch.sign(value - value.mean()) if key == "audio" else torch.full_like(value, level)
            inputs[key] = extreme.requires_grad_()
        logits = victim(inputs)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(3))
        assert torch.isfinite(logits).all()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, list(inputs.values())))

    def test_saved_and_loaded_it_gives_equal_logits(self, victim: Victim, tmp_path: Path) -> None:
        path = tmp_path / "it.safetensors"
        save_checkpoint(victim, path, {})
        again = load_checkpoint(path).eval()
        assert torch.equal(again(inputs_of(victim)), victim(inputs_of(victim)))

    def test_training_gives_every_parameter_a_gradient(self, victim: Victim) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # dropout
            victim.train()(inputs_of(victim)).square().sum().backward()
        without = [key for key, value in victim.named_parameters() if value.requires_grad and value.grad is None]
        assert not without

    def test_the_small_configuration_is_small(self) -> None:
        entry = victim_entry(self.name)
        victim = entry.build(labels=tuple(map(str, range(16))), **entry.small)
        assert 2 * sum(value.numel() for value in victim.state_dict().values()) < 0.985 * self.largest
        assert victim.spec.sample_rate == 16_000
        assert victim.spec.clip_seconds == 1.0
        assert bool(entry.parity) == self.source

    def test_unknown_configuration_is_refused(self) -> None:
        with pytest.raises(VictimError, match="widht"):
            build_victim(self.name, labels=LABELS, widht=2)
