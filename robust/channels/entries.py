"""What a YAML file may say of each channel; keys are those of the classes, which check the values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

from attacks.channel import Channel
from attacks.channel import Span as Numbers
from robust.channels.backgrounds import Noise
from robust.channels.codecs import Codec
from robust.channels.devices import BandPass, Drift, Gain, Offset, Shift, SoftClip
from robust.channels.quantisation import MuLaw, Quantise
from robust.channels.transmission import PacketLoss, Resample

Choices: TypeAlias = float | list[float]
MOST_OF_NYQUIST = 0.98
"""Our own presets are made for any rate: their bands end here where the rate carries no more."""


@dataclass(frozen=True)
class Setting:
    """For what a file is read.

    Attributes:
        sample_rate: Hz of the clips.
        split: `train` or `held-out`, for rooms and folders of noise.
        folder: Where relative paths begin.
    """

    sample_rate: int
    split: str
    folder: Path


class Entry(BaseModel, ABC):
    """One channel of a chain; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def build(self, setting: Setting) -> Channel:
        """The channel."""

    def fitted(self, sample_rate: int) -> Entry | None:
        """The same as far as clips of that rate carry it; None where nothing is left of it."""
        return self

    def options(self, *without: str) -> dict[str, Any]:
        """What was said, but the kind and `without`; what was not said is left to the class."""
        return self.model_dump(exclude={"kind", *without}, exclude_unset=True)


class NoiseEntry(Entry):
    """Noise; its `kind` is `sound` here. Folders are divided by file into training and held-out ones."""

    kind: Literal["noise"]
    sound: str = "white"
    snr_db: Numbers
    folder: str | None = None
    low_hz: float | None = None
    high_hz: float | None = None
    talkers: int | tuple[int, int] | None = None
    held_out: float = 0.2
    seed: int = 0

    def build(self, setting: Setting) -> Channel:
        options = self.options("sound", "folder")
        if self.folder is not None:
            options |= {"folder": setting.folder / Path(self.folder).expanduser(), "split": setting.split}
        return Noise(setting.sample_rate, self.sound, **options)


class BandEntry(Entry):
    """A loudspeaker or a microphone."""

    kind: Literal["band"]
    low_hz: Numbers | None = None
    high_hz: Numbers | None = None
    order: int = 4

    def build(self, setting: Setting) -> Channel:
        return BandPass(setting.sample_rate, **self.options())

    def fitted(self, sample_rate: int) -> Entry | None:
        if self.high_hz is None:
            return self
        most = MOST_OF_NYQUIST * sample_rate / 2
        low, high = self.high_hz if isinstance(self.high_hz, tuple) else (self.high_hz, self.high_hz)
        if low < most:
            return self.model_copy(update={"high_hz": (low, min(high, most))})
        return BandEntry(kind="band", low_hz=self.low_hz, order=self.order) if self.low_hz is not None else None


class SoftClipEntry(Entry):
    """A device driven too loud."""

    kind: Literal["soft-clip"]
    drive_db: Numbers

    def build(self, setting: Setting) -> Channel:
        return SoftClip(setting.sample_rate, **self.options())


class GainEntry(Entry):
    """Louder or quieter."""

    kind: Literal["gain"]
    gain_db: Numbers

    def build(self, setting: Setting) -> Channel:
        return Gain(setting.sample_rate, **self.options())


class OffsetEntry(Entry):
    """Direct current."""

    kind: Literal["offset"]
    offset: Numbers

    def build(self, setting: Setting) -> Channel:
        return Offset(setting.sample_rate, **self.options())


class DriftEntry(Entry):
    """Clocks that differ."""

    kind: Literal["drift"]
    ppm: Numbers

    def build(self, setting: Setting) -> Channel:
        return Drift(setting.sample_rate, **self.options())


class ShiftEntry(Entry):
    """Earlier or later."""

    kind: Literal["shift"]
    delay_s: Numbers
    fractional: bool = False

    def build(self, setting: Setting) -> Channel:
        return Shift(setting.sample_rate, **self.options())


