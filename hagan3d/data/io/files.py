"""Files that are whole or absent: written beside their name, flushed, then renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hagan3d.errors import InputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; rename it to `path` once the body has ended without an error.

    The folder is made if need be. After an error nothing is left behind, and what was at `path` stays as it was.

    Raises:
        InputError: If the disk is full or the place cannot be written to.
    """
    with readable_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".part.{path.name}")
        try:
            yield beside
            _flush(beside)
            os.replace(beside, path)
            _flush(path.parent)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


@contextmanager
def readable_write_errors(path: Path) -> Iterator[None]:
    """Turn "disk full" and "not allowed" into an InputError that names `path`; other errors pass."""
    try:
        yield
    except OSError as error:
        # h5py puts the number into the text only
        if error.errno in NO_SPACE or any(f"errno = {number}," in str(error) for number in NO_SPACE):
            raise InputError(f"{path}: the disk is full; make room or choose another place") from error
        if error.errno in NO_ACCESS:
            raise InputError(f"{path}: no permission to write here; choose another place") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{path}: a file stands where a folder is needed; choose another place") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
