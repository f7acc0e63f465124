"""`robust report`: a page about runs and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run or study folders.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html in the RUN, or here if there are several.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    clips: Annotated[int, typer.Option(min=0, help="Clips to hear and see, of each run.")] = 8,
) -> None:
    """One self-contained HTML page: scores, checks in plain words, curves, classes, clips to hear, how to repeat it."""
    from robust.report.page import write_page

    page = write_page(runs, out, title=title, clips=clips)
    told = f"{page.bytes / 1e6:.1f} MB, {page.clips} clips to hear and see"
    if page.left_out:
        told += f", {page.left_out} left out for want of room or by --clips"
    print(f"page     {page.path} ({told})")
