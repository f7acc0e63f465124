"""`correlations.csv` and `correlations.md` in the folder of a study: what of its geometry and scores goes together."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust.atomic import Folder, write_atomically
from robust.errors import StoreError
from robust.study import class_ranks, correlations, points
from robust.study.correlations import OVERS, PRIMARY, Correlations, correlated, strongest
from robust.study.opening import code_hash
from robust.study.points import KINDS, Points, class_points, victim_points
from robust.study.store import StudyStore

if TYPE_CHECKING:
    import pandas as pd

CSV, MARKDOWN = "correlations.csv", "correlations.md"
MOST_ROWS = 40
LEVEL = 0.05
"""Of the false discovery rate, in the sentences that count."""
SYMBOLS = {"kendall": "τ", "spearman": "ρ"}
_MADE = "<!-- of {} -->"


def write_correlations(study: StudyStore) -> Folder | None:
    """Writes both files into the study's folder, unless they are there and nothing has changed.

    Args:
        study: Whose cells have ended.

    Returns:
        The page, or None of a study that has nothing to hold against each other.

    Raises:
        StoreError: If a run lacks what it must hold, or the folder cannot be written.
    """
    victims = victim_points(study)
    if not victims:
        return None
    classes = class_points(study) if study.cells(kind="geometry") else replace(victims, scores=victims.scores[:0])
    page = study.folder / MARKDOWN
    made = _MADE.format(_digest(victims, classes))
    if page.is_file() and (study.folder / CSV).is_file() and made in page.read_text(encoding="utf-8"):
        return page
    found = correlated(victims, classes)
    write_atomically(study.folder / CSV, found.table.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(page, (correlations_md(found, study.name) + f"\n{made}\n").encode())
    return page


def read_correlations(study: StudyStore) -> pd.DataFrame | None:
    """The table that a study wrote; None where there is none.

    Raises:
        StoreError: If it cannot be read.
    """
    import pandas as pd

    path = study.folder / CSV
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            table = pd.read_csv(file, keep_default_na=False, na_values={name: [""] for name in _numeric()})
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    lacking = [name for name in correlations.COLUMNS if name not in table]
    if lacking:
        raise StoreError(f"{path} lacks the columns {', '.join(lacking[:3])}; run `robust study` on its file again.")
    return table


def _numeric() -> list[str]:
    return [name for name in correlations.COLUMNS if name not in (*correlations.PLACE, "left_out")]


def correlations_md(found: Correlations, name: str) -> str:
    """The page: how many pairs hold, then the strongest of each part."""
    lines = [f"# What goes with what: {name}", "", *_how_to_read(found)]
    for over, title in OVERS.items():
        rows = strongest(found.table, over)
        if rows.empty:
            continue
        lines += ["", f"## {title}", "", *counted(rows, over), ""]
        lines += _table(rows[:MOST_ROWS], over)
        if len(rows) > MOST_ROWS:
            lines += ["", f"{len(rows) - MOST_ROWS} more pairs are in `{CSV}`."]
    if found.left_out:
        lines += ["", "## Left out", "", *(f"- {line}" for line in found.left_out)]
    return "\n".join(lines)


def counted(rows: pd.DataFrame, over: str) -> list[str]:
    """How many pairs hold at a false discovery rate of 5 %, by kind of score; of kinds that vary at all."""
    told = []
    for kind, words in KINDS.items():
        own = rows[rows["kind"] == kind]
        found = {scope: _holding(own[f"q_{scope}"]) for scope in correlations.SCOPES[over]}
        if not any(known for _, known in found.values()):
            continue
        shown = {scope: f"{held} of {known}" for scope, (held, known) in found.items()}
        everyone = f" ({shown['means']} with their seeds as one)" if "means" in shown else ""
        means = f" ({shown['recipes']} with the seeds of a recipe as one)" if "recipes" in shown else ""
        told.append(
            f"Against {words}: {shown['within']} pairs hold within {'victims' if over == 'classes' else 'families'} at "
            f"q < {LEVEL:g}{means}, {shown['across']} over {_everything(over)}{everyone}."
        )
    return told


def _holding(q: pd.Series) -> tuple[int, int]:
    """How many are below the level, and how many are known."""
    return int((q < LEVEL).sum()), int(q.notna().sum())


def _everything(over: str) -> str:
    return "class means" if over == "classes" else "all victims"


def _how_to_read(found: Correlations) -> list[str]:
    subjects = found.victims.scores[["victim", "point", "family"]].drop_duplicates()
    seeds, victims, families = len(subjects), subjects["victim"].nunique(), subjects["family"].nunique()
    return [
        f"{victims} victims of {families} models, {seeds} with their seeds. A coefficient of 1 says that both numbers "
        "rank them alike, −1 that one turns the ranking of the other round. Ends are those of 95 % bootstrap "
        "intervals; p is of a permutation test. q corrects p for the number of pairs in its table (Benjamini & "
        "Hochberg): calling everything below 0.05 real, 5 % of it are expected to be chance.",
        "",
        "Within families (all seeds of the victims of one model) is what counts: values of sharpness mean nothing "
        "across architectures. Seeds of one recipe resemble each other, so p within is too small as a statement about "
        "new recipes; *recipes* and, over all victims, *means* take the mean of the seeds of each. Families of fewer "
        "than 4 have no say. Bootstrap intervals of fewer than some 10 points are too narrow: read p first. Over "
        "classes, coefficients are means over victims, and classes are resampled and permuted in all victims at once.",
    ]


def _table(rows: pd.DataFrame, over: str) -> list[str]:
    """One line for each pair."""
    main = PRIMARY[over]
    scopes = [
        scope for scope in correlations.SCOPES[over] if scope != "across" and rows[f"{main}_{scope}"].notna().any()
    ]
    heads = ["measure", "score", "data", *(f"{SYMBOLS[main]} {scope}, p, q" for scope in scopes)]
    other = next(name for name in correlations.COEFFICIENTS if name != main)
    heads += [f"{SYMBOLS[other]} within", f"{SYMBOLS[main]} over {_everything(over)}, p, q", "n"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    several = _several(rows)
    for row in rows.to_dict("records"):
        cells = [measure_name(row, several), row["number"], row["data"]]
        cells += [_coefficient(row, main, scope) for scope in scopes]
        cells += [_ends(row, f"{other}_within"), _coefficient(row, main, "across"), _count(row, over)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _several(rows: pd.DataFrame) -> bool:
    """Whether geometry was measured more than once, so that its place must be told."""
    return bool(len(rows[["data", "geometry", "measured_on"]].drop_duplicates()) > rows["data"].nunique())


def measure_name(row: dict[str, Any], several: bool = False) -> str:
    """`density.audio.local-purity`; where there are several, with the condition and the data it was measured on."""
    name = f"{row['group']}.{row['space']}.{row['measure']}"
    if row["group"] == "score":
        return str(row["measure"])
    return f"{name} ({row['geometry']} on {row['measured_on']})" if several else name


def _coefficient(row: dict[str, Any], method: str, scope: str) -> str:
    # A handful of recipes gives intervals of no width: p, which is exact or nearly so, says how little they are.
    shown = _ends({**row, f"{method}_recipes_low": float("nan")}, f"{method}_{scope}")
    p, q = row[f"{method}_{scope}_p"], row[f"q_{scope}"]
    return shown if p != p else f"{shown}, {p:.2g}, {q:.2g}"


def _ends(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value != value:
        return "–"
    return f"{value:+.2f}" if low != low else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _count(row: dict[str, Any], over: str) -> str:
    if over == "classes":
        return f"{row['n']:.0f} classes in {row['families']:.0f} victims"
    return f"{row['n']:.0f} in {row['families']:.0f} families"


def _digest(*found: Points) -> str:
    """Of all numbers and all code that the tables are made by."""
    digest = hashlib.blake2b(code_hash().encode(), digest_size=16)
    for module in (points, class_ranks, correlations):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for one in found:
        for frame in (one.geometry, one.scores):
            digest.update(frame.to_csv(index=False).encode())
    return digest.hexdigest()


__all__ = ["correlations_md", "counted", "measure_name", "read_correlations", "write_correlations"]
