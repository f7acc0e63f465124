"""Purifiers by name: what `--purify` takes.

waveform:3                  diffusion of waveforms, embedded weights, n* = 3 steps of DDPM
mel:5:ddim                  of log-mel spectrograms, 5 steps of DDIM; or one-shot
PATH.safetensors:3          a model of `robust train --diffusion`
denoise                     of a clip's own white noise, in one shot; adds none, so it is no defense
diffwave:PATH:3             a published DiffWave checkpoint (.pt, .pkl, .pth or .safetensors)
low-pass:4000+waveform:3    one after another
none                        the bare victim, for black-box attacks
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from attacks.channel import Channel
from attacks.errors import ThreatModelError, unknown

if TYPE_CHECKING:
    from defenses.diffusion import DiffusionModel

DEFAULT_STEPS = 3
"""AudioPure's n*."""


@dataclass(frozen=True)
class _Heard:
    """Of what clips a purifier is made."""

    sample_rate: int
    samples: int


@dataclass(frozen=True)
class _Entry:
    """A kind of purifier: how it is written, what it is, and what makes it from what stands behind its name."""

    form: str
    summary: str
    build: Callable[[str, _Heard], Channel]


def load_purifier(text: str, *, sample_rate: int, samples: int, device: str | torch.device = "cpu") -> Channel:
    """The purifier that a text names.

    Args:
        text: As at the head of this module; settings that are left out are AudioPure's.
        sample_rate: Hz of the clips.
        samples: Their length.
        device: Where its weights go; `auto` takes CUDA where there is one.

    Returns:
        A channel; of several, a `Chain` called as the text.

    Raises:
        ThreatModelError: If there is no such purifier, a setting is out of range, or a diffusion model is of clips of
            another rate or length.
        CheckpointError: If weights cannot be read.
    """
    from robust.victims.loading import find_device

    heard = _Heard(sample_rate, samples)
    parts = [_told(word.strip(), heard) for word in text.split("+")]
    purifier = parts[0] if len(parts) == 1 else _chain(parts, text, heard)
    return purifier.to(find_device(device)).eval().requires_grad_(False)


def purifier_forms() -> dict[str, str]:
    """How each purifier is written, with its settings -> what it is; for help."""
    return {entry.form: entry.summary for entry in _ENTRIES.values()}


def _chain(parts: list[Channel], text: str, heard: _Heard) -> Channel:
    from robust.channels.chain import Chain

    return Chain(parts, sample_rate=heard.sample_rate, name=text.replace(" ", ""))


def _told(word: str, heard: _Heard) -> Channel:
    """The purifier of one word; what is wrong with its settings is told with it."""
    name, _, rest = word.partition(":")
    try:
        return _one(name, rest, word, heard)
    except ThreatModelError as error:
        raise ThreatModelError(f"In the purifier {word!r}: {error}") from error


def _one(name: str, rest: str, word: str, heard: _Heard) -> Channel:
    if name in _ENTRIES:
        return _ENTRIES[name].build(rest, heard)
    if ".safetensors" in word:
        path, steps, method = _diffusion_words(word)
        return _diffusion(path, steps, method, heard)
    raise ThreatModelError(f"{unknown('purifier', name, _ENTRIES)} Or give PATH.safetensors:STEPS.")


def _diffusion_words(text: str) -> tuple[str, int, Literal["ddpm", "ddim", "one-shot"]]:
    """`PATH:STEPS:METHOD` as its parts; the last two may be absent, and the path may hold colons."""
    from defenses.purify import METHODS

    words = text.split(":")
    method = words.pop() if words[-1] in METHODS else "ddpm"
    steps = DEFAULT_STEPS
    if len(words) > 1 and "/" not in words[-1]:
        last = words.pop()
        try:
            steps = int(last)
        except ValueError:
            if last[:1].isalpha():
                raise ThreatModelError(unknown("way back", last, METHODS)) from None
            raise ThreatModelError(f"n* must be a whole number of steps from 1; given {last!r}.") from None
    return ":".join(words), steps, "ddim" if method == "ddim" else "one-shot" if method == "one-shot" else "ddpm"


def _embedded(name: str) -> Callable[[str, _Heard], Channel]:
    def build(rest: str, heard: _Heard) -> Channel:
        _, steps, method = _diffusion_words(f"{name}:{rest}" if rest else name)
        return _diffusion(name, steps, method, heard)

    return build


def _diffusion(name_or_path: str, steps: int, method: Literal["ddpm", "ddim", "one-shot"], heard: _Heard) -> Channel:
    from defenses.purify import DiffusionPurifier
    from robust.diffusion_models import load_diffusion

    model = load_diffusion(name_or_path)
    _check_clips(name_or_path, model, heard)
    return DiffusionPurifier(model, steps, method)


def _check_clips(name: str, model: DiffusionModel, heard: _Heard) -> None:
    """Raises `ThreatModelError` unless the model is of such clips."""
    if (model.sample_rate, model.samples) == (heard.sample_rate, heard.samples):
        return
    seconds = heard.samples / heard.sample_rate
    raise ThreatModelError(
        f"The diffusion model {name!r} is of clips of {model.samples} samples at {model.sample_rate} Hz, and the "
        f"victim hears {heard.samples} samples at {heard.sample_rate} Hz. Train one for it with `robust train "
        f"--diffusion {model.domain} --clip-seconds {seconds:g}` on clips of {heard.sample_rate} Hz, or take a victim "
        "of the model's rate and length."
    )


