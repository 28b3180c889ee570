"""Writers of NIfTI and HDF5 that take a volume slab by slab; peak memory does not grow with the number of slices."""

import gzip
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

BLOCK_BYTES = 2**24  # voxels processed at once
INTEGER_RANGE = 1000.0  # an intensity range from here up (HU) is rounded to integers for int16
REVERSED = np.array([[2, 1], [1, 1], [0, 1]])  # nibabel orientation that reverses the axis order
HDF5_CHUNK_SIDE = 256  # voxels


@contextmanager
def volume_writer(
    path: Path, size: Size, affine: np.ndarray, orientation: str, dtype: Dtype = "float32"
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that takes the slabs of a volume in order along D; the file is written atomically.

    Slabs go directly to the file if its slowest axis is D and its voxels are float32. Otherwise they are buffered on
    disk, in an unnamed temporary file, until the last slab: the range of all voxels determines the int16 scale.

    Args:
        path: Name with one of the endings in `FORMATS`: .nii and .nii.gz (voxels in the order of `orientation`), or
            .h5 (dataset `voxels` [D, H, W] with the attributes `affine`, of index (d, h, w), and `slope` and
            `intercept` of integers).
        size: Voxels D, H, W.
        affine: Voxel index (d, h, w) to RAS mm [4, 4].
        orientation: Three-letter axis codes, such as RAS.
        dtype: float32, or int16: rounded if all voxels are integers or their range is 1000 or more (HU), else scaled.

    Raises:
        InputError: If the name has another ending, the disk is full or the folder cannot be written to.
        ValueError: If the slabs do not add up to the volume.
    """
    open_target = _match_ending(path, FORMATS)
    with (
        replacing(path) as temporary,
        open_target(path, temporary, size, affine, orientation) as target,
        _slabs(target, dtype, path) as add,
    ):
        yield add


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, dtype: Dtype = "float32") -> None:
    """Write a volume as NIfTI, atomically; equal input gives equal bytes.

    Args:
        path: Name that ends in .nii or .nii.gz.
        array: Voxels with three axes, in the axis order of the file.
        affine: Voxel index to RAS mm [4, 4].
        dtype: As for `volume_writer`.

    Raises:
        InputError: If the name has another ending, the disk is full or the folder cannot be written to.
    """
    _match_ending(path, {ending: target for ending, target in FORMATS.items() if target is _nifti_target})
    slabs = np.asarray(array).T
    size = (slabs.shape[0], slabs.shape[1], slabs.shape[2])
    with replacing(path) as temporary, _stream(path, temporary) as file:
        target = _NIfTI(file, size, REVERSED, np.asarray(affine, dtype=np.float64))
        with _slabs(target, dtype, path) as add:
            for slab in thin(slabs):
                add(slab)


def thin(slab: np.ndarray) -> Iterator[np.ndarray]:
    """Split a slab [D, H, W] along D into pieces of at most 16 MiB as float32, or of one slice."""
    count = _slices_at_once(slab.shape[1] * slab.shape[2])
    for first in range(0, len(slab), count):
        yield slab[first : first + count]


def _match_ending(path: Path, formats: Mapping[str, "_OpenTarget"]) -> "_OpenTarget":
    """Return the entry of the ending of a file name.

    Raises:
        InputError: If it has none of the endings.
    """
    match = next((formats[ending] for ending in formats if path.name.endswith(ending)), None)
    if match is None:
        raise InputError(f"{path}: the name of a volume file must end in {', '.join(formats)}")
    return match


@contextmanager
def _stream(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, compressed if `path` ends in .gz."""
    with temporary.open("wb") as file:
        if path.suffix == ".gz":
            # no name and no time in the header: equal input gives equal bytes
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0) as compressed:
                yield compressed  # type: ignore[misc]
        else:
            yield file


