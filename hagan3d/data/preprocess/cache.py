"""The work on one file of a preparation: check it, and write its preprocessed voxels to a cache file."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import GridRule, overlap, resample_onto
from hagan3d.data.io.volumes import Volume, VolumeFile, read_volume
from hagan3d.data.preprocess.intensity import IntensityRule, normalize
from hagan3d.data.preprocess.volume import preprocess_volume
from hagan3d.data.store.format import to_int16
from hagan3d.errors import InputError

AFFINE_TOLERANCE = 1e-2  # mm: largest difference of the affines of a mask and its volume
INSIDE = 0.5  # a resampled mask is 1 from here up


@dataclass(frozen=True)
class PreprocessingTask:
    """One volume to check or to preprocess."""

    file: VolumeFile
    grid: GridRule
    intensity: IntensityRule
    fill: float | None
    """Replaces NaN and infinite voxels; None: they are an error."""
    cache_path: Path
    """File for the preprocessed voxels until the store is written."""
    mask: Path | None = None
    """Volume that is above 0 in the region of a z-score, or of the likelihood and metrics of a pair."""
    source_intensity: IntensityRule | None = None
    """Of a pair: intensities of the source."""


@dataclass(frozen=True)
class CheckResult:
    """Result of the check of one file."""

    hash: str
    """SHA-256 of its bytes."""
    error: str = ""
    """One line: file, reason, remedy; empty if the file is usable."""


@dataclass(frozen=True)
class CachedVolume:
    """Content of a cache file."""

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


def check_file(task: PreprocessingTask) -> CheckResult:
    """Read a volume and check everything that could make its preprocessing fail."""
    file = task.file
    try:
        volume = read_volume(file.path, task.fill)
        mask = _mask(task, volume)
        task.intensity.interval(volume.array, mask)
        if file.mask is not None and mask is not None and not mask.any():
            raise InputError(f"{task.mask}: mask is empty; repair it or leave it out")
        if file.source is not None:
            _check_source(task, volume)
        return CheckResult(content_hash(file.path, task.mask, file.source))
    except InputError as error:
        message = str(error)
        is_named = any(str(path) in message for path in file.files)
        return CheckResult("", message if is_named else f"{file.path}: {message}")


def write_cache_file(task: PreprocessingTask) -> None:
    """Preprocess a volume and write it to its cache file, atomically."""
    volume = read_volume(task.file.path, task.fill)
    preprocessed = preprocess_volume(volume, task.grid, task.intensity, _mask(task, volume))
    arrays = {
        "voxels": to_int16(preprocessed.x),
        "affine": preprocessed.affine,
        "interval": np.array([preprocessed.lo, preprocessed.hi]),
        **_source_and_mask(task, volume, preprocessed.affine),
    }
    with replacing(task.cache_path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_cache_file(path: Path) -> CachedVolume:
    """Read a cache file."""
    with np.load(path, allow_pickle=False) as data:
        lo, hi = data["interval"]
        volume = CachedVolume(data["voxels"], data["affine"], float(lo), float(hi), mask=data.get("mask"))
        if "source" not in data:
            return volume
        source_lo, source_hi = (float(value) for value in data["source_interval"])
        return replace(volume, source=data["source"], source_interval=(source_lo, source_hi))


def _source_and_mask(task: PreprocessingTask, volume: Volume, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Resample the source and the mask of a pair onto the grid of the preprocessed volume."""
    arrays: dict[str, np.ndarray] = {}
    size = task.grid.size
    if task.file.mask is not None:
        inside = _mask(task, volume)
        assert inside is not None
        resampled = resample_onto(inside.astype(np.float32), volume.affine, grid, size)
        arrays["mask"] = (resampled >= INSIDE).astype(np.uint8)
    if task.file.source is not None and task.source_intensity is not None:
        source = read_volume(task.file.source, task.fill)
        lo, hi = task.source_intensity.interval(source.array)
        x = normalize(resample_onto(source.array, source.affine, grid, size), lo, hi)
        arrays |= {"source": to_int16(x), "source_interval": np.array([lo, hi])}
    return arrays


def _check_source(task: PreprocessingTask, volume: Volume) -> None:
    """Raise InputError unless the source of a pair is usable and fits its target."""
    file = task.file
    assert file.source is not None and task.source_intensity is not None
    source = read_volume(file.source, task.fill)
    try:
        task.source_intensity.interval(source.array)
    except InputError as error:
        raise InputError(f"{file.source}: {error}") from error
    if not overlap(source.array.shape, source.affine, volume.affine, volume.array.shape):
        raise InputError(
            f"{file.source}: its grid does not overlap with that of its target {file.path}; "
            "register them first, or repair the header of one"
        )
    from hagan3d.data.io.dicom import patient_id  # not at the top: SimpleITK and pydicom are slow to import

    ids = [patient_id(path) for path in (file.path, file.source)]
    if None not in ids and ids[0] != ids[1]:
        raise InputError(
            f"{file.source}: PatientID is {ids[1]!r}, but that of its target {file.path} is {ids[0]!r}; "
            f"pair volumes of one patient under the id {file.id}"
        )


def _mask(task: PreprocessingTask, volume: Volume) -> np.ndarray | None:
    """Read the mask of a volume as booleans, on the grid of its file."""
    if task.mask is None:
        return None
    mask = read_volume(task.mask)
    if mask.array.shape != volume.array.shape or not np.allclose(mask.affine, volume.affine, atol=AFFINE_TOLERANCE):
        raise InputError(f"{task.mask}: must have the shape and affine of {task.file.path}; resample the mask")
    return mask.array > 0


def content_hash(path: Path, *others: Path | None) -> str:
    """Return the SHA-256 of a volume, combined with that of its mask and its source if there are any."""
    hashes = [file_hash(file) for file in (path, *others) if file is not None]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a folder in the order of their names."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return hashlib.sha256("".join(file_hash(file) for file in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
