"""DICOM files: which they are, their data sets, and how far their voxels may expand."""

import mmap
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from hagan3d.data.io.checks import available_bytes
from hagan3d.data.io.files import mapped
from hagan3d.errors import InputError

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC = b"DICM"  # at byte 128, after the preamble
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # of a file without preamble
LAST_ELEMENT = 0x20  # of those that such a file may begin with
UNCOMPRESSED_RATIO = 8  # voxels per byte of a file: a voxel has a bit or more
RLE_RATIO = 64
COMPRESSED_RATIO = 10_000  # JPEG 2000 and JPEG-LS of a constant image
BLOCK = 2**20  # bytes


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its ending or by its first bytes; a DICOMDIR is an index, not an image."""
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return False
    if path.name.lower().endswith(SUFFIXES):
        return True
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == MAGIC or _begins_without_preamble(start)


def _begins_without_preamble(start: bytes) -> bool:
    """Return whether bytes are the first element of a data set: group 2 or 8, then a type or a small length."""
    if len(start) < 132 or start[:2] not in FIRST_GROUPS or int.from_bytes(start[2:4], "little") > LAST_ELEMENT:
        return False
    return (start[4:6].isalpha() and start[4:6].isupper()) or int.from_bytes(start[4:8], "little") < 132


def read_dataset(path: Path, **options: Any) -> Dataset:
    """Read a data set as `pydicom.dcmread` does, from a memory map: lengths that a file claims are not allocated.

    Raises:
        InputError: If it is deflated and does not fit into memory.
    """
    if not path.stat().st_size:
        return Dataset()
    with mapped(path) as content:
        _check_deflated(path, content)
        content.seek(0)
        return pydicom.dcmread(cast(BinaryIO, content), force=True, **options)


def _check_deflated(path: Path, content: mmap.mmap) -> None:
    """Raise InputError if a deflated data set expands beyond the free memory, which pydicom would not notice."""
    if content[128:132] != MAGIC or content.find(DeflatedExplicitVRLittleEndian.encode(), 0, 1024) < 0:
        return
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    content.seek(144 + int.from_bytes(content[140:144], "little"))  # the group length of the meta information
    limit, block = available_bytes() // 4, content.read(BLOCK)
    while block and size <= limit:
        size += len(unpacker.decompress(block, BLOCK))
        block = unpacker.unconsumed_tail or content.read(BLOCK)
    if size > limit:
        raise InputError(f"{path}: is deflated and expands to more than {limit / 1e6:.0f} MB; export it uncompressed")


def largest_ratio(data: Dataset) -> int:
    """Return how many voxels a byte of a file can hold at most, by its transfer syntax."""
    meta = getattr(data, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if not syntax or not syntax.is_transfer_syntax or not syntax.is_compressed:
        return UNCOMPRESSED_RATIO
    return RLE_RATIO if syntax == RLELossless else COMPRESSED_RATIO
