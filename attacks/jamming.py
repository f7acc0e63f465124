"""Adversarial music: a guitar tune that keeps a wake-word detector from hearing its word.

After Li et al., "Adversarial Music", NeurIPS 2019, as far as it is known (methods.md 4.2): the attacker plays music
while somebody speaks, and music comes from a synthesiser whose parameters are optimised by projected ascent inside a
set in which the sound remains music,

    max_theta  E_{x, t, t'} [ loss(f(t(x) + t'(music_theta))) ] - weight * penalty(music_theta),

with independent rooms t and t' for speech and loudspeaker, a random delay between them and a random relative level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from attacks.gradients import Victim, frozen
from attacks.losses import Goal, find_loss
from attacks.music import LOUDNESS_LUFS, Music, Theta


class Channel(Protocol):
    """A stretch of the way from a sound to a victim, as of `attacks.channel`."""

    def draw(self, clips: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """What happens to each of `clips` (B, T)."""
        ...

    def __call__(self, clips: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """What is heard, (B, T)."""
        ...


def windows(loop: Tensor, starts: Tensor, samples: int) -> Tensor:
    """(B, samples): what is heard of a `loop` (T,) from each of `starts` (B,) int64 on, as it goes round."""
    places = (starts[:, None] + torch.arange(samples, device=starts.device)) % len(loop)
    return loop[places]


@dataclass(frozen=True)
class Meeting:
    """How a clip and the music come together, drawn for each of B clips.

    Attributes:
        starts: (B,) int64, sample of the loop that falls on the clip's first.
        smr_db: (B,) loudness of the speech over that of the music, before rooms.
        speech_room, music_room: What the channels drew; empty where there is none.
    """

    starts: Tensor
    smr_db: Tensor
    speech_room: dict[str, Tensor]
    music_room: dict[str, Tensor]

    def select(self, rows: Tensor) -> Meeting:
        """The meetings of some clips alone."""
        rooms = ({name: value[rows] for name, value in room.items()} for room in (self.speech_room, self.music_room))
        return Meeting(self.starts[rows], self.smr_db[rows], *rooms)


def draw_meeting(
    clips: Tensor,
    generators: Sequence[torch.Generator],
    *,
    loop_samples: int,
    smr_db: tuple[float, float],
    speech_channel: Channel | None,
    music_channel: Channel | None,
) -> Meeting:
    """One draw for each of `clips` (B, T): any moment of the loop, any level of the span, rooms of their own."""
    uniform = torch.stack([torch.rand(2, generator=generator, dtype=torch.float64) for generator in generators])
    starts = (uniform[:, 0] * loop_samples).long().clamp_max(loop_samples - 1).to(clips.device)
    levels = (smr_db[0] + (smr_db[1] - smr_db[0]) * uniform[:, 1]).to(clips)
    speech = {} if speech_channel is None else speech_channel.draw(clips, generators)
    music = {} if music_channel is None else music_channel.draw(clips, generators)
    return Meeting(starts, levels, speech, music)


def heard(
    clips: Tensor,
    speech_lufs: Tensor,
    loop: Tensor | None,
    meeting: Meeting,
    *,
    speech_channel: Channel | None,
    music_channel: Channel | None,
) -> Tensor:
    """What the microphone hears, (B, T), cut to [-1, 1].

    Args:
        clips: (B, T) speech.
        speech_lufs: (B,) loudness of each.
        loop: (L,) at `LOUDNESS_LUFS`; silence when None.
        meeting: Of `draw_meeting`.
        speech_channel: That of the draw.
        music_channel: That of the draw.
    """
    speech = clips if speech_channel is None else speech_channel(clips, meeting.speech_room)
    if loop is None:
        return speech.clamp(-1, 1)
    gain = 10 ** ((speech_lufs - meeting.smr_db - LOUDNESS_LUFS) / 20)
    # A second or so before the clip rings on in the room: play in from one clip's length before.
    length = clips.shape[1]
    music = windows(loop, meeting.starts - length, 2 * length) * gain[:, None]
    if music_channel is not None:
        music = music_channel(music, meeting.music_room)
    return (speech + music[:, length:]).clamp(-1, 1)


@dataclass(frozen=True)
class Jamming:
    """Settings of the fit.

    Attributes:
        steps: Updates.
        clips_per_step: Clips of one gradient, each in a room of its own.
        draws: Gradients summed for one update, one after another, so that memory does not grow with them.
        step: First step as a share of each parameter's range; it falls to 0 by a cosine.
        smr_db: Span of the speech-to-music ratio drawn per clip.
        reward_until: Margin, in logits, beyond which a missed word counts no more.
        penalty_weight: Of the penalty.
    """

    steps: int = 400
    clips_per_step: int = 32
    draws: int = 1
    step: float = 0.03
    smr_db: tuple[float, float] = (-5.0, 5.0)
    reward_until: float = 5.0
    penalty_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "clips_per_step", "draws", "step"):
            if not getattr(self, name) > 0:
                raise ThreatModelError(f"{name} must be above 0; given {getattr(self, name)}.")
        low, high = self.smr_db
        if not -60 <= low <= high <= 60:
            raise ThreatModelError(f"smr_db must be (lowest, highest) within -60 to 60 dB; given {self.smr_db}.")


@dataclass(frozen=True)
class Played:
    """Music that was fitted.

    Attributes:
        theta: Its parameters, in the valid set.
        loop: (T,) float32 one turn at `LOUDNESS_LUFS`.
        trace: Mean margin of the clips of each step; above 0 the word is missed.
        forwards, backwards: Passes of single clips.
    """

    theta: Theta
    loop: Tensor
    trace: list[float]
    forwards: int
    backwards: int


def fit_music(
    victim: Victim,
    music: Music,
    clips: Tensor,
    labels: Tensor,
    speech_lufs: Tensor,
    *,
    generator: torch.Generator,
    config: Jamming | None = None,
    speech_channel: Channel | None = None,
    music_channel: Channel | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    start: Theta | None = None,
    progress: Callable[[int], None] | None = None,
) -> Played:
    """Music that makes the victim miss what is said, whatever it is and whenever.

    Args:
        victim: Takes `audio` (B, T).
        music: Score and valid set.
        clips: (C, T) clips with the wake word, on the victim's device.
        labels: (C,) int64: the class to be missed.
        speech_lufs: (C,) loudness of each.
        generator: Of everything random, on the CPU.
        config: Settings.
        speech_channel: The way of the speech; a room for each clip, say.
        music_channel: The way of the music.
        penalty: Of the rendered loop, a number to be kept small: what is heard above a masking threshold, say.
        start: Parameters to begin with; the plain tune when None.
        progress: Called after each step with its number.

    Raises:
        ThreatModelError: If there are no clips.
    """
    config = config or Jamming()
    if len(clips) == 0:
        raise ThreatModelError("Music needs clips with the wake word to be fitted to; there are none.")
    theta = music.plain(generator) if start is None else music.projected(start)
    optimiser = _Adam(theta, music.valid.bounds(), config)
    speech = _Speech(victim, clips, labels, speech_lufs, speech_channel, music_channel, config)
    trace: list[float] = []
    with frozen(victim), torch.enable_grad():
        for step in range(config.steps):
            leaves = {name: value.requires_grad_() for name, value in theta.items()}
            loop = music.render(leaves)
            gradient, margin = speech.gradient(loop.detach(), generator)
            objective = (loop * gradient.to(loop)).sum()
            if penalty is not None:
                objective = objective - config.penalty_weight * penalty(loop)
            gradients = torch.autograd.grad(objective, list(leaves.values()), materialize_grads=True)
            theta = music.projected(optimiser.ascended(leaves, dict(zip(leaves, gradients, strict=True)), step))
            trace.append(margin)
            if progress is not None:
                progress(step)
    passes = config.steps * config.draws * config.clips_per_step
    with torch.no_grad():
        return Played(theta, music.render(theta).float(), trace, passes, passes)


@dataclass(frozen=True)
class _Speech:
    """What the music is fitted to, and the ways on which both reach the victim."""

    victim: Victim
    clips: Tensor
    labels: Tensor
    speech_lufs: Tensor
    speech_channel: Channel | None
    music_channel: Channel | None
    config: Jamming

    def gradient(self, loop: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """Gradient by `loop` (L,) of the mean loss over clips, rooms, delays and levels drawn anew; the mean margin.

        One draw after another, so that memory holds the graph of one.
        """
        playing = loop.to(self.clips).requires_grad_()
        total, margins = torch.zeros_like(playing), 0.0
        for _ in range(self.config.draws):
            margin = self._margin(playing, generator)
            (gradient,) = torch.autograd.grad(margin.clamp_max(self.config.reward_until).sum(), playing)
            total += gradient.nan_to_num(0.0, 0.0, 0.0)
            margins += float(margin.detach().double().mean())
        return total / (self.config.clips_per_step * self.config.draws), margins / self.config.draws

    def _margin(self, playing: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) margins of clips drawn, each in a meeting of its own; above 0 the word is missed."""
        rows = torch.randint(len(self.clips), (self.config.clips_per_step,), generator=generator)
        seeds = torch.randint(2**62, (len(rows),), generator=generator).tolist()
        rows = rows.to(self.clips.device)
        channels = {"speech_channel": self.speech_channel, "music_channel": self.music_channel}
        meeting = draw_meeting(
            self.clips[rows],
            [torch.Generator().manual_seed(seed) for seed in seeds],
            loop_samples=len(playing),
            smr_db=self.config.smr_db,
            **channels,
        )
        mixture = heard(self.clips[rows], self.speech_lufs[rows], playing, meeting, **channels)
        return find_loss("margin")(self.victim({"audio": mixture}), Goal(self.labels[rows]))


