"""`wakeword`: a time-delayed bottleneck highway network on log filter banks.

After Guo et al., "Time-delayed bottleneck highway networks using a DFT feature for keyword spotting", ICASSP 2018: 64
log filter-bank energies (25 ms every 10 ms), a prenet with highway blocks, a linear bottleneck whose outputs for 20
frames before and 10 after are concatenated, highway blocks, and a softmax for every frame. Sizes of the prenet (64),
the blocks (4 and 6) and the bottleneck (28): methods.md 4.2. The concatenation goes through one linear layer, so that
the later blocks may be narrower than 31 x 28.

From frames to a clip: the log-odds of each class against the background class, averaged over `smoothing_seconds` and
then at their highest. Log-odds rather than probabilities, since those saturate and hide the gradient; the highest value
passes its gradient to all frames of the window it stands for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.gradients import frozen
from robust.errors import VictimError, unknown
from robust.frontends.logmel import LogMel
from robust.types import DEFAULT_BOUNDS, Inputs, Task, VictimSpec
from robust.victims.base import Victim
from robust.victims.registry import register

HOP_SECONDS, WINDOW_SECONDS = 0.01, 0.025
BACKGROUND_NAMES = ("other", "background", "_background_", "negative", "negatives", "noise", "unknown", "none")


@dataclass(frozen=True)
class WakewordSettings:
    """Configuration.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of a clip.
        n_mels: Filters.
        prenet: Units of the prenet and its highway blocks.
        prenet_blocks: Highway blocks below the bottleneck.
        bottleneck: Its size.
        left, right: Frames of context before and after.
        width: Units of the highway blocks above the bottleneck.
        blocks: Their number.
        dropout: In training, below the two linear layers.
        smoothing_seconds: Over which log-odds are averaged; about as long as the phrase.
        background: Name of the class that stands for everything else; when None, `other`, `background`, `negative`...
            if there is one, else the first.
        mean_db, std_db: By which log energies are normalised.
    """

    sample_rate: int = 16_000
    clip_seconds: float = 1.6
    n_mels: int = 64
    prenet: int = 64
    prenet_blocks: int = 4
    bottleneck: int = 28
    left: int = 20
    right: int = 10
    width: int = 128
    blocks: int = 6
    dropout: float = 0.2
    smoothing_seconds: float = 0.5
    background: str | None = None
    mean_db: float = -35.0
    std_db: float = 20.0

    def check(self) -> None:
        """Raises `VictimError` for what cannot be."""
        for name in ("n_mels", "prenet", "bottleneck", "width", "smoothing_seconds", "std_db"):
            if not getattr(self, name) > 0:
                raise VictimError(f"{name} of a wake-word network must be above 0; given {getattr(self, name)}.")
        if self.clip_seconds < 2 * WINDOW_SECONDS:
            raise VictimError(f"clip_seconds must be {2 * WINDOW_SECONDS:g} or more; given {self.clip_seconds}.")
        if min(self.left, self.right, self.prenet_blocks, self.blocks) < 0:
            raise VictimError("left, right, prenet_blocks and blocks of a wake-word network cannot be negative.")


class Highway(nn.Module):
    """y = g * relu(W x) + (1 - g) * x with gate g = sigmoid(V x) (Srivastava et al. 2015); starts out near identity."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.transform = nn.Linear(units, units)
        self.gate = nn.Linear(units, units)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, units: Tensor) -> Tensor:
        """(..., units) of the same shape."""
        gate = torch.sigmoid(self.gate(units))
        return gate * functional.relu(self.transform(units)) + (1 - gate) * units


class Wakeword(Victim):
    """The network; frames are independent of the clip's length, so that streams of any length can be scored."""

    def __init__(self, *, labels: tuple[str, ...], task: Task, settings: WakewordSettings) -> None:
        settings.check()
        if task != "multiclass" or len(labels) < 2:
            raise VictimError(
                f"A wake-word network needs two classes or more with one label a clip; given {len(labels)} ({task})."
            )
        super().__init__(
            VictimSpec(
                name="wakeword",
                labels=labels,
                task=task,
                sample_rate=settings.sample_rate,
                clip_seconds=settings.clip_seconds,
                bounds={"audio": DEFAULT_BOUNDS["audio"]},
            )
        )
        self.settings = settings
        self.config = asdict(settings)
        self.background = background_index(labels, settings.background)
        hop = round(HOP_SECONDS * settings.sample_rate)
        self.log_mel = LogMel(
            sample_rate=settings.sample_rate,
            n_fft=round(WINDOW_SECONDS * settings.sample_rate),
            hop_length=hop,
            n_mels=settings.n_mels,
            amin=1e-9,
        )
        self.prenet = nn.Sequential(
            nn.Linear(settings.n_mels, settings.prenet),
            nn.ReLU(),
            *(Highway(settings.prenet) for _ in range(settings.prenet_blocks)),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.prenet, settings.bottleneck),
        )
        # The linear layer over 31 concatenated bottlenecks, as the convolution that it is.
        self.context = nn.Conv1d(settings.bottleneck, settings.width, settings.left + 1 + settings.right)
        self.highway = nn.Sequential(
            nn.ReLU(), *(Highway(settings.width) for _ in range(settings.blocks)), nn.Dropout(settings.dropout)
        )
        self.classifier = nn.Linear(settings.width, len(labels))
        self.smoothing = max(1, round(settings.smoothing_seconds / HOP_SECONDS))

    def embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """`audio` and `fused`: (B, frames, width), one latent every 10 ms."""
        features = (self.log_mel(inputs["audio"]) - self.settings.mean_db) / self.settings.std_db
        bottleneck = self.prenet(features).transpose(1, 2)
        padded = functional.pad(bottleneck, (self.settings.left, self.settings.right))
        latent = self.highway(self.context(padded).transpose(1, 2))
        return {"audio": latent, "fused": latent}

    def head(self, fused: Tensor) -> Tensor:
        """Logits (B, K): 0 for the background, the highest smoothed log-odds against it for every other class."""
        return self.smoothed(fused).amax(dim=1)

    def smoothed(self, fused: Tensor) -> Tensor:
        """(B, windows, K) log-odds against the background averaged over every whole window; 0 for the background.

        A clip shorter than the window is one window.
        """
        frames = self.classifier(fused)
        odds = frames - frames[..., self.background : self.background + 1]
        size = min(self.smoothing, odds.shape[1])
        return functional.avg_pool1d(odds.transpose(1, 2), size, stride=1).transpose(1, 2)


