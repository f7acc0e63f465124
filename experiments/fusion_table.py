"""From the results of `fusion.py` to tables: robust accuracy by threat, paired tests, thresholds, dominance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robust.atomic import write_atomically
from robust.evaluation.dominance import dominance
from robust.evaluation.paired import compare_accuracy

ROWS = ("audio", "video", "early", "mid", "late", "decision")
TOGETHER = ROWS[2:]
THREATS = ("audio", "video", "both", "joint")
RESAMPLES = 2000
Radii = Mapping[str, Sequence[float]]
"""Norm -> the radii that were tried."""
PAIRS = [(fused, part) for fused in TOGETHER for part in ("audio", "video")]


def write_tables(out: Path, sets: list[str], radii: Radii) -> None:
    """Writes `table.csv` (every cell with its interval) and `table.md` (for reading)."""
    cells = pd.concat([robust_cells(out, data, radii) for data in sets], ignore_index=True)
    write_atomically(out / "table.csv", cells.to_csv(index=False).encode())
    parts = []
    for data in sets:
        parts += [f"## {data}", clean_text(out, data)]
        parts += [robust_text(cells[(cells["data"] == data) & (cells["norm"] == norm)], norm) for norm in radii]
        parts += [paired_text(out, data, radii), threshold_text(out, data), dominance_text(out, data)]
    write_atomically(out / "table.md", "\n\n".join(parts).encode())


def folders(out: Path, data: str) -> list[Path]:
    """The seeds of one data set."""
    return sorted(folder for folder in out.glob(f"{data}-*") if folder.is_dir())


def matrix(folders_: list[Path], name: str, column: str) -> NDArray[np.float64]:
    """(clips, seeds) of one column; clips are the same in every seed."""
    frames = [pd.read_parquet(folder / f"{name}.parquet").set_index("id")[column] for folder in folders_]
    return pd.concat(frames, axis=1).to_numpy(dtype=np.float64)


def interval(right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Mean of (clips, seeds) with a bootstrap interval over clips, the seeds of a clip kept together."""
    by_clip = right.mean(axis=1)
    draws = np.random.default_rng(0).integers(0, len(by_clip), (RESAMPLES, len(by_clip)))
    low, high = np.percentile(by_clip[draws].mean(axis=1), [2.5, 97.5])
    return float(by_clip.mean()), float(low), float(high)


