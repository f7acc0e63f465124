"""The page itself: what was read, put into templates; one file that needs nothing outside itself.

The same store gives the same bytes: nothing of the time, the machine or the place of the folders goes in beyond what
manifests hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from robust.atomic import Folder, open_folder, write_atomically
from robust.errors import StoreError
from robust.report.charts import charts
from robust.report.clips import Gallery
from robust.report.corruptions import CELLS
from robust.report.gallery import galleries
from robust.report.reading import Run, Source, open_sources
from robust.report.sections import RunView, against_first, run_view
from robust.report.sound import colour_bar
from robust.report.studies import StudyView, study_view
from robust.report.words import data_name, headline

MOST_BYTES = 15_000_000
GALLERY_BYTES = 11_000_000
FEW_RUNS = 6
ROWS = {True: 600, False: 40}
"""Rows of a table of classes on a page of few runs, and of many."""


@dataclass(frozen=True)
class Page:
    """A page that was written: where, how large, with how many clips, and how many had no room."""

    path: Folder
    bytes: int
    clips: int
    left_out: int


@dataclass(frozen=True)
class Built:
    """A page: its HTML, and of its clips how many are in it and how many are not."""

    html: str
    clips: int
    left_out: int


def write_page(
    folders: Sequence[Folder | str], out: Folder | str | None = None, *, title: str | None = None, clips: int = 8
) -> Page:
    """Makes the page about runs and studies and writes it whole or not at all.

    Args:
        folders: Run folders and study folders.
        out: The file; `report.html` in the folder if there is one, and here if there are several.
        title: Heading of the page.
        clips: Clips to hear and see, of each run.

    Raises:
        StoreError: If a folder holds neither a study nor a finished run, what it holds cannot be told of, or the page
            cannot be written.
    """
    built = build_page(folders, title=title, clips=clips)
    beside = open_folder(folders[0]) / "report.html" if len(folders) == 1 else Path("report.html")
    path = beside if out is None else open_folder(out)
    if path.is_dir():
        path = path / "report.html"
    content = built.html.encode()
    write_atomically(path, content)
    return Page(path, len(content), built.clips, built.left_out)


def build_page(folders: Sequence[Folder | str], *, title: str | None = None, clips: int = 8) -> Built:
    """The page about runs and studies; see `write_page`."""
    sources = open_sources(folders)
    try:
        context = _context(sources, title)
        runs = [run for source in sources for run in source.runs]
        room = GALLERY_BYTES
        while True:
            shelves = galleries(runs, clips, room)
            html = _render({**context, "galleries": shelves})
            if len(html.encode()) <= MOST_BYTES or not any(shelf.clips for shelf in shelves):
                return Built(html, *_counted(shelves))
            room //= 2
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        names = ", ".join(str(folder) for folder in folders)
        raise StoreError(
            f"What {names} holds cannot be told of ({type(error).__name__}: {error}): it was damaged, or made by "
            "another version. Run it again."
        ) from error


def _counted(shelves: Sequence[Gallery]) -> tuple[int, int]:
    return sum(len(shelf.clips) for shelf in shelves), sum(shelf.left_out for shelf in shelves)


def _context(sources: Sequence[Source], title: str | None) -> dict[str, Any]:
    runs = [run for source in sources for run in source.runs]
    anchors = {str(run.cell.folder): f"run-{place}" for place, run in enumerate(runs, start=1)}
    views: list[RunView] = [run_view(run, anchors[str(run.cell.folder)], ROWS[len(runs) <= FEW_RUNS]) for run in runs]
    studies: list[StudyView] = [
        study_view(source.study, anchors, source.runs) for source in sources if source.study is not None
    ]
    drawn = charts(runs)
    return {
        "title": title or _title(runs, studies),
        "studies": studies,
        "listed": [view for view, run in zip(views, runs, strict=True) if not run.study],
        "runs": views,
        "failed": [view for view in views if view.failed],
        "charts": drawn,
        "drawn": [chart.drawn() for chart in (*drawn, *(chart for view in views for chart in view.charts))],
        "pairs": [] if studies else against_first(runs),
        "colour_bar": colour_bar(),
        "corruption_columns": CELLS,
    }


def _title(runs: Sequence[Run], studies: Sequence[StudyView]) -> str:
    if studies:
        return " and ".join(study.title for study in studies)
    if len(runs) == 1:
        return headline(runs[0])
    victims, data = (
        list(dict.fromkeys(names)) for names in ([run.victim for run in runs], [data_name(run) for run in runs])
    )
    if len(victims) > FEW_RUNS:
        return f"{len(runs)} runs"
    return f"{' and '.join(victims)} on {' and '.join(data)}, {len(runs)} runs"


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    home = resources.files("robust.report") / "templates"
    environment = Environment(
        loader=PackageLoader("robust.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {name: Markup((home / name).read_text(encoding="utf-8")) for name in ("style.css", "chart.js", "script.js")}
    return environment.get_template("page.html.j2").render(
        **context, style=own["style.css"], script=own["chart.js"] + own["script.js"]
    )
