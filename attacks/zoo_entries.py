"""The attacks of torchattacks 3.5.1: what each bounds, and why some cannot work on a waveform laid out as (1, 1, N).

Every reason was found by reading and running the attack (tests/attacks/test_zoo.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attacks.errors import ThreatModelError, unknown

Kind = Literal["fixed-budget", "minimum-norm", "baseline"]


@dataclass(frozen=True)
class ZooEntry:
    """One attack of torchattacks.

    Attributes:
        name: As in `torchattacks.__all__`.
        norms: What it bounds or makes small: `linf`, `l2`, `l1`, `l0`; none for baselines and wrappers.
        kind: `fixed-budget` stays within a radius; `minimum-norm` looks for the smallest perturbation and knows no
            radius: its result counts where it lies in the ball; `baseline` is no attack (noise, the clean input) and
            counts likewise.
        reason: Why it is refused, or empty.
        most_values: Largest number of values in one example that it can take; None if any.
    """

    name: str
    norms: tuple[str, ...]
    kind: Kind
    reason: str = ""
    most_values: int | None = None

    @property
    def supported(self) -> bool:
        """Whether `run_torchattacks` runs it."""
        return not self.reason


_DIVERSE = "its input diversity resizes the input to a square image, N values to N x N"
_CHANNELS = "its convolution kernel is fixed to three colour channels"
_SQUARE = (
    "it changes square windows of an image: with one row its L-infinity windows are empty (it spends its queries on "
    "the clean input) and its L2 form divides by a tile size of 0"
)
_PIXLE = "it swaps rows with columns when it moves pixels and leaves an input that is not square out of bounds"

_FIXED_LINF = (
    *("FGSM", "BIM", "RFGSM", "PGD", "EOTPGD", "FFGSM", "TPGD", "MIFGSM", "UPGD", "Jitter", "NIFGSM", "PGDRS"),
    *("SINIFGSM", "VMIFGSM", "VNIFGSM", "SPSA"),
)
ENTRIES = (
    ZooEntry("VANILA", (), "baseline"),
    ZooEntry("GN", (), "baseline"),
    *(ZooEntry(name, ("linf",), "fixed-budget") for name in _FIXED_LINF),
    *(ZooEntry(name, ("l2",), "fixed-budget") for name in ("PGDL2", "PGDRSL2")),
    *(ZooEntry(name, ("linf", "l2"), "fixed-budget") for name in ("APGD", "APGDT", "AutoAttack")),
    ZooEntry("FAB", ("linf", "l2"), "minimum-norm"),
    *(ZooEntry(name, ("l2",), "minimum-norm") for name in ("CW", "DeepFool")),
    ZooEntry("EADL1", ("l1",), "minimum-norm"),
    ZooEntry("EADEN", ("l1", "l2"), "minimum-norm"),
    *(ZooEntry(name, ("l0",), "minimum-norm") for name in ("SparseFool", "OnePixel")),
    # Its saliency map holds every pair of values: several arrays of N x N.
    ZooEntry("JSMA", ("l0",), "minimum-norm", most_values=2048),
    ZooEntry("Pixle", ("l0",), "minimum-norm", _PIXLE),
    ZooEntry("Square", ("linf", "l2"), "fixed-budget", _SQUARE),
    ZooEntry("DIFGSM", ("linf",), "fixed-budget", _DIVERSE),
    ZooEntry("TIFGSM", ("linf",), "fixed-budget", f"{_CHANNELS}, and {_DIVERSE}"),
    *(ZooEntry(name, ("linf",), "fixed-budget", _CHANNELS) for name in ("PIFGSM", "PIFGSMPP")),
    ZooEntry("MultiAttack", (), "baseline", "it only chains attacks; run them one by one and keep the worst"),
    ZooEntry("LGV", (), "baseline", "it trains copies of the victim on a training set; it is no attack on an input"),
)


def list_attacks() -> list[ZooEntry]:
    """Every name in `torchattacks.__all__`, those that are refused included."""
    return list(ENTRIES)


def find_entry(name: str) -> ZooEntry:
    """The entry called `name`.

    Raises:
        ThreatModelError: If there is none.
    """
    known = {entry.name: entry for entry in ENTRIES}
    if name not in known:
        raise ThreatModelError(unknown("torchattacks attack", name, known))
    return known[name]
