"""One volume as read to one volume as stored: on the grid, in [-1, 1]."""

from dataclasses import dataclass

import numpy as np

from hagan3d.data.io.geometry import GridRule, to_grid
from hagan3d.data.io.volumes import Volume
from hagan3d.data.preprocess.intensity import IntensityRule, normalize
from hagan3d.errors import InputError


@dataclass(frozen=True)
class Standard:
    """A volume on the grid of a store."""

    x: np.ndarray
    """Voxels [D, H, W], float32, in [-1, 1]."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    lo: float
    """Value of x = -1 in file units."""
    hi: float
    """Value of x = 1 in file units."""


def standardize(volume: Volume, grid: GridRule, intensity: IntensityRule, mask: np.ndarray | None = None) -> Standard:
    """Bring a volume to the grid and the intensities of a store or a model.

    The interval is found on the voxels of the file, before they are resampled; for a z-score on those inside `mask`.

    Raises:
        InputError: If the intensities leave nothing to scale.
    """
    try:
        lo, hi = intensity.interval(volume.array, mask)
    except InputError as error:
        raise InputError(f"{volume.name}: {error}") from error
    array, affine = to_grid(volume.array, volume.affine, grid, nearest=intensity.kind == "labels")
    return Standard(normalize(array, lo, hi), affine, lo, hi)
