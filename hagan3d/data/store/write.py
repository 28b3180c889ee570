"""Writing a store: one HDF5 file with the voxels, the low-resolution voxels and a record per volume."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hagan3d.config import Size, low_factors
from hagan3d.data.io.files import replacing
from hagan3d.data.store.format import FORMAT, SCALE

Interval = tuple[float, float]


class Voxels(NamedTuple):
    """The encoded voxels of one volume."""

    images: np.ndarray
    """int16 [C, D, H, W]."""
    label_map: np.ndarray | None = None
    """uint8 [D, H, W]."""


VoxelReader = Callable[[int], Voxels]
"""Index of a volume to its voxels."""


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
    intervals: Sequence[Interval]
    """Values of x = -1 and x = 1 of each channel, in file units."""
    file: str
    """Name of the file, without folders."""
    hash: str
    """SHA-256 of the file."""
    columns: dict[str, float] = field(default_factory=dict)
    """Numeric columns of the labels CSV."""
    generated: bool = False
    """Whether a model generated the volume; generated volumes are never held out."""
    source_intervals: Sequence[Interval] = ()
    """Of a pair: values of x = -1 and x = 1 of each channel of the source, in the units of its file."""
    domain: str = ""
    """source or target in a store of two unpaired domains."""


def write_store(
    path: Path,
    settings: dict[str, Any],
    records: Sequence[Record],
    voxels: VoxelReader,
    left_out: Sequence[str] = (),
    sources: VoxelReader | None = None,
    masks: Callable[[int], np.ndarray] | None = None,
) -> None:
    """Write a store atomically; equal input gives equal bytes.

    Intensities are not compressed: the noise of scans compresses badly, and training would wait for decompression.

    Args:
        path: Name of the .h5 file.
        settings: Everything the voxels depend on besides the files, plain JSON types (`prepare` lists it).
        records: One per volume.
        voxels: Voxels of the i-th volume, with a label map if the settings name labels; called once for each.
        left_out: Ids of volumes that were listed but not usable.
        sources: Of pairs: voxels of the i-th source, on the grid of the volume.
        masks: The i-th mask, uint8 [D, H, W] of 0 and 1.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="v110", locking=False) as file:
        file.attrs["format"] = np.bytes_(FORMAT.encode())
        file.attrs["settings"] = np.bytes_(json.dumps(settings, sort_keys=True).encode())
        _write_text(file, "left_out", list(left_out))
        size, count = settings["size"], len(records)
        shape, labels = (len(settings["channels"]), *size), len(settings["label_names"])
        apart = [i for i in range(count) if "source_grid" in settings and records[i].domain == "source"]
        _write_voxels(file, ("high", "low"), shape, sorted({*range(count)} - {*apart}), voxels, labels)
        if apart:
            shape = (len(settings["domains"]), *settings["source_grid"]["size"])
            _write_voxels(file, ("source_high", "source_low"), shape, apart, voxels)
        if sources is not None:
            shape = (len(settings["pairs"]), *size)
            _write_voxels(file, ("source_high", "source_low"), shape, range(count), sources)
        if masks is not None:
            mask = _byte_dataset(file, "mask", (count, *size))
            for index in range(count):
                mask[index] = masks(index)
        _write_records(file, records, settings)


def _write_voxels(
    file: h5py.File,
    names: tuple[str, str],
    shape: Sequence[int],
    indices: Sequence[int],
    voxels: VoxelReader,
    labels: int = 0,
) -> None:
    """Write volumes at full resolution, and area averages of their channels and of each label at low resolution."""
    if not indices:  # a shard may have volumes of one domain only
        return
    count, (channels, depth, height, width) = len(indices), shape
    factors = low_factors((depth, height, width))
    # A chunk is a slab of `low_factor` slices of a channel (1 of a slice): windows start at multiples of it, so that a
    # step reads whole chunks, and only of the channels that it needs.
    chunks = (1, 1, factors[0], height, width)
    high = file.create_dataset(names[0], (count, *shape), np.int16, chunks=chunks, fletcher32=True)
    low_size = tuple(side // factor for side, factor in zip((depth, height, width), factors, strict=True))
    low_shape = (count, channels + labels, *low_size)
    low = file.create_dataset(names[1], low_shape, np.int16, chunks=(1, 1, *low_size), fletcher32=True)
    label_maps = _byte_dataset(file, "label_map", (count, depth, height, width)) if labels else None
    for row, index in enumerate(indices):
        images, label_map = voxels(index)
        high[row] = images
        low[row, :channels] = area_average(images, factors)
        if label_maps is not None and label_map is not None:
            label_maps[row] = label_map
            for label in range(labels):  # the average of a label's channel is its share of the block
                low[row, channels + label] = area_average(np.where(label_map == label, SCALE, -SCALE), factors)


def _byte_dataset(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """Create a dataset of masks or label maps [N, D, H, W], which compress well, in slabs as those of the volumes."""
    chunks = (1, *file["high"].chunks[2:])
    return file.create_dataset(name, shape, np.uint8, chunks=chunks, compression="lzf", fletcher32=True)


def area_average(values: np.ndarray, factors: Size) -> np.ndarray:
    """Average over blocks of as many voxels along D, H, W, rounded to int16: [..., D, H, W] to [..., D/f, H/f, W/f]."""
    sides = zip(values.shape[-3:], factors, strict=True)
    blocks = values.reshape(*values.shape[:-3], *(part for side, f in sides for part in (side // f, f)))
    return np.rint(blocks.mean(axis=(-5, -3, -1), dtype=np.float64)).astype(np.int16)


def _write_text(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write texts of one length, since HDF5 has no checksums for those of variable length."""
    encoded = [value.encode() for value in values]
    length = max(map(len, encoded), default=1) or 1
    data = np.array(encoded, dtype=h5py.string_dtype(length=length))
    _write_values(file, name, data)


def _write_values(file: h5py.File, name: str, data: np.ndarray) -> None:
    """Write an array with checksums."""
    file.create_dataset(name, data=data, fletcher32=True if data.size else None)


def _write_records(file: h5py.File, records: Sequence[Record], settings: dict[str, Any]) -> None:
    count, columns = len(records), settings["columns"]
    for name in ("id", "subject", "split", "file", "hash", "domain"):
        _write_text(file, name, [getattr(record, name) for record in records])
    for name, dtype in (("label", np.int64), ("generated", bool)):
        _write_values(file, name, np.array([getattr(record, name) for record in records], dtype))
    affines = np.array([record.affine for record in records], np.float64)
    _write_values(file, "affine", affines.reshape(-1, 4, 4))
    table = np.array([[record.columns.get(name, np.nan) for name in columns] for record in records], np.float64)
    _write_values(file, "columns", table.reshape(count, len(columns)))
    intervals = np.array([record.intervals for record in records], np.float64)
    _write_values(file, "interval", intervals.reshape(count, len(settings["channels"]), 2))
    source_intervals = np.array([record.source_intervals for record in records], np.float64)
    _write_values(file, "source_interval", source_intervals.reshape(count, -1, 2))
