"""Files as input: all are read before the first is used, so that every bad one is named and nothing is half done."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hagan3d.errors import InputError

File = TypeVar("File")
Item = TypeVar("Item")


def is_store(path: Path) -> bool:
    """Return whether a path is a store, not scans: a .h5 file, or a folder that holds some."""
    return path.suffix == ".h5" or (path.is_dir() and any(not file.name.startswith(".") for file in path.glob("*.h5")))


def all_readable(files: Sequence[File], read: Callable[[File], Item]) -> Iterator[Item]:
    """Read every file to find the bad ones, then return an iterator that reads them one at a time.

    Raises:
        InputError: If some cannot be read: a line for each.
    """
    bad: list[str] = []
    for file in files:
        try:
            read(file)
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError("\n".join(bad))
    return (read(file) for file in files)
