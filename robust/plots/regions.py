"""Supports (`attacks.supports`) as manifests hold them, in the words of a figure."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def region_words(support: str) -> str:
    """From `MelBand(first=0, last=20)` to `mel bands 0–20`; what is unknown stays as it is."""
    try:
        node = ast.parse(support, mode="eval").body
        return _words(node)
    except (SyntaxError, KeyError, ValueError, TypeError):
        return support


def _words(node: ast.expr) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("no support")
    given = {part.arg: part.value for part in node.keywords}
    if node.func.id == "Both":
        parts = given["parts"]
        if not isinstance(parts, ast.Tuple):
            raise ValueError("no parts")
        return ", ".join(_words(part) for part in parts.elts)
    values = {str(name): ast.literal_eval(value) for name, value in given.items()}
    return _SIMPLE[node.func.id](values)


def _window(values: Mapping[str, Any]) -> str:
    return f"{100 * values['start']:.3g}–{100 * values['stop']:.3g} % of the clip"


def _mels(values: Mapping[str, Any]) -> str:
    return f"mel bands {values['first']}–{values['last']}"


def _band(values: Mapping[str, Any]) -> str:
    return f"{values['low_hz']:.0f}–{values['high_hz']:.0f} Hz"


_SIMPLE = {"TimeWindow": _window, "MelBand": _mels, "FrequencyBand": _band}
