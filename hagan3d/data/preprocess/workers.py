"""Work on many files at once in processes that end with their parent, with a progress bar."""

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

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_files(
    work: Callable[[Task], Result], tasks: list[Task], workers: int, title: str, progress: bool
) -> Iterator[Result]:
    """Yield `work(task)` in the order of the tasks.

    Raises:
        InputError: If a process was killed, which is what happens when memory runs out.
    """
    with _bar(title, len(tasks), progress and bool(tasks)) as advance:
        if workers == 1 or len(tasks) < 2:
            for task in tasks:
                yield work(task)
                advance()
            return
        yield from _in_processes(work, tasks, workers, advance)


def _in_processes(
    work: Callable[[Task], Result], tasks: list[Task], workers: int, advance: Callable[[], None]
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent)
    try:
        for result in pool.map(work, tasks):
            yield result
            advance()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker was killed, most likely for want of memory; run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Leave when the parent is gone, even if it was killed and could not say so."""
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
