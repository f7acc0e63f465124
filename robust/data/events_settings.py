"""Every number that sets how hard `events` is: ranges the classes draw from, and what recording does to them.

Classes are told apart by ranges that overlap on purpose. The confusion this leaves is in the world (two things that
sound or look alike, seen or heard badly), not in the labels. Change a number here and `VERSION` must go up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

VERSION = 1
SAMPLE_RATE = 16_000
SAMPLES = 16_000
FRAMES = 8
SIDE = 32

Range: TypeAlias = tuple[float, float]

LABELS = (
    "church_bell",
    "glass_chime",
    "guitar",
    "siren",
    "car",
    "helicopter",
    "drill",
    "rain",
    "frying",
    "applause",
    "footsteps",
    "clock",
    "dog",
    "cat",
    "bird",
    "speech",
)

SOUND_ALIKE = (
    ("church_bell", "glass_chime"),
    ("car", "helicopter", "drill"),
    ("rain", "frying", "applause"),
    ("footsteps", "clock"),
    ("siren", "bird"),
    ("dog", "cat", "speech"),
)
"""Classes of one synthesis with overlapping parameters: hard to hear apart, easy to see apart (but `dog`, `cat`)."""

LOOK_ALIKE = (
    ("siren", "car"),
    ("dog", "cat"),
    ("church_bell", "clock"),
    ("glass_chime", "guitar"),
    ("helicopter", "bird"),
    ("applause", "speech"),
)
"""Classes drawn by one scene with overlapping shapes: hard to see apart, easy to hear apart (but `dog`, `cat`)."""


@dataclass(frozen=True)
class Rhythm:
    """When things happen: first onset, gaps between onsets, how long each lasts (all in seconds), and how many."""

    first_s: Range
    gap_s: Range
    jitter: float
    duration_s: Range
    count: tuple[int, int]


RHYTHM: dict[str, Rhythm] = {
    "church_bell": Rhythm((0.02, 0.40), (0.25, 0.70), 0.20, (0.2, 0.4), (1, 3)),
    "glass_chime": Rhythm((0.02, 0.40), (0.12, 0.50), 0.60, (0.1, 0.3), (1, 5)),
    "guitar": Rhythm((0.02, 0.35), (0.12, 0.45), 0.30, (0.2, 0.4), (1, 3)),
    "siren": Rhythm((0.00, 0.20), (1.00, 1.00), 0.00, (0.8, 1.2), (1, 1)),
    "car": Rhythm((0.00, 0.30), (1.00, 1.00), 0.00, (0.6, 1.2), (1, 1)),
    "helicopter": Rhythm((0.00, 0.20), (1.00, 1.00), 0.00, (0.8, 1.2), (1, 1)),
    "drill": Rhythm((0.00, 0.30), (1.00, 1.00), 0.00, (0.5, 1.2), (1, 1)),
    "rain": Rhythm((0.00, 0.05), (1.00, 1.00), 0.00, (1.0, 1.2), (1, 1)),
    "frying": Rhythm((0.00, 0.25), (1.00, 1.00), 0.00, (0.8, 1.2), (1, 1)),
    "applause": Rhythm((0.00, 0.20), (0.17, 0.36), 0.10, (0.1, 0.1), (3, 6)),
    "footsteps": Rhythm((0.02, 0.25), (0.24, 0.60), 0.06, (0.1, 0.1), (2, 4)),
    "clock": Rhythm((0.02, 0.25), (0.20, 0.50), 0.01, (0.1, 0.1), (2, 5)),
    "dog": Rhythm((0.02, 0.35), (0.22, 0.50), 0.25, (0.10, 0.30), (1, 3)),
    "cat": Rhythm((0.02, 0.25), (0.50, 0.80), 0.10, (0.25, 0.75), (1, 2)),
    "bird": Rhythm((0.02, 0.35), (0.07, 0.28), 0.30, (0.04, 0.16), (2, 8)),
    "speech": Rhythm((0.00, 0.20), (0.16, 0.34), 0.25, (0.12, 0.28), (2, 5)),
}


@dataclass(frozen=True)
class Modal:
    """A struck solid: damped modes at `ratios` of a fundamental, hit by a hammer in contact for `contact_ms`."""

    f0_hz: Range
    ratios: tuple[float, ...]
    spread: float
    decay_s: Range
    damping: Range
    contact_ms: Range


@dataclass(frozen=True)
class String:
    """A plucked string (Karplus and Strong 1983): pitch, loop gain and how far along it is plucked."""

    f0_hz: Range
    decay_s: Range
    pluck: Range


@dataclass(frozen=True)
class Machine:
    """Pulses at a running rate through resonances, noise that follows the pulses, and the whine of a shaft."""

    rate_hz: Range
    glide: Range
    roughness: Range
    resonance_hz: tuple[Range, ...]
    ring_ms: Range
    noise: Range
    whine_ratio: Range
    whine: Range


@dataclass(frozen=True)
class Texture:
    """Many small events at Poisson times, each a short ring between a tone and a noise burst, over a hiss."""

    density_hz: Range
    spread: Range
    ring_hz: Range
    ring_ms: Range
    noisiness: Range
    hiss: Range
    hiss_tilt: Range


@dataclass(frozen=True)
class Impact:
    """A knock: a few damped modes and a noise burst, a weaker second contact, alternating between two pitches."""

    ring_hz: tuple[Range, ...]
    ring_ms: Range
    noise: Range
    second_s: Range
    second: Range
    alternation: Range


@dataclass(frozen=True)
class Voice:
    """Source and filter: a pitch that rises and falls, through two sets of formants glided between."""

    f0_hz: Range
    bend: Range
    formants_hz: tuple[Range, ...]
    breath: Range
    sharpness: Range


@dataclass(frozen=True)
class Sweep:
    """A tone whose pitch is swept: by an oscillator (`rate_hz`), or afresh in each event when that is (0, 0)."""

    f_hz: Range
    octaves: Range
    rate_hz: Range
    drive: Range


# Bell: hum, prime, tierce, quint, nominal and above (Fletcher and Rossing, The Physics of Musical Instruments, ch. 21).
# Chime: transverse modes of a free bar (ibid. ch. 2).
SOUND: dict[str, Modal | String | Machine | Texture | Impact | Voice | Sweep] = {
    "church_bell": Modal(
        (350, 1500), (0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.2), 0.02, (0.25, 1.2), (0.1, 0.5), (0.2, 1.2)
    ),
    "glass_chime": Modal((500, 2200), (1.0, 2.757, 5.404, 8.933), 0.03, (0.10, 0.8), (0.1, 0.6), (0.05, 0.6)),
    "guitar": String((82, 500), (0.3, 1.5), (0.08, 0.45)),
    "siren": Sweep((500, 1600), (0.2, 1.1), (0.4, 9.0), (0.2, 3.0)),
    "car": Machine(
        rate_hz=(30, 120),
        glide=(-0.3, 0.5),
        roughness=(0.1, 0.6),
        resonance_hz=((60, 200), (250, 700), (900, 2200)),
        ring_ms=(2, 12),
        noise=(0.1, 0.8),
        whine_ratio=(4, 14),
        whine=(0.0, 0.15),
    ),
    "helicopter": Machine(
        rate_hz=(10, 32),
        glide=(-0.05, 0.05),
        roughness=(0.05, 0.4),
        resonance_hz=((50, 160), (200, 600), (700, 2000)),
        ring_ms=(4, 20),
        noise=(0.3, 1.2),
        whine_ratio=(12, 40),
        whine=(0.0, 0.2),
    ),
    "drill": Machine(
        rate_hz=(20, 140),
        glide=(-0.2, 0.2),
        roughness=(0.1, 0.5),
        resonance_hz=((150, 500), (700, 1800), (2000, 4500)),
        ring_ms=(1, 6),
        noise=(0.2, 1.0),
        whine_ratio=(3, 16),
        whine=(0.1, 0.6),
    ),
    "rain": Texture((60, 900), (0.5, 1.2), (1200, 5000), (1.0, 6.0), (0.0, 0.5), (0.1, 0.7), (-0.6, 0.4)),
    "frying": Texture((40, 700), (0.8, 1.6), (2000, 7000), (0.3, 2.5), (0.3, 1.0), (0.1, 0.8), (-0.2, 0.8)),
    "applause": Texture((15, 250), (0.3, 0.9), (700, 2600), (2.0, 9.0), (0.6, 1.0), (0.0, 0.3), (-0.6, 0.4)),
    "footsteps": Impact(
        ((70, 220), (300, 1500), (1200, 3500)), (3, 20), (0.3, 1.5), (0.03, 0.13), (0.2, 0.9), (0.9, 1.1)
    ),
    "clock": Impact(
        ((400, 1500), (1500, 3500), (3000, 6500)), (1, 12), (0.1, 0.6), (0.006, 0.06), (0.1, 0.7), (0.75, 1.3)
    ),
    "dog": Voice((220, 700), (0.1, 0.7), ((500, 1000), (1100, 1900), (2200, 3200)), (0.1, 0.7), (40, 250)),
    "cat": Voice((320, 900), (0.1, 0.5), ((500, 1200), (1400, 2600), (2800, 4000)), (0.02, 0.3), (40, 250)),
    "bird": Sweep((1300, 4800), (0.1, 1.0), (0, 0), (0.0, 1.0)),
    "speech": Voice((90, 380), (0.02, 0.3), ((280, 850), (850, 2400), (2400, 3200)), (0.02, 0.3), (80, 500)),
}


@dataclass(frozen=True)
class Recording:
    """The room, the background and the microphone of one clip."""

    snr_db: Range = (3.0, 36.0)
    noise_slope: Range = (0.0, 2.0)
    noise_swell: Range = (0.0, 0.6)
    rt60_s: Range = (0.08, 0.8)
    wet: Range = (0.0, 0.5)
    tilt: Range = (-0.5, 0.5)
    peak_dbfs: Range = (-30.0, -3.0)


@dataclass(frozen=True)
class Camera:
    """What stands between the scene and the pixels; lengths are in half frames, so 1/16 is one pixel."""

    size: Range = (0.75, 1.15)
    offset: float = 0.22
    tilt_rad: float = 0.2
    pan: float = 0.15
    shake: Range = (0.0, 0.06)
    contrast: Range = (0.4, 1.0)
    noise: Range = (0.01, 0.09)
    clutter: tuple[int, int] = (0, 3)
    occlusion: float = 0.3
    occluder: Range = (0.2, 0.5)


@dataclass(frozen=True)
class Likeness:
    """What tells the members of one row of `LOOK_ALIKE` apart, and how far it overlaps."""

    lamp: Range = (0.5, 1.0)
    """Opacity of a siren's lamps."""
    roof_load: float = 0.35
    """Chance that a car carries something where a siren has its lamps."""
    glow: float = 0.7
    """Chance that they light up what is around them."""
    dial: float = 0.6
    """Chance that a clock's dial is in the picture."""
    skids: float = 0.7
    """Chance that a helicopter's skids and tail rotor can be seen."""
    bell_crown: Range = (0.2, 0.55)
    """Upper width of a bell, of its lower one; the pendulum of a clock is round."""
    rotor: Range = (0.5, 1.0)
    """Opacity of a rotor."""
    wing_beat: Range = (0.5, 1.1)
    """Reach of a bird's wings up and down, of their span."""
    gesture: Range = (0.0, 0.2)
    """How far hands move in speech."""
    hand_height: Range = (0.25, 0.75)
    """Where the hands are in speech; down."""
    clap: Range = (0.25, 0.5)
    """How far hands part in applause."""
    clap_height: Range = (-0.1, 0.45)
    """Where they meet."""
    ears: tuple[float, float, float] = (0.15, 0.85, 0.2)
    """Erectness of ears in [0, 1]: mean of dogs, mean of cats, standard deviation."""
    muzzle: tuple[float, float, float] = (0.2, 0.04, 0.06)
    """Length of the muzzle, likewise."""


RECORDING = Recording()
CAMERA = Camera()
LIKENESS = Likeness()
