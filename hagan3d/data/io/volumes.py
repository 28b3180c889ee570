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

    @property
    def images(self) -> list[tuple[Path, int | None]]:
        """File and frame of every channel; the frame is None in a file of one channel."""
        if self.frames:
            return [(self.path, frame) for frame in range(self.frames)]
        return [(path, None) for path in (self.path, *self.channels)]


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


def read_volume(path: Path, fill: float | None = None, frame: int | None = None) -> Volume:
    """Read a volume with its affine, in the units of its file, and check that it is usable.

    Args:
        path: A file or folder of any format in the table (`hagan3d.data.io.registry`).
        fill: Replaces NaN and infinite voxels; None: they are an error.
        frame: Channel of a 4D file, an index of its last axis; None: the file has one channel.

    Raises:
        InputError: With path, reason and remedy, whatever is wrong with the file.
    """
    path = Path(path)
    array, affine, remarks = _read(path, frame)
    with naming(path):
        check_affine(affine)
        remarks = tuple(f"{path}: {remark}" for remark in remarks)
        array = check_voxels(array, fill, find_reader(path).is_image)
        return Volume(array, np.asarray(affine, dtype=np.float64), str(path), remarks)


def read_voxels(path: Path, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume or label map without the checks of `read_volume`.

    Args:
        path: As for `read_volume`.
        frame: As for `read_volume`.

    Returns:
        Voxels [D, H, W], float32, in file units, and the affine from index (d, h, w) to RAS mm [4, 4].

    Raises:
        InputError: With path and reason, if it does not exist or cannot be read.
    """
    array, affine, _ = _read(path, frame)
    return array, affine


def _read(path: Path, frame: int | None) -> RawVolume:
    """Read one channel of a file."""
    array, affine, remarks = _read_frames(path)
    with naming(path):
        frames = array.shape[3] if array.ndim == 4 else 1
        if frame is None and frames > 1:
            sides = " x ".join(str(side) for side in array.shape)
            raise InputError(
                f"expected one 3D volume, got 4D ({sides}); use --channels 4d if the last axis are channels, or "
                "export one time point"
            )
        if frame is not None and not frame < frames:
            raise InputError(f"has {frames} channels, the first file has more; use files of one kind")
        return RawVolume(array[..., frame or 0] if array.ndim == 4 else array, affine, remarks)


def num_frames(path: Path) -> int:
    """Return the number of channels along the last axis of a file: 1 of a 3D volume.

    Raises:
        InputError: As `read_voxels`.
    """
    array = _read_frames(path).array
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
