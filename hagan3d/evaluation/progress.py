"""Progress of long computations: one callback type, and bars on the terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

ProgressCallback = Callable[[str, int], Callable[[int], None]]
"""Begins a task with a name and a total; returns the function to call with the number of steps done since."""


def no_progress(name: str, total: int) -> Callable[[int], None]:
    """Show nothing."""
    return lambda count: None


def track(items: Iterable[Item], name: str, total: int, progress: ProgressCallback) -> Iterator[Item]:
    """Iterate over items as one task of a progress callback."""
    advance = progress(name, total)
    for item in items:
        yield item
        advance(1)


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Show one bar per task on stderr, for the length of this block."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def begin(name: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=total)
            return lambda count: bars.advance(task, count)

        yield begin
