"""Expectation over transformation: attacks on what a victim hears through a random channel.

The loss is averaged over draws, not the logits (foolbox averages logits, and the loss of a mean is not the mean of the
loss); gradients are added up draw by draw, so that memory does not grow with their number (foolbox keeps all graphs).

Sources: Athalye et al. 2018; Qin et al. 2019 and Schoenherr et al. 2020 (rooms; methods.md 6).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Oracle, Victim, in_lanes, pad_to_lanes
from attacks.losses import Goal, Loss
from attacks.queries import Heard, RandomChannel, ask, fresh_draws


@dataclass(frozen=True)
class Expectation:
    """Over what a loss is averaged.

    Attributes:
        channel: What the perturbed input goes through.
        draws: K: channels in each estimate of the gradient, for each example.
        keep_steps: Q: steps for which the same draws are kept. Imperio kept a room for ten steps; fresh draws at every
            step are the better estimate where channels cost nothing, as those from a bank do.
        modality: Which input goes through it.
        sure: Fresh draws in a row in which an example must be broken to be finished: it then leaves the batch, at the
            point where it stands. Asked, at the cost of forward passes, only where the example was broken in all of its
            K draws of the step. None: no example is finished.

    Raises:
        ThreatModelError: If a count is below 1.
    """

    channel: RandomChannel
    draws: int = 4
    keep_steps: int = 1
    modality: str = "audio"
    sure: int | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "keep_steps", "sure"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ThreatModelError(f"{name} must be 1 or more; given {value}.")


class ExpectedOracle(Oracle):
    """Logits, losses and gradients through a channel, each the mean over draws.

    Logits are averaged only to tell whether an example counts as broken. Each example draws from its own generator, so
    results depend on no other example.

    Attributes:
        gradient_noise: (B,) standard error of the gradient's estimate over the estimate's length, mean over the
            estimates so far; NaN before the first and with a single draw.
    """

    def __init__(
        self,
        victim: Victim,
        count: int,
        device: torch.device,
        search_dtype: torch.dtype | None,
        expectation: Expectation,
        generators: Sequence[torch.Generator],
        valid: Mapping[str, Tensor],
    ) -> None:
        super().__init__(victim, count, device, search_dtype)
        self.expectation, self.generators = expectation, generators
        self.valid = valid.get(expectation.modality)
        self._asked = torch.zeros(count, dtype=torch.int64)
        self._begun: list[Tensor | None] = [None] * count
        self._noise = torch.zeros(count, dtype=torch.float64, device=device)
        self._estimates = torch.zeros(count, dtype=torch.int64, device=device)
        self._said = torch.empty(0, device=device)
        self._apart = [] if expectation.sure is None else [apart(generator) for generator in generators]

    @property
    def gradient_noise(self) -> Tensor:
        return torch.where(self._estimates > 0, self._noise / self._estimates.clamp_min(1), torch.nan)

    def logits(self, inputs: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """(A, K) mean logits over fresh draws."""
        total: Tensor | float = 0.0
        for draw in range(self.expectation.draws):
            self.forwards[rows] += 1
            with torch.no_grad():
                padded, count = pad_to_lanes(inputs)
                logits = self._through(inputs, rows)(padded)[:count].float()
            self.note_said(draw, rows, logits)
            total = total + logits
        assert isinstance(total, Tensor)
        return total / self.expectation.draws

    def finished(self, inputs: Mapping[str, Tensor], goal: Goal, rows: Tensor) -> Tensor:
        """(A,) bool: broken in each of the draws heard last, and in `sure` fresh ones.

        Asked in blocks of 1, 2, 4, ... draws until one fails. They come from generators of their own, so that the
        attack goes on as if it had not been asked.
        """
        finished = torch.stack([goal.broken(said) for said in self._said[:, rows]]).all(dim=0)
        name, left, block = self.expectation.modality, self.expectation.sure or 0, 1
        while left > 0 and bool(finished.any()):
            asked, block = finished.nonzero()[:, 0], min(block, left)
            own, wanted = goal.select(asked), {key: value[asked] for key, value in inputs.items()}
            points = {name: wanted[name][None]}
            said = self.ask(points, wanted, rows[asked], [(0, draw) for draw in range(block)], self._apart)
            finished[asked] = torch.stack([own.broken(logits) for logits in said]).all(dim=0)
            left, block = left - block, 2 * block
        return finished

    def ask(
        self,
        versions: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        rows: Tensor,
        pairs: Sequence[tuple[int, int]],
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Logits of several versions of each example through fresh draws, by forward passes alone.

        Args:
            versions: Modality -> (V, A, ...) versions of what is varied.
            inputs: Modality -> (A, ...), of which the others are taken as they are.
            rows: (A,) places of the examples in the batch.
            pairs: P pairs (version, draw); those with the same draw hear the same.
            generators: Of the whole batch; those of the oracle when None.

        Returns:
            (P, A, K).
        """
        self.forwards[rows] += len(pairs)
        name, channel = self.expectation.modality, self.expectation.channel
        own = [(generators or self.generators)[row] for row in rows.tolist()]
        drawn = fresh_draws(channel, inputs[name], own, 1 + max(draw for _, draw in pairs))
        heard = Heard(channel, name, drawn, None if self.valid is None else self.valid[rows])
        fixed = {other: value for other, value in inputs.items() if other not in versions}
        return ask(self.victim, versions, fixed, pairs, heard)

    def note_said(self, draw: int, rows: Tensor, logits: Tensor) -> None:
        """Remembers what was heard in each draw, if somebody will ask whether it was broken in all."""
        if self.expectation.sure is None:
            return
        if not len(self._said):
            self._said = logits.new_zeros(self.expectation.draws, len(self.forwards), logits.shape[1])
        self._said[draw, rows] = logits

    def _gradients(
        self, inputs: Mapping[str, Tensor], goal: Goal, loss: Loss, rows: Tensor, wanted: Container[str] | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        draws = self.expectation.draws
        self.forwards[rows] += draws - 1
        self.backwards[rows] += draws - 1
        self._rewind(rows)
        sums: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None
        squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for draw in range(draws):
            logits, losses, gradients = self._one_pass(self._through(inputs, rows), inputs, goal, loss, wanted)
            self.note_said(draw, rows, logits)
            squares += _square(gradients)
            if sums is None:
                sums = logits, losses, gradients
            else:
                totals = {name: sums[2][name].add_(value) for name, value in gradients.items()}
                sums = sums[0] + logits, sums[1] + losses, totals
        assert sums is not None
        means = {name: value / draws for name, value in sums[2].items()}
        self.note_noise(rows, squares, means, draws)
        return sums[0] / draws, sums[1] / draws, means

    def _rewind(self, rows: Tensor) -> None:
        """Lets the examples draw again what they drew, `keep_steps` times; states, not draws, are kept in memory."""
        for row in rows.tolist():
            state = self._begun[row]
            if state is None or int(self._asked[row]) % self.expectation.keep_steps == 0:
                self._begun[row] = self.generators[row].get_state()
            else:
                self.generators[row].set_state(state)
            self._asked[row] += 1

    def _through(self, inputs: Mapping[str, Tensor], rows: Tensor) -> Victim:
        """The victim behind one draw of the channel for each example; it takes them in full lanes."""
        name, channel = self.expectation.modality, self.expectation.channel
        drawn = channel.draw(inputs[name].detach(), [self.generators[row] for row in rows.tolist()])
        parameters = {key: in_lanes(value) for key, value in drawn.items()}
        valid = None if self.valid is None else in_lanes(self.valid[rows].expand_as(inputs[name]))

        def through(given: dict[str, Tensor]) -> Tensor:
            return self.victim({**given, name: channel(given[name], parameters, valid)})

        return through

    def note_noise(self, rows: Tensor, squares: Tensor, means: Mapping[str, Tensor], draws: int) -> None:
        """Adds one estimate to `gradient_noise`: the mean of `draws` parts with summed squared lengths `squares`."""
        if draws < 2:
            return
        length = _square(means)
        variance = (squares / draws - length).clamp_min(0) / (draws - 1)
        self._noise[rows] += (variance / length.clamp_min(1e-60)).sqrt()
        self._estimates[rows] += 1


def apart(generator: torch.Generator, stream: int = 0) -> torch.Generator:
    """A generator that follows from another, which stays as it is; `stream` tells several apart."""
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return torch.Generator().manual_seed(int(torch.randint(2**62, (stream + 1,), generator=twin)[stream]))


def _square(gradients: Mapping[str, Tensor]) -> Tensor:
    """(B,) squared length over all modalities."""
    total: Tensor = sum(
        (value.double().flatten(1).square().sum(dim=1) for value in gradients.values()), start=torch.zeros(())
    )
    return total


__all__ = ["Expectation", "ExpectedOracle", "RandomChannel", "apart"]