def _diffwave(rest: str, heard: _Heard) -> Channel:
    from defenses.diffwave_checkpoints import load_diffwave
    from defenses.purify import DiffusionPurifier

    path, steps, method = _diffusion_words(rest)
    if not path:
        raise ThreatModelError("diffwave needs a checkpoint: diffwave:PATH:STEPS, e.g. diffwave:1000000.pkl:3.")
    return DiffusionPurifier(load_diffwave(path, sample_rate=heard.sample_rate, samples=heard.samples), steps, method)


def _average(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Average

    return Average(heard.sample_rate, _number("average", rest, int, 3, "an odd number of samples"))


def _median(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Median

    return Median(heard.sample_rate, _number("median", rest, int, 3, "an odd number of samples"))


def _down_up(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Settled
    from robust.channels.transmission import Resample

    lowest = 100 / heard.sample_rate
    factor = _number("down-up", rest, float, 0.5, "the lower rate over the clips' own")
    if not lowest <= factor < 1:
        raise ThreatModelError(
            f"down-up takes the lower rate over the clips' own, from {lowest:.3g} to below 1; given {rest}."
        )
    return Settled(Resample(heard.sample_rate, factor * heard.sample_rate), f"down-up:{factor:g}")


def _low_pass(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Settled
    from robust.channels.devices import BandPass

    high_hz = _number("low-pass", rest, float, 4000.0, "a frequency in Hz")
    return Settled(BandPass(heard.sample_rate, None, high_hz), f"low-pass:{high_hz:g}")


def _band_pass(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Settled
    from robust.channels.devices import BandPass

    low, dash, high = (rest or "300-4000").partition("-")
    if not dash:
        raise ThreatModelError(f"band-pass takes LOW-HIGH in Hz, e.g. band-pass:300-4000; given {rest!r}.")
    ends = [_number("band-pass", end, float, math.nan, "LOW-HIGH, two frequencies in Hz") for end in (low, high)]
    return Settled(BandPass(heard.sample_rate, *ends), "band-pass:{:g}-{:g}".format(*ends))


def _quantise(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Settled
    from robust.channels.quantisation import Quantise

    bits = _number("quantise", rest, int, 8, "a whole number of bits")
    return Settled(Quantise(heard.sample_rate, bits), f"quantise:{bits}")


def _codec(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Settled
    from robust.channels.codecs import Codec

    given, _, rate = rest.partition(":")
    codec, kbps = given or "mp3", _number("codec", rate, float, 32.0, "NAME:KBPS, as codec:mp3:32")
    return Settled(Codec(heard.sample_rate, codec, kbps), f"codec:{codec}:{kbps:g}")


def _gate(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import SpectralGate

    if rest:
        raise ThreatModelError(f"gate takes no settings; given {rest!r}.")
    return SpectralGate(heard.sample_rate)


def _denoise(rest: str, heard: _Heard) -> Channel:
    from defenses.denoise import Denoiser
    from robust.diffusion_models import load_diffusion

    name = rest or "waveform"
    model = load_diffusion(name)
    _check_clips(name, model, heard)
    return Denoiser(model)


def _none(rest: str, heard: _Heard) -> Channel:
    from defenses.filters import Unchanged

    if rest:
        raise ThreatModelError(f"none takes no settings; given {rest!r}.")
    return Unchanged(heard.sample_rate)


Number = TypeVar("Number", int, float)


def _number(name: str, text: str, kind: type[Number], default: Number, what: str) -> Number:
    """A number as it was written; `default` where nothing was."""
    if not text:
        return default
    try:
        return kind(text)
    except ValueError:
        raise ThreatModelError(f"{name} takes {what}; given {text!r}.") from None


_ENTRIES: dict[str, _Entry] = {
    "waveform": _Entry("waveform:STEPS[:METHOD]", "diffusion of waveforms, n* steps back", _embedded("waveform")),
    "mel": _Entry("mel:STEPS[:METHOD]", "diffusion of log-mel spectrograms", _embedded("mel")),
    "denoise": _Entry("denoise[:PATH]", "white noise taken out by diffusion; no defense, adds no noise", _denoise),
    "diffwave": _Entry("diffwave:PATH:STEPS[:METHOD]", "a published DiffWave checkpoint", _diffwave),
    "average": _Entry("average:WIDTH", "moving average, 3 samples", _average),
    "median": _Entry("median:WIDTH", "moving median, 3 samples", _median),
    "down-up": _Entry("down-up:FACTOR", "resampled to half the rate and back", _down_up),
    "low-pass": _Entry("low-pass:HZ", "low-pass at 4 kHz", _low_pass),
    "band-pass": _Entry("band-pass:LOW-HIGH", "band-pass, 300 to 4000 Hz", _band_pass),
    "quantise": _Entry("quantise:BITS", "rounded to 8 bits", _quantise),
    "codec": _Entry("codec:NAME:KBPS", "encoded and decoded: mp3, opus or aac, 32 kbit/s", _codec),
    "gate": _Entry("gate", "spectral gate, as noisereduce does it", _gate),
    "none": _Entry("none", "nothing: the bare victim, for black-box attacks", _none),
}  # fmt: skip

PURIFIERS: Mapping[str, str] = MappingProxyType({name: entry.summary for name, entry in _ENTRIES.items()})
"""Name -> what it is, for help."""

__all__ = ["DEFAULT_STEPS", "PURIFIERS", "load_purifier", "purifier_forms"]
