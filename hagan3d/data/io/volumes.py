"""Volumes on disk: read one with its units and geometry."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.data.io.checks import check_affine, check_contrast, check_voxels
from hagan3d.data.io.files import exists
from hagan3d.data.io.registry import RawVolume, find_reader
from hagan3d.errors import InputError

ONE_CHANNEL = "export one time point or channel; in `prepare`, use --channels 4d if the last axis are channels"


@dataclass(frozen=True)
class Volume:
    """One volume as stored in its file."""

    array: np.ndarray
    """Voxels [D, H, W], float32, in the units of the file (HU for CT); axes in the order of the file."""
    affine: np.ndarray
    """Voxel index (d, h, w) to RAS mm [4, 4], float64."""
    name: str
    """File or folder it was read from."""
    remarks: tuple[str, ...] = ()
    """What had to be assumed of it, one line each."""
    is_placed: bool = True
    """Whether its file says where its voxels lie; if not, the affine is assumed."""


@dataclass(frozen=True)
class VolumeFile:
    """Path and metadata of a volume that was listed and not read yet; of a pair, of the target."""

    path: Path
    """A file, or a folder with the slices of one series."""
    id: str
    """Unique in its list: the file name without its ending, preceded by folder names where needed."""
    channels: tuple[Path, ...] = ()
    """Further channels, one file each, after that of ``path``."""
    frames: int = 0
    """Channels along the last axis of a 4D file; 0: a file has one channel."""
    label_map: Path | None = None
    """Label of every voxel."""
    sources: tuple[Path, ...] = ()
    """Of a pair: the channels of the source, one file each."""
    mask: Path | None = None
    """Of a pair: above 0 in the region of the likelihood and the metrics; on the grid of this volume."""
    subject: str | None = None
    """Subject id from the pairs table or the file name; None: the labels CSV decides."""
    domain: str = ""
    """source or target in a list of two unpaired domains."""

    @property
    def files(self) -> list[Path]:
        """All files and folders it is read from."""
        others = (path for path in (self.label_map, self.mask) if path is not None)
        return [self.path, *self.channels, *self.sources, *others]


def read_volume(path: Path, fill: float | None = None, is_label_map: bool = False) -> Volume:
    """Read a volume with its affine, in the units of its file, and check that it is usable.

    Args:
        path: A file or folder of any format in the table (`hagan3d.data.io.registry`).
        fill: Replaces NaN and infinite voxels; None: they are an error.
        is_label_map: Whether every voxel may be the same: nothing is labelled.

    Raises:
        InputError: With path, reason and remedy, whatever is wrong with the file.
    """
    path = Path(path)
    return _checked(path, read_raw(path), fill, is_label_map)


def read_channels(file: VolumeFile, fill: float | None = None, are_label_maps: Sequence[bool] = ()) -> Iterator[Volume]:
    """Read the image channels of a volume one after the other; a 4D file is read once.

    Args:
        file: The volume.
        fill: As for `read_volume`.
        are_label_maps: For each channel, as for `read_volume`. Default: none is.

    Raises:
        InputError: As `read_volume`, or if a 4D file has another number of channels than ``file.frames``.
    """
    if not file.frames:
        for number, path in enumerate((file.path, *file.channels)):
            yield read_volume(path, fill, any(are_label_maps[number : number + 1]))
        return
    raw = _read_frames(file.path)
    frames = _num_frames(raw.array)
    if frames != file.frames:
        raise InputError(
            f"{file.path}: has {frames} channels along its last axis, expected {file.frames}; use files of one kind, "
            "or a CSV with a column of files per channel"
        )
    for frame in range(frames):
        yield _checked(file.path, _frame(raw, frame), fill, any(are_label_maps[frame : frame + 1]))


def _checked(path: Path, raw: RawVolume, fill: float | None, is_label_map: bool = False) -> Volume:
    """Return one channel of a file, if it is usable."""
    with naming(path):
        check_affine(raw.affine)
        array, replaced = check_voxels(raw.array, fill, find_reader(path).is_image)
        if not is_label_map:
            check_contrast(array)
        remarks = tuple(f"{path}: {remark}" for remark in (*raw.remarks, *replaced))
        return Volume(array, np.asarray(raw.affine, dtype=np.float64), str(path), remarks, raw.is_placed)


def read_raw(path: Path, remedy: str = ONE_CHANNEL) -> RawVolume:
    """Read a volume or label map of one channel without the checks of `read_volume`.

    Args:
        path: As for `read_volume`.
        remedy: What to do about a file of several.

    Raises:
        InputError: With path and reason, if it does not exist or cannot be read.
    """
    raw = _read_frames(path)
    if _num_frames(raw.array) > 1:
        sides = " x ".join(str(side) for side in raw.array.shape)
        raise InputError(f"{path}: expected one 3D volume, got 4D ({sides}); {remedy}")
    return _frame(raw, 0)


def _frame(raw: RawVolume, number: int) -> RawVolume:
    """Return one channel of a file, of several along its last axis or one alone."""
    return raw._replace(array=raw.array[..., number]) if raw.array.ndim == 4 else raw


def num_frames(path: Path) -> int:
    """Return the number of channels along the last axis of a file: 1 of a 3D volume.

    Raises:
        InputError: As `read_raw`.
    """
    return _num_frames(_read_frames(path).array)


def _num_frames(array: np.ndarray) -> int:
    return array.shape[3] if array.ndim == 4 else 1


def _read_frames(path: Path) -> RawVolume:
    """Read voxels ``[D, H, W]`` or ``[D, H, W, C]``, and the affine."""
    if not exists(path):
        raise InputError(f"{path}: {'broken symbolic link' if path.is_symlink() else 'does not exist'}")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: neither a file nor a folder")
    with naming(path):
        reader = find_reader(path)
        try:
            return reader.read(path)
        except (InputError, MemoryError):
            raise
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else f"{reader.title} that is damaged"
            raise InputError(f"cannot be read: {reason}") from error
        except Exception as error:  # libraries raise errors of any class on damaged files
            raise InputError(f"cannot be read as {reader.title}: damaged; copy or export it again") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path before the message of an InputError, and turn a lack of memory into one."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    except MemoryError as error:
        raise InputError(f"{path}: out of memory; use fewer --workers or a machine with more memory") from error
