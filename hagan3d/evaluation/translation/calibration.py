"""Calibration of predicted uncertainty: whether the predicted distribution matches the observed errors.

Streaming: voxels are accumulated in fine histograms of fixed size, from which all measures follow, so that volumes of
any size are processed slab by slab and accumulators can be added. Errors are in units of the [-1, 1] range.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hagan3d.ops.ggd_interval import ggd_central
from hagan3d.ops.ggd_reference import LOG_SHAPE_BOUNDS

LEVELS = (0.5, 0.8, 0.9, 0.95)
SIGMA_RANGE = (math.log(1e-6), math.log(1e2))
FINE = 4096  # bins of ln sigma and of ln |e|: 0.45 % wide
PIT_BINS = 2000  # a multiple of 40: the bounds of all levels are bin edges
SHAPE_BINS = 512
CHUNK = 2**22  # voxels per chunk
REMOVED = np.arange(100) / 100  # fractions of the voxels that a sparsification removes


def _zeros(*shape: int) -> Any:
    return field(default_factory=lambda: np.zeros(shape))


@dataclass
class Calibration:
    """Histograms of errors and of their predicted uncertainty."""

    by_sigma: np.ndarray = _zeros(4, FINE)
    """Counts, sums of |e|, e^2 and sigma^2, by predicted sigma ``[4, FINE]``."""
    by_error: np.ndarray = _zeros(2, FINE)
    """Counts and sums of |e|, by |e| ``[2, FINE]``."""
    pit: np.ndarray = _zeros(PIT_BINS)
    """Counts by the predicted CDF at the target (probability integral transform)."""
    by_shape: np.ndarray = _zeros(3, SHAPE_BINS)
    """Counts, sums of beta p and of beta^2 p, by beta, where p = (|e| / alpha)^beta."""

    def add(self, error: Tensor, alpha: Tensor, beta: Tensor, inside: Tensor | None = None) -> None:
        """Accumulate voxels.

        Args:
            error: Target minus prediction, any shape.
            alpha: Predicted scale of the generalized Gaussian, same shape.
            beta: Predicted shape parameter, same shape.
            inside: Mask, bool, same shape. Default: all voxels.
        """
        flat = [x.flatten() if inside is None else x[inside] for x in (error, alpha, beta)]
        for e, a, b in zip(*(x.split(CHUNK) for x in flat), strict=True):
            self._add(e.double().cpu(), a.double().cpu(), b.double().cpu())

    def _add(self, e: Tensor, a: Tensor, b: Tensor) -> None:
        size, log_ratio = e.abs(), (e.abs() / a).log()
        variance = a.square() * (torch.lgamma(3 / b) - torch.lgamma(1 / b)).exp()
        self.by_sigma += _binned(_bin(variance.log() / 2, SIGMA_RANGE, FINE), FINE, size, e.square(), variance)
        self.by_error += _binned(_bin(size.log(), SIGMA_RANGE, FINE), FINE, size)
        below = 0.5 + e.sign() / 2 * ggd_central(e, a, b)
        self.pit += _binned((below * PIT_BINS).long().clamp(max=PIT_BINS - 1), PIT_BINS)[0]
        weighted = b * (b * log_ratio).exp()
        self.by_shape += _binned(_bin(b.log(), LOG_SHAPE_BOUNDS, SHAPE_BINS), SHAPE_BINS, weighted, b * weighted)

    def __add__(self, other: "Calibration") -> "Calibration":
        return Calibration(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.pit.sum())

    def scale(self) -> float:
        """Return the maximum-likelihood scale of all alpha, and so of sigma.

        For a single shape beta: s^beta = beta mean(p). For several shapes, the root of mean(beta p s^-beta) = 1.
        """
        from scipy.optimize import brentq

        voxels, weighted, squared = self.by_shape
        used = weighted > 0
        if not used.any():
            return 1.0
        beta, share = squared[used] / weighted[used], weighted[used] / voxels.sum()
        return float(math.exp(brentq(lambda t: math.log(float((share * np.exp(-beta * t)).sum())), -20.0, 20.0)))

    def result(self, bins: int = 20) -> dict[str, Any]:
        """Return all measures as plain values, with ``bins`` bins of equal mass; defined in `CALIBRATION_NOTES`."""
        if not self.voxels:
            return {"voxels": 0}
        rows = self.groups(bins)
        count, deviation, rmse = rows.T
        ause, random = self._sparsification()
        cumulative = np.concatenate([[0.0], np.cumsum(self.pit)]) / self.voxels
        middle = PIT_BINS // 2
        reach = {level: round(level * middle) for level in LEVELS}
        return {
            "voxels": self.voxels,
            "uce": float((count * np.abs(rmse**2 - deviation**2)).sum() / count.sum()),
            "ence": float((np.abs(deviation - rmse) / deviation).mean()),
            "ks": float(np.abs(cumulative - np.linspace(0, 1, PIT_BINS + 1)).max()),
            "coverage": {f"{v:g}": float(cumulative[middle + k] - cumulative[middle - k]) for v, k in reach.items()},
            "ause": ause,
            "ause_random": random,
            "sigma": math.sqrt(float(self.by_sigma[3].sum()) / self.voxels),
            "rmse": math.sqrt(float(self.by_sigma[2].sum()) / self.voxels),
            "bins": rows.tolist(),
        }

    def groups(self, bins: int) -> np.ndarray:
        """Return count, root mean variance and RMSE of bins of equal mass in sigma ``[<= bins, 3]``."""
        count, _, squares, variance = self.by_sigma
        middle = np.cumsum(count) - count / 2
        group = np.minimum((middle * bins / count.sum()).astype(int), bins - 1)
        total = np.stack([np.bincount(group, values, bins) for values in (count, variance, squares)], 1)
        total = total[total[:, 0] > 0]
        return np.stack([total[:, 0], *np.sqrt(total[:, 1:] / total[:, :1]).T], 1)

    def _sparsification(self) -> tuple[float, float]:
        """Area under the sparsification error (AUSE) by predicted sigma and in random order, relative to the MAE."""
        mean = self.by_sigma[1].sum() / self.voxels
        if not mean:
            return 0.0, 0.0
        oracle = _remaining_mean(*self.by_error) / mean
        return float((_remaining_mean(*self.by_sigma[:2]) / mean - oracle).mean()), float((1 - oracle).mean())


def _bin(logarithm: Tensor, bounds: tuple[float, float], bins: int) -> Tensor:
    """Index of the bin of a logarithm; values outside are in the first or last bin."""
    return ((logarithm.clamp(*bounds) - bounds[0]) * (bins / (bounds[1] - bounds[0]))).long().clamp(max=bins - 1)


def _binned(index: Tensor, bins: int, *values: Tensor) -> np.ndarray:
    """Counts, and sums of values, by bin ``[1 + values, bins]``."""
    counts = torch.bincount(index, minlength=bins).double()
    return torch.stack([counts, *(torch.bincount(index, value, bins) for value in values)]).numpy()


def _remaining_mean(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean of the remaining voxels after the fractions `REMOVED` of them were removed, from the last bin downwards."""
    remaining = (1 - REMOVED) * count.sum()
    counts, totals = (np.concatenate([[0.0], np.cumsum(values)]) for values in (count, total))
    return np.interp(remaining, counts, totals) / remaining


CALIBRATION_NOTES = (
    "Errors and sigma in units of the [-1, 1] range. Bins: 20 of equal mass in sigma.",
    "UCE: mean over voxels of |mean squared error - mean variance| of their bin (Laves et al., 2020).",
    "ENCE: mean over bins of |root mean variance - root mean squared error| / root mean variance (Levi et al., 2022).",
    "KS: maximum difference between the distribution of the predicted CDF at the target (PIT) and the uniform one.",
    "Coverage: share of targets within the central predicted interval of that probability.",
    "AUSE: voxels are removed in steps of 1 %, in descending order of sigma; relative mean absolute error of the "
    "remaining voxels minus that of the oracle (descending order of error), averaged over the steps. Random: no order.",
    "Scale: maximum-likelihood factor on sigma on the fitting volumes, s^beta = beta mean(p).",
)
