"""Phonemes as targets of a formant synthesiser, and the phrases of `events-wake` spelt in them.

Formants are those of an average adult male (Peterson & Barney 1952 for vowels; Klatt 1980 for consonants), rounded.
A phoneme is one segment or several: a stop is a closure, a burst and a breath, a diphthong two vowels. Phrases are
written in ARPAbet, with a bar between syllables. Change anything here and `VERSION` of `wake_clip` must go up.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Targets for some milliseconds of speech.

    Attributes:
        milliseconds: At normal rate.
        formants_hz: F1 to F3 of the vocal tract.
        voice, breath, hiss: Linear amplitudes of the glottal pulses, of the noise made at the glottis, and of the
            noise made at a constriction, which does not pass through the formants.
        hiss_hz, hiss_width_hz: Centre and width of the band of the latter.
    """

    milliseconds: float
    formants_hz: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 4000.0
    hiss_width_hz: float = 2000.0


def _vowel(milliseconds: float, *formants_hz: float) -> tuple[Segment, ...]:
    first, second, third = formants_hz
    return (Segment(milliseconds, (first, second, third), voice=1.0),)


def _stop(formants_hz: tuple[float, float, float], hz: float, width_hz: float, *, voiced: bool) -> tuple[Segment, ...]:
    if voiced:
        return (
            Segment(50, (200, *formants_hz[1:]), voice=0.12),
            Segment(10, formants_hz, voice=0.4, hiss=0.35, hiss_hz=hz, hiss_width_hz=width_hz),
        )
    return (
        Segment(60, formants_hz),
        Segment(12, formants_hz, hiss=0.6, hiss_hz=hz, hiss_width_hz=width_hz),
        Segment(30, formants_hz, breath=0.3),
    )


def _hiss(
    formants_hz: tuple[float, float, float], level: float, hz: float, width_hz: float, voice: float = 0.0
) -> tuple[Segment, ...]:
    return (Segment(95 if voice == 0 else 65, formants_hz, voice, hiss=level, hiss_hz=hz, hiss_width_hz=width_hz),)


_LIPS, _TEETH, _RIDGE, _PALATE = (300, 900, 2200), (320, 1300, 2500), (320, 1750, 2650), (300, 1900, 2300)

PHONEMES: dict[str, tuple[Segment, ...]] = {
    "IY": _vowel(110, 270, 2290, 3010),
    "IH": _vowel(80, 390, 1990, 2550),
    "EH": _vowel(95, 530, 1840, 2480),
    "AE": _vowel(130, 660, 1720, 2410),
    "AA": _vowel(130, 730, 1090, 2440),
    "AO": _vowel(130, 570, 840, 2410),
    "UH": _vowel(85, 440, 1020, 2240),
    "UW": _vowel(110, 300, 870, 2240),
    "AH": _vowel(80, 640, 1190, 2390),
    "AX": _vowel(55, 500, 1400, 2400),
    "ER": _vowel(115, 490, 1350, 1690),
    "EY": _vowel(75, 480, 1900, 2500) + _vowel(65, 330, 2200, 2800),
    "AY": _vowel(85, 700, 1200, 2450) + _vowel(65, 380, 2000, 2600),
    "OW": _vowel(85, 540, 1000, 2350) + _vowel(65, 360, 850, 2250),
    "AW": _vowel(85, 700, 1250, 2450) + _vowel(65, 420, 950, 2250),
    "W": (Segment(60, (290, 610, 2150), voice=0.6),),
    "Y": (Segment(55, (260, 2070, 3020), voice=0.6),),
    "R": (Segment(65, (310, 1060, 1380), voice=0.65),),
    "L": (Segment(65, (310, 1050, 2880), voice=0.6),),
    "M": (Segment(75, (260, 950, 2200), voice=0.32),),
    "N": (Segment(70, (260, 1600, 2600), voice=0.32),),
    "NG": (Segment(75, (260, 2000, 2500), voice=0.3),),
    "HH": (Segment(60, (500, 1500, 2500), breath=0.3),),
    "S": _hiss(_RIDGE, 0.45, 6000, 2200),
    "SH": _hiss(_PALATE, 0.45, 3200, 1500),
    "F": _hiss(_LIPS, 0.13, 5500, 5000),
    "TH": _hiss(_TEETH, 0.10, 5800, 4500),
    "Z": _hiss(_RIDGE, 0.25, 6000, 2200, voice=0.3),
    "V": _hiss(_LIPS, 0.07, 5000, 5000, voice=0.4),
    "DH": _hiss(_TEETH, 0.06, 5500, 4500, voice=0.4),
    "P": _stop(_LIPS, 900, 900, voiced=False),
    "T": _stop(_RIDGE, 4500, 2500, voiced=False),
    "K": _stop(_PALATE, 2000, 1000, voiced=False),
    "B": _stop(_LIPS, 900, 900, voiced=True),
    "D": _stop(_RIDGE, 4200, 2500, voiced=True),
    "G": _stop(_PALATE, 2000, 1000, voiced=True),
    "CH": _stop(_RIDGE, 3500, 1800, voiced=False)[:1] + _hiss(_PALATE, 0.4, 3300, 1500),
    "JH": _stop(_RIDGE, 3500, 1800, voiced=True)[:1] + _hiss(_PALATE, 0.25, 3200, 1500, voice=0.3),
}

