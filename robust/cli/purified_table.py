"""The table of `robust noise --purify` as text: every cell before and after the purifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_purified(told: Mapping[str, Any]) -> None:
    """Clean clips first, for what the purifier costs; then cell by cell, and what becomes of the mean error and mCE."""
    rows = [("clean", "", told["clean"])]
    rows += [(cell["corruption"], _value(cell), cell) for cell in told["cells"]]
    width = max(len(name) for name, _, _ in rows)
    wide = max(len(value) for _, value, _ in rows)
    print(f"purified by {told['purifier']['name']}; p of each row alone ({told['clean']['difference']['test']})")
    print(f"  {'':{width}}  {'':{wide}}  {'before':>7}  {'after':>7}  {'difference':>24}  p")
    for name, value, row in rows:
        before, after = (_percent(row[side]["score"]) for side in ("before", "after"))
        difference = row["difference"]
        p = "undefined" if difference["p"] is None else f"{difference['p']:.2g}"
        print(f"  {name:{width}}  {value:{wide}}  {before:>7}  {after:>7}  {_points(difference):>24}  {p}")
    for name, what in (("mean_error", "error"), ("degradation", "lost")):
        print(f"  {what}: {_percent(told['before'][name])} % before, {_percent(told['after'][name])} % after")
    if told["before"]["mce"] is not None and told["after"]["mce"] is not None:
        print(f"  mCE: {told['before']['mce']:.2f} before, {told['after']['mce']:.2f} after")


def _value(cell: Mapping[str, Any]) -> str:
    """The parameter and its value; only that where there is no value."""
    return cell["parameter"] if cell["value"] is None else f"{cell['parameter']} {cell['value']:g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _points(difference: Mapping[str, Any]) -> str:
    if difference["difference"] is None:
        return "undefined"
    return f"{100 * difference['difference']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"


__all__ = ["print_purified"]