class _Adam:
    """Adam on parameters measured in shares of their range, with a step that falls by a cosine (Kingma & Ba 2015)."""

    FIRST, SECOND, EPSILON = 0.9, 0.99, 1e-12

    def __init__(self, theta: Theta, bounds: dict[str, tuple[float, float]], config: Jamming) -> None:
        self.span = {name: high - low for name, (low, high) in bounds.items()}
        self.config = config
        self.mean = {name: torch.zeros_like(value) for name, value in theta.items()}
        self.square = {name: torch.zeros_like(value) for name, value in theta.items()}

    def ascended(self, theta: Theta, gradients: Theta, step: int) -> Theta:
        """Parameters one step up."""
        share = self.config.step * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))
        moved = {}
        for name, value in theta.items():
            gradient = gradients[name] * self.span[name]
            self.mean[name] = self.FIRST * self.mean[name] + (1 - self.FIRST) * gradient
            self.square[name] = self.SECOND * self.square[name] + (1 - self.SECOND) * gradient.square()
            mean = self.mean[name] / (1 - self.FIRST ** (step + 1))
            square = self.square[name] / (1 - self.SECOND ** (step + 1))
            moved[name] = value.detach() + share * self.span[name] * mean / (square.sqrt() + self.EPSILON)
        return moved