@dataclass(frozen=True)
class _Scale:
    """Linear quantisation of float voxels: (v - inter) / slope, chosen by nibabel."""

    dtype: type[np.generic]
    slope: float = 1.0
    inter: float = 0.0
    limits: tuple[np.float32, np.float32] | None = None
    """Smallest and largest finite voxel; None: no scaling."""
    has_nan: bool = False
    rounds: bool = False
    """Whether voxels are rounded to integers instead of scaled."""

    def bytes_of(self, block: np.ndarray, order: Literal["C", "F"]) -> bytes:
        if self.rounds:
            block = np.rint(block).astype(np.int16)
        lowest, highest = self.limits or (None, None)
        scale: dict[str, Any] = {"intercept": self.inter, "divslope": self.slope, "mn": lowest, "mx": highest}
        encoded = io.BytesIO()
        array_to_file(block, encoded, np.dtype(self.dtype), order=order, nan2zero=self.has_nan, **scale)
        return encoded.getvalue()


@dataclass
class _Range:
    """Running range of the voxels, which determines the scale."""

    low: np.float32 = field(default_factory=lambda: np.float32(np.inf))
    high: np.float32 = field(default_factory=lambda: np.float32(-np.inf))
    has_nan: bool = False
    finite: bool = True
    integers: bool = True

    def add(self, slab: np.ndarray) -> None:
        finite = np.isfinite(slab)
        if not finite.all():
            self.finite = False
            self.has_nan |= bool(np.isnan(slab).any())
            slab = slab[finite]
        if slab.size:
            self.low, self.high = min(self.low, slab.min()), max(self.high, slab.max())
            self.integers = self.integers and np.array_equal(slab, np.rint(slab))

    def scale(self) -> _Scale:
        """Return the scale of int16; integers, and ranges such as that of HU, are rounded instead."""
        limits = np.iinfo(np.int16)
        fits = self.finite and limits.min <= self.low and self.high <= limits.max
        if fits and (self.high - self.low >= INTEGER_RANGE or self.integers):
            return _Scale(np.int16, rounds=True)
        extremes = np.array([self.low, self.high, *[np.nan] * self.has_nan], dtype=np.float32)
        chosen = make_array_writer(extremes, np.int16, True, True)
        return _Scale(np.int16, chosen.slope, chosen.inter, (self.low, self.high), self.has_nan)


class _Target(Protocol):
    """A file being written."""

    size: Size
    axis: int
    """Slowest axis of the file, an index into D, H, W."""
    mirrored: bool
    """Whether that axis is flipped in the file."""

    def begin(self, scale: _Scale) -> None: ...

    def write(self, block: np.ndarray) -> None:
        """Append the next slices along `axis`, float32, axes D, H, W."""


class _NIfTI:
    """A NIfTI file: the first axis is the fastest."""

    def __init__(self, file: BinaryIO, size: Size, permutation: np.ndarray, affine: np.ndarray) -> None:
        self.file, self.size, self.permutation, self.affine = file, size, permutation, affine
        self.axis = int(np.flatnonzero(permutation[:, 0] == 2)[0])
        self.mirrored = bool(permutation[self.axis, 1] < 0)

    def begin(self, scale: _Scale) -> None:
        """Write the header."""
        self.scale = scale
        shape = [self.size[int(np.flatnonzero(self.permutation[:, 0] == axis)[0])] for axis in range(3)]
        image = nib.Nifti1Image(np.broadcast_to(np.float32(0), shape), self.affine)
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        header = image.header
        header.set_data_dtype(scale.dtype)
        header.set_xyzt_units("mm")
        header.set_slope_inter(scale.slope, scale.inter)
        header.write_to(self.file)

    def write(self, block: np.ndarray) -> None:
        self.file.write(self.scale.bytes_of(apply_orientation(block, self.permutation), "F"))


