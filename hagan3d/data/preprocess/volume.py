"""Preprocessing of one volume: resample its channels and its label map to a grid, scale intensities to [-1, 1]."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from hagan3d.config import Size, is_slice
from hagan3d.data.io.checks import check_affine
from hagan3d.data.io.geometry import GridRule, overlap, resample_labels, resample_onto, to_grid
from hagan3d.data.io.volumes import Volume, naming, read_raw
from hagan3d.data.preprocess.intensity import IntensityRule, normalize
from hagan3d.errors import InputError

ONE_LABEL = "a label map has one integer per voxel: of a channel per label, take the number of the largest"
SAME_VOXELS = 0.05  # voxels: largest distance of the corners of two grids that are one
LOST = "on the grid: too small for it, or outside"


@dataclass(frozen=True)
class PreprocessedVolume:
    """A volume on the grid of a store."""

    x: np.ndarray
    """Voxels [D, H, W], float32, in [-1, 1]."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    lo: float
    """Value of x = -1 in file units."""
    hi: float
    """Value of x = 1 in file units."""


def preprocess_volume(
    volume: Volume, grid: GridRule, intensity: IntensityRule, mask: np.ndarray | None = None
) -> PreprocessedVolume:
    """Resample a volume to the grid of a store or a model and scale its intensities.

    Args:
        volume: The volume as read.
        grid: Target grid.
        intensity: How the interval that becomes [-1, 1] is determined.
        mask: Voxels that count for a z-score, of the volume's shape; None: those above the mean.

    Raises:
        InputError: If the intensity interval is empty.
    """
    check_slices(volume, grid)
    try:
        # on the voxels of the file: resampling would shift the percentiles
        lo, hi = intensity.interval(volume.array, mask)
    except InputError as error:
        raise InputError(f"{volume.name}: {error}") from error
    array, affine = to_grid(volume.array, volume.affine, grid, labels=intensity.kind == "labels")
    return PreprocessedVolume(normalize(array, lo, hi), affine, lo, hi)


def check_slices(volume: Volume, grid: GridRule) -> None:
    """Raise InputError if an image is to be stretched to a volume, or a volume squeezed to one slice."""
    d, h, w = grid.size
    slices, rows, columns = volume.array.shape
    if (slices == 1) != is_slice(grid.size):
        remedy = "use --size D H W, and train on slices with data.slices" if d == 1 else "images need --size 1 H W"
        raise InputError(
            f"{volume.name}: has {slices} x {rows} x {columns} voxels, but volumes of the size {d} {h} {w} are made of "
            f"{'single images' if d == 1 else 'whole volumes'}; {remedy}"
        )
    if slices == 1 and grid.axis != "axial":
        raise InputError(f"{volume.name}: an image is taken as an axial slice, but the axis is {grid.axis}; use axial")


@dataclass(frozen=True)
class Channels:
    """Channels of a volume on one grid."""

    x: np.ndarray
    """Voxels [C, D, H, W], float32, in [-1, 1]."""
    intervals: list[tuple[float, float]]
    """Values of x = -1 and x = 1 of each channel, in file units."""


def preprocess_channels(
    volumes: Iterable[Volume],
    rules: Sequence[IntensityRule],
    grid: np.ndarray,
    size: Size,
    mask: Volume | None = None,
) -> Channels:
    """Resample each channel onto a grid and scale its intensities.

    Args:
        volumes: The channels as read.
        rules: How the interval of each is determined.
        grid: Index (d, h, w) of the grid to RAS mm [4, 4].
        size: Voxels D, H, W of the grid.
        mask: Voxels that count for z-scores, 0 or 1, on any grid; None: of each channel those above its mean.

    Raises:
        InputError: If the intensity interval of one is empty.
    """
    x, intervals = np.empty((len(rules), *size), np.float32), []
    for row, volume, rule in zip(x, volumes, rules, strict=True):
        row[:], interval = preprocess_onto(volume, rule, grid, size, mask)
        intervals.append(interval)
    return Channels(x, intervals)


