"""Preprocessing of one volume: resample its channels and its label map to a grid, scale intensities to [-1, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.config import Size, is_slice
from hagan3d.data.io.geometry import GridRule, resample_onto, to_grid
from hagan3d.data.io.volumes import Volume, VolumeFile, naming, read_volume, read_voxels
from hagan3d.data.preprocess.intensity import IntensityRule, normalize
from hagan3d.errors import InputError


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
    array, affine = to_grid(volume.array, volume.affine, grid, nearest=intensity.kind == "labels")
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
    images: Sequence[tuple[Path, int | None]],
    rules: Sequence[IntensityRule],
    grid: np.ndarray,
    size: Size,
    fill: float | None = None,
) -> Channels:
    """Read channels, resample each onto a grid and scale its intensities.

    Args:
        images: File and frame of each channel, see `VolumeFile.images`.
        rules: How the interval of each channel is determined.
        grid: Index (d, h, w) of the grid to RAS mm [4, 4].
        size: Voxels D, H, W of the grid.
        fill: Replaces NaN and infinite voxels; None: they are an error.

    Raises:
        InputError: If a file cannot be used.
    """
    x, intervals = np.empty((len(images), *size), np.float32), []
    for row, (path, frame), rule in zip(x, images, rules, strict=True):
        row[:], interval = preprocess_onto(read_volume(path, fill, frame), rule, grid, size)
        intervals.append(interval)
    return Channels(x, intervals)


def preprocess_onto(
    volume: Volume, rule: IntensityRule, grid: np.ndarray, size: Size
) -> tuple[np.ndarray, tuple[float, float]]:
    """Resample a volume onto a grid and scale its intensities.

    Returns:
        Voxels [D, H, W] in [-1, 1], and the values of -1 and 1 in file units.

    Raises:
        InputError: If the intensity interval is empty.
    """
    with naming(Path(volume.name)):
        lo, hi = rule.interval(volume.array)
    resampled = resample_onto(volume.array, volume.affine, grid, size, nearest=rule.kind == "labels")
    return normalize(resampled, lo, hi), (lo, hi)


def preprocess_label_map(path: Path, grid: np.ndarray, size: Size) -> np.ndarray:
    """Read a label map and resample it onto a grid by nearest neighbours: uint8 [D, H, W], 0 outside of it."""
    array, affine = read_voxels(path)
    return resample_onto(array, affine, grid, size, nearest=True).astype(np.uint8)


def preprocess_case(
    file: VolumeFile, grid: GridRule, rules: Sequence[IntensityRule]
) -> tuple[Channels, np.ndarray | None, np.ndarray]:
    """Read a volume of several channels onto the grid of a model, which follows from its first channel.

    Returns:
        Its channels, its label map if it has one, and the affine [4, 4] of the grid.

    Raises:
        InputError: If a file cannot be used.
    """
    path, frame = file.images[0]
    first = preprocess_volume(read_volume(path, None, frame), grid, rules[0])
    others = preprocess_channels(file.images[1:], rules[1:], first.affine, grid.size)
    channels = Channels(np.concatenate([first.x[None], others.x]), [(first.lo, first.hi), *others.intervals])
    label_map = None if file.label_map is None else preprocess_label_map(file.label_map, first.affine, grid.size)
    return channels, label_map, first.affine
