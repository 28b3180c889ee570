"""Intensities: linear scaling from the units of a file to [-1, 1] and back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from hagan3d.errors import InputError

if TYPE_CHECKING:  # worker processes that read files must not import torch
    from torch import Tensor

Values = TypeVar("Values", np.ndarray, "Tensor")
Kind = Literal["window", "percentiles", "z-score", "labels"]

MUCH_OUTSIDE = 0.25  # of the voxels: with more outside of a window, a remark says so
LITTLE_INSIDE = 0.05  # of the window: if values fill less, a remark says so
Z_SCORE_LIMIT = 3.0  # standard deviations on either side of the mean that become [-1, 1]


def normalize(values: Values, lo: float, hi: float) -> Values:
    """Map [lo, hi] (file units) to [-1, 1]; values outside are clipped."""
    return ((values - lo) * (2.0 / (hi - lo)) - 1.0).clip(-1.0, 1.0)


def denormalize(x: Values, lo: float, hi: float) -> Values:
    """Map [-1, 1] back to [lo, hi] (file units)."""
    return (x + 1.0) * ((hi - lo) / 2.0) + lo


@dataclass(frozen=True)
class IntensityRule:
    """How the interval [lo, hi] of a volume, which becomes [-1, 1], is determined."""

    kind: Kind
    window: tuple[float, float]
    """File units; for `window`. For `labels`: 0 and the largest label."""
    percentiles: tuple[float, float]
    """Lower and upper percentile; for `percentiles`."""

    @property
    def is_label_map(self) -> bool:
        """Whether the values are labels."""
        return self.kind == "labels"

    def interval(self, values: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
        """Determine (lo, hi) in file units.

        Args:
            values: Voxels of one volume, any shape, finite.
            mask: Voxels that count for a z-score, same shape. Default: those above the mean of all.

        Raises:
            InputError: If the interval is empty or a label is invalid. The caller adds the name of the file.
        """
        if self.is_label_map:
            _check_labels(values, self.window[1])
            return self.window
        if self.kind == "window":
            return self.window
        if self.kind == "percentiles":
            lo, hi = (float(value) for value in np.percentile(values, self.percentiles))
            if not lo < hi:
                raise InputError(
                    f"percentiles {self.percentiles[0]:g} and {self.percentiles[1]:g} are both {lo:g} (mostly "
                    "background?); use --trim true, wider percentiles, or --intensity window"
                )
            return lo, hi
        return _z_score_interval(values, mask)


def window_remark(values: np.ndarray, lo: float, hi: float) -> str | None:
    """Return a remark if much of a volume lies outside of a window, or its values fill little of it.

    Args:
        values: Voxels in file units.
        lo: Lower limit of the window.
        hi: Upper limit.
    """
    below, above = float((values < lo).mean()), float((values > hi).mean())
    if below + above >= MUCH_OUTSIDE:
        return (
            f"{below:.0%} of its voxels lie below the window {lo:g} to {hi:g} and {above:.0%} above it: they become "
            "its limits"
        )
    first, last = (float(value) for value in np.percentile(values, (1, 99)))
    if last - first < LITTLE_INSIDE * (hi - lo):
        return (
            f"its values ({first:g} to {last:g}) fill {(last - first) / (hi - lo):.1%} of the window {lo:g} to {hi:g}"
        )
    return None


def _check_labels(values: np.ndarray, largest: float) -> None:
    """Raise InputError unless all voxels are integers from 0 to the largest label."""
    invalid = values[(values != np.rint(values)) | (values < 0) | (values > largest)]
    if invalid.size:
        raise InputError(
            f"labels must be integers from 0 to {largest:g}, got {invalid.flat[0]:g}; use --window 0 K, K the "
            "largest label, or another --intensity if this is not a label map"
        )


def _z_score_interval(values: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    """Return mean -+ 3 standard deviations of the voxels inside the mask."""
    inside = values[values > values.mean(dtype=np.float64)] if mask is None else values[mask]
    mean, deviation = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    if not deviation > 0:
        raise InputError(
            f"all voxels inside the mask are {mean:g}, the standard deviation is 0; use --intensity window"
        )
    return mean - Z_SCORE_LIMIT * deviation, mean + Z_SCORE_LIMIT * deviation
