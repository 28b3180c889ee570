"""Preprocessing of one volume: resample to a grid, scale intensities to [-1, 1]."""

from dataclasses import dataclass

import numpy as np

from hagan3d.data.io.geometry import GridRule, to_grid
from hagan3d.data.io.volumes import Volume
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
    try:
        # on the voxels of the file: resampling would shift the percentiles
        lo, hi = intensity.interval(volume.array, mask)
    except InputError as error:
        raise InputError(f"{volume.name}: {error}") from error
    array, affine = to_grid(volume.array, volume.affine, grid, nearest=intensity.kind == "labels")
    return PreprocessedVolume(normalize(array, lo, hi), affine, lo, hi)