def robust_cells(out: Path, data: str, tried: Radii) -> pd.DataFrame:
    """One row per victim, threat, norm and radius."""
    rows = []
    for norm in tried:
        for meeting in ROWS:
            for word in THREATS:
                if meeting not in TOGETHER and word != meeting:
                    continue
                radii = matrix(folders(out, data), f"{norm}-{word}-{meeting}", "radius")
                for radius in tried[norm]:
                    score, low, high = interval(radii > radius * (1 + 1e-9))
                    rows.append((data, norm, meeting, word, radius, score, low, high, *radii.shape))
    columns = ["data", "norm", "victim", "threat", "radius", "robust", "low", "high", "clips", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def clean_text(out: Path, data: str) -> str:
    """Clean accuracy, and whether meeting beats hearing or seeing alone."""
    right = {meeting: matrix(folders(out, data), f"clean-{meeting}", "right") > 0 for meeting in ROWS}
    clips, seeds = right["audio"].shape
    lines = [
        f"Clean accuracy, {clips} test clips x {seeds} seeds",
        "",
        "| victim | clean | against av-audio | against av-video |",
    ]
    lines.append("|---|---|---|---|")
    for meeting in ROWS:
        against = [
            "" if (meeting, part) not in PAIRS else str(compare_accuracy(right[meeting], right[part]))
            for part in ("audio", "video")
        ]
        lines.append(f"| av-{meeting} | {shown(interval(right[meeting]))} | {' | '.join(against)} |")
    return "\n".join(lines)


def robust_text(cells: pd.DataFrame, norm: str) -> str:
    """Rows are victims; columns threat x radius."""
    radii = sorted(cells["radius"].unique())
    heads = [f"{word} {radius:g}" for word in THREATS for radius in radii]
    clips, seeds = cells[["clips", "seeds"]].iloc[0]
    lines = [
        f"Robust accuracy under {norm}, {clips} clips x {seeds} seeds (video radii are 16 times those named)",
        "",
        f"| victim | {' | '.join(heads)} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for meeting in ROWS:
        own = cells[cells["victim"] == meeting].set_index(["threat", "radius"])
        shares = [
            shown(tuple(own.loc[(word, radius), ["robust", "low", "high"]])) if (word, radius) in own.index else ""
            for word in THREATS
            for radius in radii
        ]
        lines.append(f"| av-{meeting} | {' | '.join(shares)} |")
    return "\n".join(lines)


def paired_text(out: Path, data: str, tried: Radii) -> str:
    """A fused victim attacked in both senses against one sense alone, attacked in it; clip by clip."""
    lines = [
        "Both senses attacked, against one sense alone attacked at the same radius (paired by clip, p not corrected)",
        "",
        "| victim | norm | radius | against av-audio | against av-video |",
        "|---|---|---|---|---|",
    ]
    for norm, radii in tried.items():
        for radius in radii:
            for meeting in TOGETHER:
                fused = standing(out, data, f"{norm}-both-{meeting}", radius)
                parts = [standing(out, data, f"{norm}-{part}-{part}", radius) for part in ("audio", "video")]
                against = " | ".join(str(compare_accuracy(fused, part)) for part in parts)
                lines.append(f"| av-{meeting} | {norm} | {radius:g} | {against} |")
    return "\n".join(lines)


def standing(out: Path, data: str, name: str, radius: float) -> NDArray[np.bool_]:
    """(clips, seeds) whether a clip is right at first and no perturbation within `radius` was found to break it."""
    return matrix(folders(out, data), name, "radius") > radius * (1 + 1e-9)


def threshold_text(out: Path, data: str) -> str:
    """How often fusion is weaker than its part, split by whether the parts agree; linf."""
    lines = [
        "Point-wise thresholds (linf): share of clips on which an attack on one sense breaks the fused victim at a "
        "smaller radius than it breaks that sense's own victim",
        "",
        "| victim | audio: all | parts agree | disagree | video: all | parts agree | disagree |",
        "|" + "---|" * 7,
    ]
    for meeting in TOGETHER:
        frame = pd.concat([pd.read_parquet(folder / f"thresholds-{meeting}.parquet") for folder in folders(out, data)])
        told = json.loads((folders(out, data)[0] / f"thresholds-{meeting}.json").read_text())
        shares = []
        for sense, modality in (("A", "audio"), ("V", "video")):
            weak = weaker_rows(frame, sense, told["largest"][modality], told["tolerance"])
            right = frame[f"right_{sense}"].to_numpy(dtype=bool)
            agree = frame["agree"].to_numpy(dtype=bool)
            for group in (right, right & agree, right & ~agree):
                share = f"{100 * weak[group].mean():.0f} %" if group.any() else "-"
                shares.append(f"{share} of {int(group.sum())}")
        lines.append(f"| av-{meeting} | {' | '.join(shares)} |")
    return "\n".join(lines)


def weaker_rows(frame: pd.DataFrame, sense: str, largest: float, tolerance: float) -> NDArray[np.bool_]:
    """Clips whose fused threshold is surely below the part's own."""
    from robust.evaluation.threshold_summary import weaker

    fused = frame[f"eps_{sense}_to_AV"].to_numpy(dtype=np.float64)
    return weaker(fused, frame[f"eps_{sense}"].to_numpy(dtype=np.float64), largest, tolerance)


def dominance_text(out: Path, data: str) -> str:
    """Which sense decides when they contradict each other."""
    lines = [
        "Dominance: whose label is given to the sound of one clip with the sight of another",
        "",
        "| victim | audio | video | neither | pairs |",
        "|---|---|---|---|---|",
    ]
    for meeting in TOGETHER:
        records = [pd.read_parquet(folder / f"swap-{meeting}.parquet") for folder in folders(out, data)]
        who = dominance(pd.concat(records, ignore_index=True))
        lines.append(f"| av-{meeting} | {who.audio} | {who.video} | {who.neither} | {who.pairs} |")
    return "\n".join(lines)


def shown(share: tuple[float, ...]) -> str:
    """Percent with its interval."""
    score, low, high = share
    return f"{100 * score:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
