"""Attacks that only ask, for victims whose gradients are missing or mislead: NES and Square, counted by queries."""

from attacks.blackbox_nes import FAKEBOB, NES, nes
from attacks.blackbox_square import Square, square

__all__ = ["FAKEBOB", "NES", "Square", "nes", "square"]
