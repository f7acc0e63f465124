"""Progress on stderr, and only where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], what: str, *, by: Callable[[T], int] = lambda item: 1) -> Generator[T, None, None]:
    """Yields `items` under a progress bar; silent when stderr is no terminal.

    Args:
        items: What to work through.
        what: Shown beside the bar.
        by: How much of the whole an item is, e.g. the clips of a batch.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=sum(by(item) for item in items))
        for item in items:
            yield item
            progress.advance(task, by(item))
