"""Progress on stderr, and only where somebody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

_REFRESH_SECONDS = 0.1


class Bars:
    """An outer bar over whole pieces of work, and under it one for each that is under way.

    Made by `bars`. Nothing is drawn between calls, since no thread draws: one could hold a lock when the process forks.
    """

    def __init__(self, progress: Progress, outer: TaskID) -> None:
        self._progress, self._outer = progress, outer
        self._inner: dict[str, TaskID] = {}
        self._drawn = 0.0

    def advance(self, text: str | None = None, *, by: int = 1) -> None:
        """Counts `by` pieces as finished; `text` replaces what stands beside the outer bar."""
        self._progress.update(self._outer, advance=by, description=text)
        self.refresh(now=True)

    def show(self, key: str, text: str, done: int, total: int | None) -> None:
        """Draws the bar of the piece called `key`, for pieces that are counted elsewhere, as by a worker."""
        if key not in self._inner:
            self._inner[key] = self._progress.add_task(text, total=total)
        self._progress.update(self._inner[key], completed=done, total=total, description=text)
        self.refresh()

    def hide(self, key: str) -> None:
        """Removes the bar of the piece called `key`, if there is one."""
        if key in self._inner:
            self._progress.remove_task(self._inner.pop(key))
            self.refresh(now=True)

    def refresh(self, *, now: bool = False) -> None:
        """Draws anew, at most ten times a second unless `now`."""
        if now or time.monotonic() - self._drawn >= _REFRESH_SECONDS:
            self._progress.refresh()
            self._drawn = time.monotonic()


_OUTER: ContextVar[Bars | None] = ContextVar("_OUTER", default=None)
_silent = False


def silence() -> None:
    """No bars in this process from now on; for workers, whose terminal is another's."""
    global _silent
    _silent = True


@contextmanager
def bars(total: int, what: str) -> Iterator[Bars]:
    """A bar over `total` pieces of work; each `track` inside shows its own under it. Silent as `track` is.

    Args:
        total: Number of pieces.
        what: Shown beside the bar until `advance` says something else.
    """
    with _display(threaded=False) as progress:
        outer = Bars(progress, progress.add_task(what, total=total))
        before = _OUTER.set(outer)
        try:
            outer.refresh(now=True)
            yield outer
        finally:
            _OUTER.reset(before)


def track(items: Sequence[T], what: str, *, by: Callable[[T], int] = lambda item: 1) -> Generator[T, None, None]:
    """Yields `items` under a progress bar; silent when stderr is no terminal.

    Args:
        items: What to work through.
        what: Shown beside the bar.
        by: How much of the whole an item is, e.g. the clips of a batch.
    """
    total = sum(by(item) for item in items)
    outer = _OUTER.get()
    if outer is not None:
        yield from _track_under(outer, items, what, by, total)
        return
    with _display(threaded=True) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task, by(item))


def _track_under(
    outer: Bars, items: Sequence[T], what: str, by: Callable[[T], int], total: int
) -> Generator[T, None, None]:
    key, done = f"track {id(items)}", 0
    try:
        outer.show(key, what, 0, total)
        for item in items:
            yield item
            done += by(item)
            outer.show(key, what, done, total)
    finally:
        outer.hide(key)


def _display(*, threaded: bool) -> Progress:
    """The look of all bars; disabled where nobody watches."""
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
    hidden = _silent or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=threaded)
