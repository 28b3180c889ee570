"""A volume to translate, with where it came from and the units of what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class SourceVolume:
    """One volume to translate."""

    id: str
    x: Tensor
    """``[Cs, D, H, W]`` in [-1, 1], on the grid of the model."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    intervals: Sequence[tuple[float, float]]
    """Values of -1 and 1 of each image channel of its translation, in target units."""
    home: tuple[tuple[int, ...], np.ndarray] | None = None
    """Shape and affine of the file whose grid it is written on; None: of a store, whose grid is the model's."""
