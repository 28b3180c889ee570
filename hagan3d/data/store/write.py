"""Writing a store: one HDF5 file with the voxels, the low-resolution voxels and a record per volume."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hagan3d.config import low_factor
from hagan3d.data.io.files import replacing
from hagan3d.data.store.format import FORMAT

VoxelReader = Callable[[int], np.ndarray]
"""Index of a volume to its encoded voxels [D, H, W]."""


@dataclass(frozen=True)
class Record:
    """Metadata of one volume of a store."""

    id: str
    subject: str
    split: str
    label: int
    """Class index, -1 if unknown."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    lo: float
    """Value of x = -1 in file units."""
    hi: float
    """Value of x = 1 in file units."""
    file: str
    """Name of the file, without folders."""
    hash: str
    """SHA-256 of the file."""
    columns: dict[str, float] = field(default_factory=dict)
    """Numeric columns of the labels CSV."""
    generated: bool = False
    """Whether a model generated the volume; generated volumes are never held out."""
    source_interval: tuple[float, float] | None = None
    """Of a pair: values of x = -1 and x = 1 of the source, in the units of its file."""
    domain: str = ""
    """source or target in a store of two unpaired domains."""


def write_store(
    path: Path,
    settings: dict[str, Any],
    records: Sequence[Record],
    voxels: VoxelReader,
    left_out: Sequence[str] = (),
    sources: VoxelReader | None = None,
    masks: VoxelReader | None = None,
) -> None:
    """Write a store atomically; equal input gives equal bytes.

    Intensities are not compressed: the noise of scans compresses badly, and training would wait for decompression.

    Args:
        path: Name of the .h5 file.
        settings: Everything the voxels depend on besides the files, plain JSON types (`prepare` lists it).
        records: One per volume.
        voxels: Voxels of the i-th volume, int16 [D, H, W].
        left_out: Ids of volumes that were listed but not usable.
        sources: Of pairs: voxels of the i-th source, int16 [D, H, W] on the grid of the volume.
        masks: The i-th mask, uint8 [D, H, W] of 0 and 1.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        file.attrs["format"] = FORMAT
        file.attrs["settings"] = json.dumps(settings, sort_keys=True)
        file.create_dataset("left_out", data=list(left_out), dtype=h5py.string_dtype())
        _write_voxels(file, "high", "low", settings["size"], len(records), voxels)
        if sources is not None:
            _write_voxels(file, "source_high", "source_low", settings["size"], len(records), sources)
        if masks is not None:
            shape, chunks = file["high"].shape, file["high"].chunks
            mask = file.create_dataset("mask", shape, np.uint8, chunks=chunks, compression="lzf")
            for index in range(len(records)):
                mask[index] = masks(index)
        _write_records(file, records, settings["columns"])


def _write_voxels(
    file: h5py.File, high_name: str, low_name: str, size: Sequence[int], count: int, voxels: VoxelReader
) -> None:
    """Write volumes at full resolution and their area averages at low resolution."""
    depth, height, width = size
    factor = low_factor((depth, height, width))
    # A chunk is a slab of `factor` slices: windows start at multiples of it, so that a step reads whole chunks.
    high = file.create_dataset(high_name, (count, *size), np.int16, chunks=(1, factor, height, width))
    low_size = (depth // factor, height // factor, width // factor)
    low = file.create_dataset(low_name, (count, *low_size), np.int16, chunks=(1, *low_size))
    for index in range(count):
        values = voxels(index)
        high[index] = values
        low[index] = area_average(values, factor)


def area_average(values: np.ndarray, factor: int) -> np.ndarray:
    """Average over blocks of factor^3 voxels, rounded to int16: [D, H, W] to [D/f, H/f, W/f]."""
    d, h, w = (side // factor for side in values.shape)
    blocks = values.reshape(d, factor, h, factor, w, factor)
    return np.rint(blocks.mean(axis=(1, 3, 5), dtype=np.float64)).astype(np.int16)


def _write_records(file: h5py.File, records: Sequence[Record], columns: Sequence[str]) -> None:
    text, count = h5py.string_dtype(), len(records)
    for name in ("id", "subject", "split", "file", "hash", "domain"):
        file.create_dataset(name, data=[getattr(record, name) for record in records], dtype=text)
    for name, dtype in (("label", np.int64), ("lo", np.float64), ("hi", np.float64), ("generated", bool)):
        file.create_dataset(name, data=np.array([getattr(record, name) for record in records], dtype))
    file.create_dataset("affine", data=np.array([record.affine for record in records], np.float64).reshape(-1, 4, 4))
    table = np.array([[record.columns.get(name, np.nan) for name in columns] for record in records], np.float64)
    file.create_dataset("columns", data=table.reshape(count, len(columns)))
    intervals = [record.source_interval or (np.nan, np.nan) for record in records]
    file.create_dataset("source_interval", data=np.array(intervals, np.float64).reshape(count, 2))