class QuantiseEntry(Entry):
    """Few bits."""

    kind: Literal["quantise"]
    bits: int | list[int] = 16

    def build(self, setting: Setting) -> Channel:
        return Quantise(setting.sample_rate, **self.options())


class MuLawEntry(Entry):
    """Telephone companding."""

    kind: Literal["mu-law"]
    levels: int = 256

    def build(self, setting: Setting) -> Channel:
        return MuLaw(setting.sample_rate, **self.options())


class CodecEntry(Entry):
    """MP3, Opus or AAC."""

    kind: Literal["codec"]
    codec: str = "mp3"
    kbps: Choices = 32.0
    surrogate: Literal["identity", "band"] = "identity"

    def build(self, setting: Setting) -> Channel:
        return Codec(setting.sample_rate, **self.options())


class PacketLossEntry(Entry):
    """Packets that never come."""

    kind: Literal["packet-loss"]
    rate: Numbers
    packet_s: float = 0.02
    mode: Literal["zeros", "repeat"] = "zeros"

    def build(self, setting: Setting) -> Channel:
        return PacketLoss(setting.sample_rate, **self.options())


class ResampleEntry(Entry):
    """A lower rate on the way."""

    kind: Literal["resample"]
    rate_hz: Choices

    def build(self, setting: Setting) -> Channel:
        return Resample(setting.sample_rate, **self.options())

    def fitted(self, sample_rate: int) -> Entry | None:
        given = self.rate_hz if isinstance(self.rate_hz, list) else [self.rate_hz]
        lower = [rate for rate in given if rate < sample_rate]
        return self.model_copy(update={"rate_hz": lower}) if lower else None


class RoomSizes(BaseModel):
    """A set of rooms of one's own, as `robust.channels.room_sets.RoomSet`; ranges are (lowest, highest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    x_m: tuple[float, float]
    y_m: tuple[float, float]
    z_m: tuple[float, float]
    rt60_s: tuple[float, float] | None = None
    absorption: float | None = None
    from_wall_m: float = 0.5
    apart_m: float = 1.0


class RoomEntry(Entry):
    """Simulated rooms, by name or of one's own sizes."""

    kind: Literal["room"]
    rooms: str | RoomSizes = "generic"
    train: int = 500
    held_out: int = 100
    seed: int = 0
    method: Literal["image", "hybrid"] = "image"
    normalise: Literal["direct", "energy"] = "direct"

    def build(self, setting: Setting) -> Channel:
        from robust.channels.bank import load_bank
        from robust.channels.room_sets import RoomSet
        from robust.channels.rooms import Reverberation

        rooms = self.rooms if isinstance(self.rooms, str) else RoomSet(**self.rooms.model_dump())
        bank = load_bank(rooms, sample_rate=setting.sample_rate, **self.options("rooms"))
        return Reverberation(bank, split=setting.split)


class MeasuredRoomEntry(Entry):
    """Rooms whose responses somebody measured."""

    kind: Literal["measured-room"]
    folder: str
    channel: int = 0
    held_out: float = 0.2
    seed: int = 0
    normalise: Literal["direct", "energy"] = "direct"
    rooms_are: Literal["file", "folder"] = "file"
    longest_seconds: float = 4.0

    def build(self, setting: Setting) -> Channel:
        from robust.channels.measured import load_responses
        from robust.channels.rooms import Reverberation

        place = setting.folder / Path(self.folder).expanduser()
        bank = load_responses(place, sample_rate=setting.sample_rate, **self.options("folder"))
        return Reverberation(bank, split=setting.split)


AnyEntry: TypeAlias = Annotated[
    NoiseEntry
    | BandEntry
    | SoftClipEntry
    | GainEntry
    | OffsetEntry
    | DriftEntry
    | ShiftEntry
    | QuantiseEntry
    | MuLawEntry
    | CodecEntry
    | PacketLossEntry
    | ResampleEntry
    | RoomEntry
    | MeasuredRoomEntry,
    Field(discriminator="kind"),
]


class ChannelFile(BaseModel):
    """A whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    summary: str = ""
    channels: list[AnyEntry]


ENTRIES: dict[str, type[Entry]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(AnyEntry)[0])
}
"""Kind -> what may be said of it."""