def preprocess_onto(
    volume: Volume, rule: IntensityRule, grid: np.ndarray, size: Size, mask: Volume | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Resample a volume onto a grid and scale its intensities; arguments as of `preprocess_channels`.

    Returns:
        Voxels [D, H, W] in [-1, 1], and the values of -1 and 1 in file units.

    Raises:
        InputError: If the intensity interval is empty.
    """
    with naming(Path(volume.name)):
        lo, hi = rule.interval(volume.array, mask_on(mask, volume))
    resample = resample_labels if rule.kind == "labels" else resample_onto
    resampled = resample(volume.array, volume.affine, grid, size)
    return normalize(resampled, lo, hi), (lo, hi)


def mask_on(mask: Volume | None, volume: Volume) -> np.ndarray | None:
    """Return the voxels of a volume inside a mask of 0 and 1 on another grid, of its shape; None without a mask.

    Raises:
        InputError: If no voxel of the volume lies inside the mask.
    """
    if mask is None or same_grid(mask, volume):
        return None if mask is None else mask.array > 0
    inside = resample_labels(mask.array, mask.affine, volume.affine, volume.array.shape) > 0
    if not inside.any():
        raise InputError(f"no voxel lies inside {mask.name}; use masks of the volumes")
    return inside


def read_label_map(path: Path, names: Sequence[str]) -> Volume:
    """Read a label map, and check that its voxels are labels that have a name.

    Args:
        path: Its file.
        names: Names of the labels, in the order of their values.

    Raises:
        InputError: If it cannot be read, has voxels that are no integers, or has a label without a name.
    """
    raw = read_raw(path, ONE_LABEL)
    array = raw.array
    with naming(path):
        check_affine(raw.affine)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: labels must be integers, got NaN or infinite voxels; set them to a label, such as 0")
    if (array != np.rint(array)).any():
        raise InputError(f"{path}: labels must be integers, got fractions; is it a label map?")
    unknown = sorted({int(label) for label in np.unique(array)} - set(range(len(names))))
    if unknown:
        known = ", ".join(f"{value} {name}" for value, name in enumerate(names))
        raise InputError(f"{path}: has the label {unknown[0]}, but the labels are {known}; name it or correct the file")
    return Volume(array, raw.affine, str(path), tuple(f"{path}: {note}" for note in raw.remarks), raw.is_placed)


def preprocess_label_map(label_map: Volume, grid: np.ndarray, size: Size) -> np.ndarray:
    """Resample a label map onto a grid, see `resample_labels`: uint8 [D, H, W], 0 outside of it."""
    return resample_labels(label_map.array, label_map.affine, grid, size).astype(np.uint8)


def same_grid(one: Volume, other: Volume) -> bool:
    """Return whether two volumes have the same voxels: their corners, in voxels of the other, are in one place."""
    if one.array.shape != other.array.shape:
        return False
    corners = np.array(list(product(*((0, side - 1) for side in one.array.shape))))
    at = apply_affine(np.linalg.solve(other.affine, one.affine), corners)
    return bool(np.abs(at - corners).max() <= SAME_VOXELS)


def lost_labels(label_map: Volume, kept: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return a remark if labels of a map have no voxel after it was resampled.

    Args:
        label_map: As it was read.
        kept: Labels on the grid of a store or a model, uint8.
        names: Of the labels, in the order of their values.
    """
    before, after = (
        np.bincount(labels.astype(np.uint8).ravel(), minlength=len(names)) for labels in (label_map.array, kept)
    )
    lost = [name for name, b, a in zip(names, before, after, strict=True) if b and not a]
    return [f"{label_map.name}: has no voxel of {', '.join(lost)} {LOST}"] if lost else []


def check_grid(volume: Volume, first: Volume) -> list[str]:
    """Raise InputError unless a grid overlaps with that of the first channel; return a remark if it is another."""
    if same_grid(volume, first):
        return []
    check_overlap(volume, first)
    return [f"{volume.name}: resampled onto the grid of {first.name}"]


def check_overlap(volume: Volume, first: Volume) -> None:
    """Raise InputError unless a volume, however small, overlaps with that onto whose grid it is resampled.

    A file that does not say where it lies fits one with the same grid alone.
    """
    unplaced = next((one for one in (volume, first) if not one.is_placed), None)
    if unplaced is not None and not same_grid(volume, first):
        partner = first if unplaced is volume else volume
        raise InputError(
            f"{unplaced.name}: does not say where it lies, and its grid is not that of {partner.name}; save it with "
            "the affine that it has in the space of that file"
        )
    one, other = (volume.array.shape, volume.affine), (first.array.shape, first.affine)
    if not (overlap(*one, *reversed(other)) or overlap(*other, *reversed(one))):
        raise InputError(
            f"{volume.name}: its grid does not overlap with that of {first.name}; register them first, or repair the "
            "header of one"
        )


def check_patient(id: str, paths: Iterable[Path]) -> None:
    """Raise InputError if two files of one case name different patients; those that name none may be of any."""
    from hagan3d.data.io.dicom import patient_id  # not at the top: SimpleITK and pydicom are slow to import

    named = [(path, patient) for path in paths if (patient := patient_id(path)) is not None]
    for path, patient in named[1:]:
        first, other = named[0]
        if patient != other:
            raise InputError(
                f"{path}: PatientID is {patient!r}, but that of {first} is {other!r}; use files of one patient under "
                f"the id {id}"
            )
