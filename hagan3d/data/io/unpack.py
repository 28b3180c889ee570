"""The bytes of a file, unpacked if it is compressed; every checksum that the format has is checked."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from hagan3d.data.io.checks import available_bytes
from hagan3d.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
DAMAGED = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
BLOCK = 2**20  # bytes
MAX_GZIP_RATIO = 1032  # largest compression ratio of deflate


def is_gzip(path: Path) -> bool:
    """Return whether the file is gzip, by its first bytes: endings lie."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def read_unpacked(path: Path, expected: Callable[[bytes], int], header: int) -> tuple[bytes, int]:
    """Read a file, unpacking gzip, up to its end, so that its checksum is checked.

    Args:
        path: The file.
        expected: Gives the size of the unpacked file from its first bytes; it may raise InputError.
        header: Number of bytes that ``expected`` needs.

    Returns:
        The expected bytes, and the number of those that follow them.

    Raises:
        InputError: If it is empty, shorter than expected or damaged. The caller adds the path.
    """
    size = path.stat().st_size
    if not size:
        raise InputError("is empty (0 bytes); copy or export it again")
    try:
        with _opened(path) as file:
            first = file.read(header)
            needed = expected(first)
            capacity = size * (MAX_GZIP_RATIO if is_gzip(path) else 1)
            if needed > capacity:
                raise InputError(
                    f"truncated or damaged: the header declares {needed} bytes, the file holds at most {capacity}"
                )
            if needed > available_bytes():
                raise InputError(f"its header declares {needed} bytes, more than the free memory; is it damaged?")
            rest = file.read(max(0, needed - len(first)))
            surplus = 0
            while block := file.read(BLOCK):  # to the end, where gzip has its checksum
                surplus += len(block)
    except InputError:
        raise
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the format
            raise
        raise InputError(f"truncated or damaged ({_reason(error)}); copy or export it again") from error
    if len(first) + len(rest) < needed:
        raise InputError(
            f"truncated or damaged: the header declares {needed} bytes, the file has {len(first) + len(rest)}"
        )
    return first + rest, surplus


def _opened(path: Path) -> BinaryIO:
    if is_gzip(path):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def unpack(data: bytes, encoding: str, expected: int) -> bytes:
    """Unpack a block of voxels and check its size and checksum.

    Args:
        data: The packed bytes.
        encoding: gzip, zlib or bzip2.
        expected: Bytes that it must have.

    Raises:
        InputError: If it is damaged or has another size.
    """
    openers: dict[str, Callable[[], BinaryIO]] = {
        "gzip": lambda: cast(BinaryIO, gzip.GzipFile(fileobj=io.BytesIO(data))),
        "bzip2": lambda: cast(BinaryIO, bz2.BZ2File(io.BytesIO(data))),
    }
    try:
        if encoding == "zlib":
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data, expected + 1)
            is_whole = unpacker.eof
        else:
            with openers[encoding]() as file:
                unpacked = file.read(expected + 1)
                is_whole = not file.read(1)
    except DAMAGED as error:
        raise InputError(f"is damaged: its voxels cannot be unpacked ({_reason(error)}); copy it again") from error
    if len(unpacked) != expected or not is_whole:
        raise InputError(f"is damaged: its header declares {expected} bytes of voxels, it holds others; copy it again")
    return unpacked


def _reason(error: Exception) -> str:
    """Return the first line of a library's message."""
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
