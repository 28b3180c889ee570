"""Files as input: all are read before the first is used, so that every bad one is named and nothing is half done."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from hagan3d.data.io.nnunet import DATASET
from hagan3d.errors import InputError, printable

if TYPE_CHECKING:
    from hagan3d.data.io.volumes import VolumeFile


class ReadFile(Protocol):
    """A volume that was read from files."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was noticed about the files, with their names."""


TRANSLATIONS = "translations.csv"
TRANSLATED_PICTURE = "translations.png"
UNFINISHED = ".unfinished"  # in a folder whose volumes are being written, or were when the command was killed
Item = TypeVar("Item", bound=ReadFile)


def is_store(path: Path) -> bool:
    """Return whether a path is a store, not scans: a .h5 file, or a folder that holds some.

    Raises:
        InputError: If a folder holds both.
    """
    from hagan3d.data.io.listing import scans_in

    if not path.is_dir():
        return path.suffix.lower() == ".h5"
    stores = sorted(file.name for file in path.glob("*.h5") if not file.name.startswith("."))
    if stores and (scans := scans_in(path)):
        raise InputError(
            f"{path}: holds both a store ({stores[0]}) and scans ({len(scans)}, such as {scans[0].name}); name the "
            "store, or move it out of the folder"
        )
    return bool(stores)


def check_out(path: Path, out: Path, what: str, marks: Sequence[Path]) -> None:
    """Raise InputError if a command would write into a folder that holds other volumes, or that it reads as input.

    Args:
        path: A store, a folder, list or file of volumes, or a CSV with files in its columns.
        out: Folder of the volumes that are written.
        what: What is written, such as translations.
        marks: Files of which one is there if the volumes in ``out`` are such.
    """
    from hagan3d.data.io.listing import find_volumes
    from hagan3d.data.preprocess.metadata import read_table

    if not any(mark.exists() for mark in marks):
        others = sorted(file.name for ending in ("*.nii*", "*.h5") for file in out.glob(ending))
        if others:
            raise InputError(f"{out}: holds volumes that are no {what} ({others[0]}); use another --out")
    if is_store(path):
        return
    if path.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
        raise InputError(
            f"{out}: lies in --input {path}, which is searched with all its folders, so that the next run would read "
            "the results as input; use another --out"
        )
    if path.suffix.lower() == ".csv":
        cells = [path.parent / cell for line in read_table(path)[1] for cell in line.values()]
    else:
        cells = [file.path for file in find_volumes(path)]
    if any(os.path.realpath(cell.parent) == os.path.realpath(out) for cell in cells):
        raise InputError(f"{out}: holds files of --input, which would be among the results; use another --out")


def check_translations_out(path: Path, out: Path) -> None:
    """Raise InputError if ``out`` holds volumes that are no translations, or is read as input; see `check_out`."""
    check_out(path, out, "translations", (out / TRANSLATIONS, out / UNFINISHED))
    check_picture(out / TRANSLATED_PICTURE)


def check_picture(path: Path) -> None:
    """Raise InputError if a picture would replace one that was not written here."""
    from hagan3d.data.pictures import is_own_picture

    if path.exists() and not is_own_picture(path):
        raise InputError(f"{path}: was not written here, and would be replaced; use another --out, or move it")


def all_readable(path: Path, files: "Sequence[VolumeFile]", read: "Callable[[VolumeFile], Item]") -> Iterator[Item]:
    """Read every file to find the bad ones, then return an iterator that reads them one at a time.

    What was noticed about the files, and which files of the folder ``path``, or of folders that it names, are not read,
    is printed on stderr.

    Raises:
        InputError: If some cannot be read: a line for each.
    """
    from hagan3d.data.io.listing import folders_of, unread_files
    from hagan3d.data.preprocess.facts import grouped

    given = [] if (path / DATASET).exists() else [path]
    bad, remarks = list[str](), unread_files([*given, *folders_of(files)], [path])
    for file in files:
        try:
            remarks += read(file).remarks
        except InputError as error:
            bad.append(str(error))
    for line in grouped(remarks):
        print(printable(line), file=sys.stderr)
    if bad:
        raise InputError("\n".join(bad))
    return (read(file) for file in files)