def background_index(labels: tuple[str, ...], background: str | None) -> int:
    """The place of the class that stands for everything else.

    Raises:
        VictimError: If the one named is not there.
    """
    if background is not None:
        if background not in labels:
            raise VictimError(unknown("background class", background, labels))
        return labels.index(background)
    lower = [label.lower() for label in labels]
    return next((lower.index(name) for name in BACKGROUND_NAMES if name in lower), 0)


def stream_scores(victim: Wakeword, audio: Tensor, *, label: str | None = None, chunk_seconds: float = 60.0) -> Tensor:
    """Scores of a long recording, one every 10 ms: the log-odds of waking over the last `smoothing_seconds`.

    The network looks `right` frames (0.1 s) ahead; a score stands at the frame at which its window ends, and detection
    delays measured from it should have that look-ahead added. Where the recording is as long as a clip, the highest
    score is the clip's logit. Computed in chunks that overlap, with the same result as in one.

    Args:
        victim: A `wakeword` network.
        audio: (T,) float32 in [-1, 1] at its sample rate, 0.05 s or more.
        label: Class to listen for; with two classes the one that is not the background.
        chunk_seconds: Of audio at once.

    Returns:
        (1 + T // hop,) float32; before the first whole window -infinity.

    Raises:
        VictimError: If the victim is another, or the class unknown or the background, or the audio no waveform.
    """
    if not isinstance(victim, Wakeword):
        raise VictimError(f"Streams are scored by a `wakeword` victim; given {type(victim).__name__}.")
    place = _listened(victim, label)
    hop, settings = victim.log_mel.hop_length, victim.settings
    if audio.ndim != 1 or len(audio) < 2 * WINDOW_SECONDS * settings.sample_rate:
        raise VictimError(f"A stream is a waveform (T,) of 0.05 s or more; given {tuple(audio.shape)}.")
    total = 1 + len(audio) // hop
    # Frames that a frame's latent depends on, with those that the reflected edge of a chunk spoils.
    reach = max(settings.left, settings.right) + 2
    size = max(int(chunk_seconds / HOP_SECONDS), 4 * reach)
    latents = []
    with frozen(victim), torch.no_grad():
        for first in range(0, total, size):
            low, high = max(first - reach, 0), min(first + size + reach, total)
            part = audio[low * hop : len(audio) if high == total else high * hop]
            if len(part) <= victim.log_mel.n_fft:  # a stub at the end: look further back
                low = max(low - 4 * reach, 0)
                part = audio[low * hop :]
            latent = victim.embed({"audio": part[None]})["fused"]
            latents.append(latent[:, first - low : min(first + size, total) - low])
        scores = victim.smoothed(torch.cat(latents, dim=1))[0, :, place]
    early = torch.full((total - len(scores),), -torch.inf, dtype=scores.dtype, device=scores.device)
    return torch.cat([early, scores])


def _listened(victim: Wakeword, label: str | None) -> int:
    labels = victim.spec.labels
    others = [name for place, name in enumerate(labels) if place != victim.background]
    if label is None and len(others) == 1:
        return labels.index(others[0])
    if label not in others:
        raise VictimError(unknown("class to listen for", label, others))
    return labels.index(str(label))


SMALL: dict[str, Any] = {"width": 80}


@register(
    "wakeword",
    summary="time-delayed bottleneck highway network on 64 log filter banks (Guo et al. 2018); streams",
    family="mlp",
    small=SMALL,
    recipe={"epochs": 18, "learning_rate": 3e-3, "weight_decay": 0.01, "mixup_alpha": 0.0},
)
def build_wakeword(*, labels: tuple[str, ...], task: Task = "multiclass", **config: Any) -> Victim:
    """Builds an untrained network; `config` is that of `WakewordSettings`."""
    return Wakeword(labels=labels, task=task, settings=WakewordSettings(**config))
