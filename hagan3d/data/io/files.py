"""Atomic file writes: to a temporary name, flushed to disk, then renamed."""

import errno
import fcntl
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hagan3d.data.names import canonical
from hagan3d.errors import InputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the body ends without an error.

    The folder is created if needed. After an error the temporary file is removed, and an existing `path` is unchanged.

    Raises:
        InputError: If the disk is full, the folder cannot be written to, or another process writes the same file.
    """
    with readable_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".part.{path.name}")  # same file system: a rename is atomic
        handle = _create_locked(temporary, f"{path}: another process is writing this file; wait for it or stop it")
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        _flush(path.parent)


def _create_locked(path: Path, message: str) -> int:
    """Create a file, or empty what a kill left of it; return its handle, which has a lock where the disk has locks."""
    while True:
        if path.is_symlink():  # it would lead the writes elsewhere
            path.unlink()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with suppress(OSError):
                if not _lock(handle):
                    raise InputError(message)
            with suppress(FileNotFoundError):  # the other process renamed or removed it between the two calls
                if os.path.samestat(os.fstat(handle), path.stat()):
                    os.ftruncate(handle, 0)
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock a file; return False if another process has the lock. Raises OSError where the disk has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Lock a folder, or a file that is made if needed, against other processes that lock it.

    Raises:
        InputError: With ``message``, if another process has the lock.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        try:
            if not _lock(handle):
                raise InputError(message)
        except OSError as error:  # of disks without locks, such as some of NFS and Lustre
            text = f"{path.parent}: its disk has no locks ({error.strerror}), so nothing stops a second process here"
            print(text, file=sys.stderr)
        yield
    finally:
        os.close(handle)


@contextmanager
def readable_write_errors(path: Path) -> Iterator[None]:
    """Turn "disk full" and "permission denied" into an InputError that names `path`; other errors propagate."""
    try:
        yield
    except OSError as error:
        # h5py gives the errno only in the message
        if error.errno in NO_SPACE or any(f"errno = {number}," in str(error) for number in NO_SPACE):
            raise InputError(f"{path}: the disk is full; free some space or use another folder") from error
        if error.errno == errno.EFBIG:
            raise InputError(f"{path}: larger than this disk or the limit on file sizes (ulimit -f) allows") from error
        if error.errno in NO_ACCESS:
            raise InputError(f"{path}: no permission to write here; use another folder") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{path}: a file has the name of a folder that is needed; use another folder") from error
        raise


def exists(path: Path) -> bool:
    """Return whether a path exists; a name from a file may be none that a path can have."""
    try:
        return path.exists()
    except ValueError:  # a null character
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def named_in(folder: Path, name: str) -> Path:
    """Return the path that a table or list in a folder names, with accented letters as they are in the folder."""
    path = folder / name
    if name.isascii() or "\0" in name or exists(path):
        return path
    found = folder
    for part in Path(name).parts:
        entries = {canonical(entry.name): entry for entry in found.iterdir()} if found.is_dir() else {}
        found = found / part if exists(found / part) else entries.get(canonical(part), found / part)
    return found


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Open a file that is not empty as a memory map: reading as many bytes as it claims allocates those it has."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_name(channel: str) -> str:
    """Return the name of a channel as part of the name of a file: without / and spaces, and not . or .. alone."""
    return re.sub(r"[/ \0]", "-", channel if channel.strip(".") else "-" * max(1, len(channel)))


def same_file(channels: Iterable[str]) -> tuple[str, str] | None:
    """Return two channels whose files would have one name, if there are any."""
    taken: dict[str, str] = {}
    for channel in channels:
        name = file_name(channel).casefold()  # some disks do not distinguish upper and lower case
        if name in taken:
            return taken[name], channel
        taken[name] = channel
    return None
