"""Volumes to files, slab by slab: NIfTI and HDF5 of any size in memory that does not grow with the number of slices."""

import gzip
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import nibabel as nib
import numpy as np
from nibabel.arraywriters import make_array_writer
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.volumeutils import array_to_file

from hagan3d.config import Size
from hagan3d.data.io.files import replacing
from hagan3d.errors import InputError

Dtype = Literal["float32", "int16"]
Format = Literal["nii.gz", "nii", "h5"]

BLOCK_BYTES = 2**24  # of voxels worked on at once
WHOLE_UNITS = 1000.0  # a range from here up is written as whole numbers when int16 is asked for
REVERSED = np.array([[2, 1], [1, 1], [0, 1]])  # nibabel's way to say: the last axis first


@contextmanager
def volume_writer(
    path: Path, size: Size, affine: np.ndarray, orientation: str, dtype: Dtype = "float32"
) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that takes the slabs of a volume, in order along D; leave the file, whole or not at all.

    Slabs go straight into the file where its slowest axis is D and its voxels are float32. Else they wait on disk, in a
    nameless file beside it, until the last has come: the range of all voxels sets the scale of int16.

    Args:
        path: Name that ends in .nii or .nii.gz (voxels in the order of `orientation`), or in .h5 (dataset `voxels`
            [D, H, W] with the attributes `affine`, of index (d, h, w), and `slope` and `intercept` of whole numbers).
        size: Voxels D, H, W.
        affine: Voxel index (d, h, w) to RAS mm [4, 4].
        orientation: Three letters, such as RAS.
        dtype: float32, or int16: whole numbers where the voxels are or their range is 1000 or more (HU), else scaled.

    Raises:
        InputError: If the name has another ending, the disk is full or the place cannot be written to.
        ValueError: If the slabs are not those of the volume.
    """
    if not path.name.endswith((".nii", ".nii.gz", ".h5")):
        raise InputError(f"{path}: want a name that ends in .nii, .nii.gz or .h5")
    with replacing(path) as beside:
        if path.suffix == ".h5":
            import h5py  # most volumes are written without it

            with h5py.File(beside, "w", libver="v110") as store, _slabs(_HDF5(store, size, affine), dtype, path) as add:
                yield add
        else:
            turn = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
            placed = affine @ inv_ornt_aff(turn, size)
            with _stream(path, beside) as file, _slabs(_NIfTI(file, size, turn, placed), dtype, path) as add:
                yield add


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, dtype: Dtype = "float32") -> None:
    """Write a volume as .nii or .nii.gz, whole or not at all; equal input gives equal bytes.

    Args:
        path: Name that ends in .nii or .nii.gz.
        array: Voxels with three axes, in the order they shall have in the file.
        affine: Voxel index to RAS mm [4, 4].
        dtype: As `volume_writer` has it.

    Raises:
        InputError: If the name has another ending, the disk is full or the place cannot be written to.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: want a name that ends in .nii or .nii.gz")
    slabs = np.asarray(array).T
    size = (slabs.shape[0], slabs.shape[1], slabs.shape[2])
    with replacing(path) as beside, _stream(path, beside) as file:
        target = _NIfTI(file, size, REVERSED, np.asarray(affine, dtype=np.float64))
        with _slabs(target, dtype, path) as add:
            for slab in thin(slabs):
                add(slab)