class _HDF5:
    """An HDF5 file: the stored volume with its affine."""

    axis, mirrored = 0, False

    def __init__(self, file: Any, size: Size, affine: np.ndarray) -> None:
        self.file, self.size, self.affine = file, size, affine
        self.done = 0

    def begin(self, scale: _Scale) -> None:
        """Create the dataset."""
        self.scale = scale
        sides = (1, *(min(side, HDF5_CHUNK_SIDE) for side in self.size[1:]))
        voxels = self.file.create_dataset(
            "voxels",
            self.size,
            scale.dtype,
            chunks=sides,
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            fletcher32=True,
        )
        voxels.attrs["affine"] = np.asarray(self.affine, dtype=np.float64)
        voxels.attrs["slope"], voxels.attrs["intercept"] = float(scale.slope), float(scale.inter)

    def write(self, block: np.ndarray) -> None:
        values = np.frombuffer(self.scale.bytes_of(block, "C"), self.scale.dtype).reshape(block.shape)
        self.file["voxels"][self.done : self.done + len(block)] = values
        self.done += len(block)


@contextmanager
def _slabs(target: _Target, dtype: Dtype, path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that takes slabs in order along D and writes them to the target."""
    is_direct = dtype == "float32" and target.axis == 0 and not target.mirrored
    observed, done = _Range(), 0
    with nullcontext() if is_direct else tempfile.TemporaryFile(dir=path.parent) as raw:
        if is_direct:
            target.begin(_Scale(np.float32))

        def add(slab: np.ndarray) -> None:
            nonlocal done
            done += len(slab)
            if slab.shape[1:] != target.size[1:] or done > target.size[0]:
                raise ValueError(f"expected slabs of a volume {target.size}, got {slab.shape} up to slice {done}")
            for piece in thin(slab):
                piece = np.ascontiguousarray(piece, dtype=np.float32)
                if raw is None:
                    target.write(piece)
                else:
                    raw.write(piece.data)
                    if dtype == "int16":
                        observed.add(piece)

        yield add
        if done != target.size[0]:
            raise ValueError(f"expected {target.size[0]} slices, got {done}")
        if raw is not None:
            raw.flush()
            target.begin(observed.scale() if dtype == "int16" else _Scale(np.float32))
            for block in _blocks(raw.fileno(), target):
                target.write(block)


def _blocks(raw: int, target: _Target) -> Iterator[np.ndarray]:
    """Read buffered voxels back in blocks along the slowest axis of the target, in its direction."""
    length = target.size[target.axis]
    count = _slices_at_once(math.prod(target.size) // length)
    for first in range(0, length, count):
        end = min(first + count, length)
        begin, end = (length - end, length - first) if target.mirrored else (first, end)
        yield _block(raw, target.size, target.axis, begin, end)


def _block(raw: int, size: Size, axis: int, begin: int, end: int) -> np.ndarray:
    """Read the slices `begin` to `end` along an axis; for W, whole rows are read and cropped."""
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
    """Return the number of slices of that many voxels per block."""
    return max(1, BLOCK_BYTES // (4 * voxels))


@contextmanager
def _nifti_target(path: Path, temporary: Path, size: Size, affine: np.ndarray, orientation: str) -> Iterator[_Target]:
    permutation = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
    with _stream(path, temporary) as file:
        yield _NIfTI(file, size, permutation, affine @ inv_ornt_aff(permutation, size))


@contextmanager
def _hdf5_target(path: Path, temporary: Path, size: Size, affine: np.ndarray, orientation: str) -> Iterator[_Target]:
    import h5py  # most volumes are written as NIfTI

    with h5py.File(temporary, "w", libver="v110", locking=False) as file:
        yield _HDF5(file, size, affine)


_OpenTarget = Callable[[Path, Path, Size, np.ndarray, str], AbstractContextManager[_Target]]

FORMATS: dict[str, _OpenTarget] = {".nii": _nifti_target, ".nii.gz": _nifti_target, ".h5": _hdf5_target}
"""The table of written formats: file ending to the function that opens it; `Format` lists the same endings."""
