"""The table of volume formats: one entry per reader, collected from the modules of this folder.

To add a format, add a module with a decorated function; lists of formats and error messages follow from the table:

    @reader(".xyz", title="XYZ")
    def read_xyz(path: Path) -> RawVolume: ...
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hagan3d.errors import InputError


class RawVolume(NamedTuple):
    """What a reader finds in a file."""

    array: np.ndarray
    """Voxels [D, H, W], or [D, H, W, C] with channels last, float32, in file units; axes in the order of the file."""
    affine: np.ndarray
    """Voxel index (d, h, w) to RAS mm [4, 4]."""
    remarks: tuple[str, ...] = ()
    """What had to be assumed, one line each, without the path."""
    is_placed: bool = True
    """Whether the file says where its voxels lie; if not, the affine is assumed."""


ReadFunction = Callable[[Path], RawVolume]
"""Path to the volume; raises InputError without the path."""


@dataclass(frozen=True)
class Reader:
    """One row of the table."""

    title: str
    """Name of the format in messages."""
    suffixes: tuple[str, ...]
    """Lower-case file endings, compared without regard to case."""
    read: ReadFunction
    matches: Callable[[Path], bool] | None
    """Recognises a path without one of the endings; None: the endings alone decide."""
    parts: Callable[[Path], list[Path]]
    """All files of a volume: the one that is named, and others that it names."""
    is_slice: bool
    """Whether its files are slices of one volume, the folder that holds them."""
    is_image: bool
    """Whether each of its files is a single slice, a volume [1, rows, columns]."""

    def has_suffix(self, path: Path) -> bool:
        """Return whether the file name has one of the endings."""
        return bool(self.suffixes) and path.name.lower().endswith(self.suffixes)

    def recognises(self, path: Path) -> bool:
        """Return whether the path is of this format, by its ending or by its predicate."""
        return self.has_suffix(path) or (self.matches is not None and self.matches(path))

    def __str__(self) -> str:
        return f"{self.title} ({', '.join(self.suffixes)})" if self.suffixes else self.title


_READERS: list[Reader] = []


def reader(
    *suffixes: str,
    title: str,
    matches: Callable[[Path], bool] | None = None,
    parts: Callable[[Path], list[Path]] = lambda path: [path],
    is_slice: bool = False,
    is_image: bool = False,
) -> Callable[[ReadFunction], ReadFunction]:
    """Register the decorated function as the reader of a format; the arguments are the fields of `Reader`."""

    def register(read: ReadFunction) -> ReadFunction:
        _READERS.append(Reader(title, suffixes, read, matches, parts, is_slice, is_image))
        return read

    return register


@cache
def readers() -> tuple[Reader, ...]:
    """Return the whole table; the first call imports every module of this folder with its libraries."""
    package = importlib.import_module(__package__ or "hagan3d.data.io")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return tuple(_READERS)


def find_reader(path: Path) -> Reader:
    """Return the reader of an existing file or folder.

    Raises:
        InputError: If no reader recognises it. The caller adds the path.
    """
    is_folder = path.is_dir()
    for entry in readers():
        if not is_folder and entry.has_suffix(path):
            return entry
    for entry in readers():  # a predicate may have to open the file, so it comes second
        if entry.matches is not None and entry.matches(path):
            return entry
    raise InputError(f"not a volume in a supported format; use {supported_formats()}")


def parts_of(path: Path) -> list[Path]:
    """Return all files of a volume: a file and those that it names, or the files of a folder of slices."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return next((entry.parts(path) for entry in readers() if entry.has_suffix(path)), [path])


def volume_suffixes() -> tuple[str, ...]:
    """Return the endings of files that hold a whole volume each."""
    whole = (entry for entry in readers() if not entry.is_slice and not entry.is_image)
    return tuple(suffix for entry in whole for suffix in entry.suffixes)


def image_suffixes() -> tuple[str, ...]:
    """Return the endings of files that hold a single slice each."""
    return tuple(suffix for entry in readers() if entry.is_image for suffix in entry.suffixes)


def is_slice(path: Path) -> bool:
    """Return whether a file is a slice (or a file of several frames) of the volume that its folder holds."""
    return any(entry.is_slice and entry.recognises(path) for entry in readers())


def supported_formats() -> str:
    """List the formats for a message: ``NIfTI (.nii, .nii.gz), NumPy (.npy), ...``."""
    return ", ".join(sorted(map(str, readers())))


def stem_of(path: Path) -> str:
    """Return the name of a volume without its ending; a folder keeps its whole name."""
    suffixes = sorted((suffix for entry in readers() for suffix in entry.suffixes), key=len, reverse=True)
    suffix = next((end for end in suffixes if path.name.lower().endswith(end)), "")
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix)]