def thin(slab: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a slab [D, H, W] along D into pieces of at most 16 MiB as float32, or of one slice."""
    count = _slices_at_once(slab.shape[1] * slab.shape[2])
    for first in range(0, len(slab), count):
        yield slab[first : first + count]


@contextmanager
def _stream(path: Path, beside: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, packed if `path` ends in .gz."""
    with beside.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file


@dataclass(frozen=True)
class _Scale:
    """How float voxels are kept: (v - inter) / slope, as nibabel chooses it."""

    dtype: type[np.generic]
    slope: float = 1.0
    inter: float = 0.0
    limits: tuple[np.float32, np.float32] | None = None
    """Lowest and highest finite voxel of a volume that is scaled."""
    has_nan: bool = False
    whole: bool = False
    """Whether voxels are rounded."""

    def bytes_of(self, block: np.ndarray, order: Literal["C", "F"]) -> bytes:
        if self.whole:
            block = np.rint(block).astype(np.int16)
        lowest, highest = self.limits or (None, None)
        scale: dict[str, Any] = {"intercept": self.inter, "divslope": self.slope, "mn": lowest, "mx": highest}
        packed = io.BytesIO()
        array_to_file(block, packed, np.dtype(self.dtype), order=order, nan2zero=self.has_nan, **scale)
        return packed.getvalue()


@dataclass
class _Range:
    """What the scale follows from, gathered slab by slab."""

    low: np.float32 = field(default_factory=lambda: np.float32(np.inf))
    high: np.float32 = field(default_factory=lambda: np.float32(-np.inf))
    has_nan: bool = False
    finite: bool = True
    round: bool = True

    def add(self, slab: np.ndarray) -> None:
        good = np.isfinite(slab)
        if not good.all():
            self.finite = False
            self.has_nan |= bool(np.isnan(slab).any())
            slab = slab[good]
        if slab.size:
            self.low, self.high = min(self.low, slab.min()), max(self.high, slab.max())
            self.round = self.round and np.array_equal(slab, np.rint(slab))

    def scale(self) -> _Scale:
        """Scale of int16: none where the voxels can be kept as whole numbers."""
        limits = np.iinfo(np.int16)
        fits = self.finite and limits.min <= self.low and self.high <= limits.max
        if fits and (self.high - self.low >= WHOLE_UNITS or self.round):
            return _Scale(np.int16, whole=True)
        extremes = np.array([self.low, self.high, *[np.nan] * self.has_nan], dtype=np.float32)
        chosen = make_array_writer(extremes, np.int16, True, True)
        return _Scale(np.int16, chosen.slope, chosen.inter, (self.low, self.high), self.has_nan)


class _Target(Protocol):
    """A file that is being written."""

    size: Size
    axis: int
    """Of D, H, W: the slowest in the file."""
    mirrored: bool
    """Whether that axis runs the other way in the file."""

    def begin(self, scale: _Scale) -> None: ...

    def write(self, block: np.ndarray) -> None:
        """Take the next slices along `axis`, float32, axes D, H, W."""


class _NIfTI:
    """A NIfTI file: voxels with the first axis fastest."""

    def __init__(self, file: BinaryIO, size: Size, turn: np.ndarray, affine: np.ndarray) -> None:
        self.file, self.size, self.turn, self.affine = file, size, turn, affine
        self.axis = int(np.flatnonzero(turn[:, 0] == 2)[0])
        self.mirrored = bool(turn[self.axis, 1] < 0)

    def begin(self, scale: _Scale) -> None:
        """Write the header."""
        self.scale = scale
        shape = [self.size[int(np.flatnonzero(self.turn[:, 0] == axis)[0])] for axis in range(3)]
        image = nib.Nifti1Image(np.broadcast_to(np.float32(0), shape), self.affine)
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        header = image.header
        header.set_data_dtype(scale.dtype)
        header.set_xyzt_units("mm")
        header.set_slope_inter(scale.slope, scale.inter)
        header.write_to(self.file)

    def write(self, block: np.ndarray) -> None:
        self.file.write(self.scale.bytes_of(apply_orientation(block, self.turn), "F"))


class _HDF5:
    """An HDF5 file: the volume as it is stored, with its affine."""

    axis, mirrored = 0, False

    def __init__(self, file: Any, size: Size, affine: np.ndarray) -> None:
        self.file, self.size, self.affine = file, size, affine
        self.done = 0

    def begin(self, scale: _Scale) -> None:
        """Make the dataset."""
        self.scale = scale
        sides = (1, *(min(side, 256) for side in self.size[1:]))
        voxels = self.file.create_dataset(
            "voxels", self.size, scale.dtype, chunks=sides, compression="gzip", compression_opts=4, shuffle=True
        )
        voxels.attrs["affine"] = np.asarray(self.affine, dtype=np.float64)
        voxels.attrs["slope"], voxels.attrs["intercept"] = float(scale.slope), float(scale.inter)

    def write(self, block: np.ndarray) -> None:
        values = np.frombuffer(self.scale.bytes_of(block, "C"), self.scale.dtype).reshape(block.shape)
        self.file["voxels"][self.done : self.done + len(block)] = values
        self.done += len(block)


@contextmanager
def _slabs(target: _Target, dtype: Dtype, path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that takes slabs in order along D and brings them into the target."""
    is_direct = dtype == "float32" and target.axis == 0 and not target.mirrored
    seen, done = _Range(), 0
    with nullcontext() if is_direct else tempfile.TemporaryFile(dir=path.parent) as raw:
        if is_direct:
            target.begin(_Scale(np.float32))

        def add(slab: np.ndarray) -> None:
            nonlocal done
            done += len(slab)
            if slab.shape[1:] != target.size[1:] or done > target.size[0]:
                raise ValueError(f"want slabs of a volume {target.size}, got {slab.shape} up to slice {done}")
            for piece in thin(slab):
                piece = np.ascontiguousarray(piece, dtype=np.float32)
                if raw is None:
                    target.write(piece)
                else:
                    raw.write(piece.data)
                    if dtype == "int16":
                        seen.add(piece)

        yield add
        if done != target.size[0]:
            raise ValueError(f"want {target.size[0]} slices, got {done}")
        if raw is not None:
            raw.flush()
            target.begin(seen.scale() if dtype == "int16" else _Scale(np.float32))
            for block in _blocks(raw.fileno(), target):
                target.write(block)


def _blocks(raw: int, target: _Target) -> Iterator[np.ndarray]:
    """Read a volume of raw voxels again, in blocks along the slowest axis of the target and in its direction."""
    length = target.size[target.axis]
    count = _slices_at_once(math.prod(target.size) // length)
    for first in range(0, length, count):
        end = min(first + count, length)
        begin, end = (length - end, length - first) if target.mirrored else (first, end)
        yield _block(raw, target.size, target.axis, begin, end)


def _block(raw: int, size: Size, axis: int, begin: int, end: int) -> np.ndarray:
    """Read the slices `begin` to `end` along an axis; only W is read whole and cut."""
    D, H, W = size
    if axis == 0:
        return _read(raw, begin * H * W, (end - begin) * H * W).reshape(-1, H, W)
    rows = (begin, end) if axis == 1 else (0, H)
    columns = slice(begin, end) if axis == 2 else slice(None)
    block = np.empty((D, rows[1] - rows[0], W if axis == 1 else end - begin), dtype=np.float32)
    for d in range(D):
        block[d] = _read(raw, (d * H + rows[0]) * W, (rows[1] - rows[0]) * W).reshape(-1, W)[:, columns]
    return block


def _read(raw: int, first: int, count: int) -> np.ndarray:
    return np.frombuffer(os.pread(raw, 4 * count, 4 * first), dtype=np.float32)


def _slices_at_once(voxels: int) -> int:
    """Slices of so many voxels in a block."""
    return max(1, BLOCK_BYTES // (4 * voxels))
