"""A process pool with a progress bar, whose workers end with their parent."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hagan3d.errors import InputError

Item = TypeVar("Item")
Output = TypeVar("Output")


def map_files(
    work: Callable[[Item], Output], items: list[Item], workers: int, title: str, progress: bool
) -> Iterator[Output]:
    """Yield `work(item)` in the order of the items, computed in up to ``workers`` processes.

    Raises:
        InputError: If a process was killed, most often by the operating system when memory runs out.
    """
    with _bar(title, len(items), progress and bool(items)) as advance:
        if workers == 1 or len(items) < 2:
            for item in items:
                yield work(item)
                advance()
            return
        yield from _in_processes(work, items, workers, advance)


def _in_processes(
    work: Callable[[Item], Output], items: list[Item], workers: int, advance: Callable[[], None]
) -> Iterator[Output]:
    context = multiprocessing.get_context("spawn")  # forking a process with threads may deadlock
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_end_with_parent)
    try:
        for result in pool.map(work, items):
            yield result
            advance()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker was killed, most likely out of memory; run the same command with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Exit when the parent has ended, even if it was killed and could not stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


@contextmanager
def _bar(title: str, total: int, shown: bool) -> Iterator[Callable[[], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