Syllables = tuple[tuple[str, ...], ...]


def spelt(text: str) -> Syllables:
    """`"M AX | R IH S | K OW"` as syllables of phonemes."""
    return tuple(tuple(syllable.split()) for syllable in text.split("|"))


WAKE_WORDS = "marisko"
WAKE = spelt("M AX | R IH S | K OW")
"""What wakes: three syllables with a nasal, a liquid, a sibilant and a stop in them."""

CONFUSABLE: dict[str, Syllables] = {
    "my risk": spelt("M AY | R IH S K"),
    "mariner": spelt("M AE | R IH | N ER"),
    "maria so": spelt("M AX | R IY | AX | S OW"),
    "to risk": spelt("T UW | R IH S K"),
    "her disco": spelt("HH ER | D IH S | K OW"),
    "san francisco": spelt("S AE N | F R AE N | S IH S | K OW"),
    "tabasco": spelt("T AX | B AE S | K OW"),
    "a fiasco": spelt("AX | F IY | AE S | K OW"),
    "morocco": spelt("M AX | R AA | K OW"),
    "tea biscuit": spelt("T IY | B IH S | K IH T"),
    "marista": spelt("M AX | R IH S | T AX"),
    "frisco": spelt("F R IH S | K OW"),
}
"""Phrases that share syllables, or most of their sounds, with the one that wakes."""

ORDINARY: dict[str, Syllables] = {
    "turn on the light": spelt("T ER N | AO N | DH AX | L AY T"),
    "good evening": spelt("G UH D | IY V | N IH NG"),
    "what time is it": spelt("W AH T | T AY M | IH Z | IH T"),
    "play some music": spelt("P L EY | S AH M | M Y UW | Z IH K"),
    "seven": spelt("S EH | V AX N"),
    "open the window": spelt("OW | P AX N | DH AX | W IH N | D OW"),
    "telephone": spelt("T EH | L AX | F OW N"),
    "banana": spelt("B AX | N AE | N AX"),
    "how are you": spelt("HH AW | AA R | Y UW"),
    "yesterday": spelt("Y EH S | T ER | D EY"),
    "computer": spelt("K AX M | P Y UW | T ER"),
    "thank you": spelt("TH AE NG K | Y UW"),
    "never mind": spelt("N EH | V ER | M AY N D"),
    "chocolate": spelt("CH AO K | L AX T"),
    "january": spelt("JH AE | N UW | EH | R IY"),
    "weather": spelt("W EH | DH ER"),
    "sugar": spelt("SH UH | G ER"),
    "vanilla": spelt("V AX | N IH | L AX"),
}
"""Phrases of daily life."""

ONSETS = ("", "B", "D", "G", "P", "T", "K", "M", "N", "L", "R", "S", "SH", "F", "V", "W", "Y", "HH", "CH", "S T", "P L")
NUCLEI = ("IY", "IH", "EH", "AE", "AA", "AO", "UH", "UW", "AH", "AX", "ER", "EY", "AY", "OW", "AW")
CODAS = ("", "", "", "N", "M", "S", "T", "K", "L", "R")
"""Of invented syllables."""
