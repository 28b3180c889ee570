"""The work on one file of a preparation: check it, or leave its resampled voxels in a part file."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import GridRule, overlap, resample_onto
from hagan3d.data.io.volumes import Source, Volume, read_volume
from hagan3d.data.preprocess.intensity import IntensityRule, normalize
from hagan3d.data.preprocess.standardize import standardize
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
    partner_intensity: IntensityRule | None = None
    """Of a pair: how the interval of the source is found."""


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
    source: np.ndarray | None = None
    """Of a pair: int16 [D, H, W], on the grid of the volume."""
    source_interval: tuple[float, float] | None = None
    mask: np.ndarray | None = None
    """uint8 [D, H, W] of 0 and 1."""


def check_file(task: Task) -> Checked:
    """Read a volume and look for everything that would keep it out of a store."""
    path = task.source.path
    try:
        volume = read_volume(path, task.fill)
        mask = _mask(task, volume)
        task.intensity.interval(volume.array, mask)
        if task.source.mask is not None and mask is not None and not mask.any():
            raise InputError(f"{task.mask}: is empty, so nothing would be looked at; leave it out or repair it")
        if task.source.partner is not None:
            _check_partner(task, volume)
        return Checked(content_hash(path, task.mask, task.source.partner))
    except InputError as error:
        message = str(error)
        named = any(str(file) in message for file in task.source.files)
        return Checked("", message if named else f"{path}: {message}")


def make_part(task: Task) -> None:
    """Resample a volume and leave it in its part file, whole or not at all."""
    volume = read_volume(task.source.path, task.fill)
    made = standardize(volume, task.grid, task.intensity, _mask(task, volume))
    voxels = np.rint(made.x * SCALE).astype(np.int16)
    with replacing(task.part) as beside, beside.open("wb") as file:
        own = {"voxels": voxels, "affine": made.affine, "interval": np.array([made.lo, made.hi])}
        np.savez(file, allow_pickle=False, **own, **_partner(task, volume, made.affine))


def read_part(path: Path) -> Part:
    """Read a part file."""
    with np.load(path, allow_pickle=False) as data:
        lo, hi = data["interval"]
        part = Part(data["voxels"], data["affine"], float(lo), float(hi), mask=data.get("mask"))
        if "source" not in data:
            return part
        first, last = (float(value) for value in data["source_interval"])
        return replace(part, source=data["source"], source_interval=(first, last))


def _partner(task: Task, volume: Volume, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Source and mask of a pair, on the grid that the volume was brought to."""
    made: dict[str, np.ndarray] = {}
    size = task.grid.size
    if task.source.mask is not None:
        inside = _mask(task, volume)
        assert inside is not None
        made["mask"] = (resample_onto(inside.astype(np.float32), volume.affine, grid, size) >= 0.5).astype(np.uint8)
    if task.source.partner is not None and task.partner_intensity is not None:
        partner = read_volume(task.source.partner, task.fill)
        lo, hi = task.partner_intensity.interval(partner.array)
        x = normalize(resample_onto(partner.array, partner.affine, grid, size), lo, hi)
        made |= {"source": np.rint(x * SCALE).astype(np.int16), "source_interval": np.array([lo, hi])}
    return made


def _check_partner(task: Task, volume: Volume) -> None:
    """Raise InputError unless the source of a pair can be used with its target."""
    assert task.source.partner is not None and task.partner_intensity is not None
    partner = read_volume(task.source.partner, task.fill)
    try:
        task.partner_intensity.interval(partner.array)
    except InputError as error:
        raise InputError(f"{task.source.partner}: {error}") from error
    if not overlap(partner.array.shape, partner.affine, volume.affine, volume.array.shape):
        raise InputError(
            f"{task.source.partner}: its grid and that of {task.source.path} do not overlap, so they are no pair; "
            "register them first, or repair the header of one"
        )
    from hagan3d.data.io.dicom import patient_id  # its libraries are not needed by those who read a store

    ids = [patient_id(path) for path in (task.source.path, task.source.partner)]
    if None not in ids and ids[0] != ids[1]:
        raise InputError(
            f"{task.source.partner}: is of patient {ids[1]!r}, but its target {task.source.path} is of {ids[0]!r}; "
            f"pair volumes of one patient under the id {task.source.id}"
        )


def _mask(task: Task, volume: Volume) -> np.ndarray | None:
    """Voxels inside the mask of a volume."""
    if task.mask is None:
        return None
    mask = read_volume(task.mask)
    if mask.array.shape != volume.array.shape or not np.allclose(mask.affine, volume.affine, atol=SAME_PLACE):
        raise InputError(f"{task.mask}: is on another grid than {task.source.path}; want its shape and affine")
    return mask.array > 0


def content_hash(path: Path, *others: Path | None) -> str:
    """SHA-256 of a volume, and of its mask and its source if it has them."""
    hashes = [file_hash(file) for file in (path, *others) if file is not None]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in order of their names."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return hashlib.sha256("".join(file_hash(file) for file in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
