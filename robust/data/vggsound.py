"""VGGSound: some 200,000 ten-second video clips of 309 classes of sounds whose source is seen.

Source: H. Chen, W. Xie, A. Vedaldi, A. Zisserman, VGGSound: A Large-scale Audio-Visual Dataset, ICASSP 2020. The table
`vggsound.csv` has no header: YouTube id, start in seconds, label, `train` or `test`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from robust.data.annotations import check_request
from robust.data.registry import register_data
from robust.data.videos import Row, Videos, open_videos, split_of
from robust.errors import DataError

PATTERN = "{YouTube id}_{start in seconds, six digits}.mp4"

_EXPECTED = f"Expected ROOT/vggsound.csv, and below ROOT files named {PATTERN}."
_PARTS = ("train", "test")


@register_data("vggsound", summary="VGGSound: 309 classes of sounds and their sources, 10 s of video", needs_root=True)
def vggsound(*, split: str, root: Path | None) -> Videos:
    """Opens one split of VGGSound.

    Clips that could not be downloaded are left out and counted. The set has no validation split: a tenth of the
    training clips of every class is held out, chosen by a hash of the video's id.

    Args:
        split: `train`, `validation`, `test` or `all`.
        root: The folder with `vggsound.csv`; the clips lie in it or in any folder below, e.g. `video/`.

    Raises:
        DataError: If the split is unknown, the table missing or of other columns, or no clip is there.
    """
    root = check_request("vggsound", split, root)
    tables = _read(root / "vggsound.csv")
    labels = sorted({row.label for rows in tables.values() for row in rows})
    return open_videos("vggsound", split, root, split_of(split, tables), labels, pattern=PATTERN)


def _read(path: Path) -> dict[str, list[Row]]:
    """The rows of the table, by split."""
    tables: dict[str, list[Row]] = {part: [] for part in _PARTS}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    part, row = _row(cells, path, reader.line_num)
                    tables[part].append(row)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {_EXPECTED}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). Copy or download it again.") from error
    if empty := [part for part in _PARTS if not tables[part]]:
        raise DataError(f"{path} names no clip of the split {empty[0]!r}. Copy or download it again.")
    return tables


def _row(cells: list[str], path: Path, line: int) -> tuple[str, Row]:
    """Split and row of a line."""
    if len(cells) != 4 or not cells[1].strip().isdecimal() or cells[3].strip() not in _PARTS:
        raise DataError(
            f"{path}, line {line}: {','.join(cells)[:80]!r} is not a clip of VGGSound. Expected four columns without a "
            "header: YouTube id, start in whole seconds, label, train or test."
        )
    source, start, label, part = (cell.strip() for cell in cells)
    return part, Row(f"{source}_{int(start):06d}", source, label)
