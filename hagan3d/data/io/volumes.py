"""Volumes on disk: list them, and read one with its units and geometry."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hagan3d.data.io.checks import check_affine, check_voxels
from hagan3d.data.io.registry import (
    RawVolume,
    find_reader,
    image_suffixes,
    is_slice,
    stem_of,
    supported_formats,
    volume_suffixes,
)
from hagan3d.errors import InputError

LIST_SUFFIXES = (".txt", ".lst", ".list")


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


def find_volumes(inputs: Path | str | Iterable[Path | str]) -> list[VolumeFile]:
    """List the volumes in folders (recursively), text files that list paths, and single files.

    A folder of slices is one volume. Images (PNG, TIFF, JPEG) are listed if a folder holds no other volumes. Each line
    of a text file is a path relative to that file; empty lines and lines that begin with # are ignored.

    Returns:
        Volumes with unique ids, sorted by id.

    Raises:
        InputError: If a path does not exist, or there is no volume.
    """
    given = [Path(inputs)] if isinstance(inputs, Path | str) else [Path(item) for item in inputs]
    paths = {path.resolve(): path for item in given for path in _expand(item)}
    if not paths:
        names = ", ".join(str(item) for item in given) or "the input"
        raise InputError(f"{names}: no volume found; supported are {supported_formats()}")
    return sorted(_with_ids(list(paths.values())), key=lambda file: file.id)


def read_volume(path: Path, fill: float | None = None) -> Volume:
    """Read a volume with its affine, in the units of its file, and check that it is usable.

    Args:
        path: A file or folder of any format in the table (`hagan3d.data.io.registry`).
        fill: Replaces NaN and infinite voxels; None: they are an error.

    Raises:
        InputError: With path, reason and remedy, whatever is wrong with the file.
    """
    path = Path(path)
    return _checked(path, _read(path), fill)


def read_channels(file: VolumeFile, fill: float | None = None) -> Iterator[Volume]:
    """Read the image channels of a volume one after the other; a 4D file is read once.

    Args:
        file: The volume.
        fill: As for `read_volume`.

    Raises:
        InputError: As `read_volume`, or if a 4D file has another number of channels than ``file.frames``.
    """
    if not file.frames:
        for path in (file.path, *file.channels):
            yield read_volume(path, fill)
        return
    array, affine, remarks = _read_frames(file.path)
    frames = _num_frames(array)
    if frames != file.frames:
        raise InputError(
            f"{file.path}: has {frames} channels along its last axis, expected {file.frames}; use files of one kind, "
            "or a CSV with a column of files per channel"
        )
    for frame in range(frames):
        yield _checked(file.path, RawVolume(array[..., frame] if array.ndim == 4 else array, affine, remarks), fill)


def _checked(path: Path, raw: RawVolume, fill: float | None) -> Volume:
    """Return one channel of a file, if it is usable."""
    with naming(path):
        check_affine(raw.affine)
        remarks = tuple(f"{path}: {remark}" for remark in raw.remarks)
        array = check_voxels(raw.array, fill, find_reader(path).is_image)
        return Volume(array, np.asarray(raw.affine, dtype=np.float64), str(path), remarks)


def read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume or label map without the checks of `read_volume`.

    Args:
        path: As for `read_volume`.

    Returns:
        Voxels [D, H, W], float32, in file units, and the affine from index (d, h, w) to RAS mm [4, 4].

    Raises:
        InputError: With path and reason, if it does not exist or cannot be read.
    """
    array, affine, _ = _read(path)
    return array, affine


def _read(path: Path) -> RawVolume:
    """Read a file of one channel."""
    array, affine, remarks = _read_frames(path)
    if _num_frames(array) > 1:
        sides = " x ".join(str(side) for side in array.shape)
        raise InputError(
            f"{path}: expected one 3D volume, got 4D ({sides}); use --channels 4d if the last axis are channels, or "
            "export one time point"
        )
    return RawVolume(array[..., 0] if array.ndim == 4 else array, affine, remarks)


def num_frames(path: Path) -> int:
    """Return the number of channels along the last axis of a file: 1 of a 3D volume.

    Raises:
        InputError: As `read_voxels`.
    """
    return _num_frames(_read_frames(path).array)


def _num_frames(array: np.ndarray) -> int:
    return array.shape[3] if array.ndim == 4 else 1


def _read_frames(path: Path) -> RawVolume:
    """Read voxels ``[D, H, W]`` or ``[D, H, W, C]``, and the affine."""
    if not path.exists():
        raise InputError(f"{path}: {'broken symbolic link' if path.is_symlink() else 'does not exist'}")
    with naming(path):
        return find_reader(path).read(path)


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


def _expand(path: Path) -> list[Path]:
    """Return the volumes that one input stands for."""
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        return _volumes_in(path)
    if path.suffix.lower() in LIST_SUFFIXES:
        return _in_list(path)
    return [path]


def _volumes_in(folder: Path) -> list[Path]:
    """Return the volumes in a folder; images only if there are no others, since pictures often lie next to volumes."""
    volumes = _in_folder(folder, volume_suffixes())
    if volumes:
        return volumes
    # a picture with the name of a store is its contact sheet
    return [path for path in _in_folder(folder, image_suffixes()) if not path.with_suffix(".h5").exists()]


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return volume files and folders of slices at any depth, sorted; hidden files are ignored.

    A broken symbolic link is listed like a file, so that reading it reports the link.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    volumes = [entry for entry in entries if not entry.is_dir() and entry.name.lower().endswith(suffixes)]
    if any(is_slice(entry) for entry in entries if entry.is_file() and entry not in volumes):
        volumes.append(folder)
    return volumes + [path for entry in entries if entry.is_dir() for path in _in_folder(entry, suffixes)]


def _in_list(path: Path) -> list[Path]:
    """Return the volumes named in a text file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file; use one path per line") from error
    named = [path.parent / line for line in lines if line and not line.startswith("#")]
    missing = [str(item) for item in named if not item.exists()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{path}: lists {missing[0]}{more}, which does not exist")
    return [volume for item in named for volume in (_volumes_in(item) if item.is_dir() else [item])]


def _with_ids(paths: list[Path]) -> list[VolumeFile]:
    """Name every path by its stem, preceded by as many folder names as make all names differ."""
    components = {path: (*path.resolve().parent.parts[1:], stem_of(path)) for path in paths}
    files = [VolumeFile(path, components[path][-1]) for path in paths]
    for depth in range(2, max(len(names) for names in components.values()) + 1):
        counts = Counter(file.id for file in files)
        files = [
            replace(file, id="_".join(components[file.path][-depth:])) if counts[file.id] > 1 else file
            for file in files
        ]
    counts = Counter(file.id for file in files)
    duplicates = [file for file in files if counts[file.id] > 1]
    if duplicates:
        first, second = duplicates[:2]
        raise InputError(f"{first.path} and {second.path}: both have the id {first.id!r}; rename one or leave it out")
    return files
