"""The work on one file of a preparation: check it, or leave its resampled voxels in a part file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.data.files import replacing
from hagan3d.data.geometry import GridRule
from hagan3d.data.intensity import IntensityRule
from hagan3d.data.standard import standardize
from hagan3d.data.volumes import Source, Volume, read_volume
from hagan3d.errors import InputError

SAME_PLACE = 1e-2  # largest difference of two affines that are one, mm
SCALE = 32767  # x in [-1, 1] is kept as the whole number round(x * SCALE)


@dataclass(frozen=True)
class Task:
    """One volume to check or to resample."""

    source: Source
    grid: GridRule
    intensity: IntensityRule
    fill: float | None
    part: Path
    """File its voxels wait in until the store is written."""
    mask: Path | None = None
    """Volume that is above 0 where a z-score shall look."""


@dataclass(frozen=True)
class Checked:
    """What the check of one file found."""

    hash: str
    """SHA-256 of its bytes."""
    error: str = ""
    """One line: file, reason, remedy; empty if it can be used."""


@dataclass(frozen=True)
class Part:
    """A resampled volume."""

    voxels: np.ndarray
    """int16 [D, H, W]."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    lo: float
    hi: float


def check_file(task: Task) -> Checked:
    """Read a volume and look for everything that would keep it out of a store."""
    path = task.source.path
    try:
        volume = read_volume(path, task.fill)
        task.intensity.interval(volume.array, _mask(task, volume))
        return Checked(content_hash(path, task.mask))
    except InputError as error:
        message = str(error)
        return Checked("", message if str(path) in message else f"{path}: {message}")


def make_part(task: Task) -> None:
    """Resample a volume and leave it in its part file, whole or not at all."""
    volume = read_volume(task.source.path, task.fill)
    made = standardize(volume, task.grid, task.intensity, _mask(task, volume))
    voxels = np.rint(made.x * SCALE).astype(np.int16)
    with replacing(task.part) as beside, beside.open("wb") as file:
        np.savez(file, voxels=voxels, affine=made.affine, interval=np.array([made.lo, made.hi]))


def read_part(path: Path) -> Part:
    """Read a part file."""
    with np.load(path, allow_pickle=False) as data:
        lo, hi = data["interval"]
        return Part(data["voxels"], data["affine"], float(lo), float(hi))


def _mask(task: Task, volume: Volume) -> np.ndarray | None:
    """Voxels inside the mask of a volume."""
    if task.mask is None:
        return None
    mask = read_volume(task.mask)
    if mask.array.shape != volume.array.shape or not np.allclose(mask.affine, volume.affine, atol=SAME_PLACE):
        raise InputError(f"{task.mask}: is on another grid than {task.source.path}; want its shape and affine")
    return mask.array > 0


def content_hash(path: Path, mask: Path | None) -> str:
    """SHA-256 of a volume, and of its mask if it has one."""
    own = file_hash(path)
    return own if mask is None else hashlib.sha256((own + file_hash(mask)).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in order of their names."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return hashlib.sha256("".join(file_hash(file) for file in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
