"""Metrics of voxel statistics, which need no network: histograms, slices, variety, seams, coverage, MS-SSIM."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from hagan3d.evaluation.features.summary import BINS, SMALL, Summary, blocks
from hagan3d.evaluation.metrics.distances import fid
from hagan3d.evaluation.metrics.estimate import Estimate, Subjects, mean_error
from hagan3d.evaluation.metrics.registry import metric

LEAST_DEVIATION = 1e-3  # of a slice statistic, in units of [-1, 1]; one that varies less counts as constant
COVERED = 0.8  # share of real volumes whose slice mean must be within the range of generated ones


@metric(
    "planes_fid",
    title="2.5D FID of slice statistics",
    better="lower",
    needs="voxels:planes",
    in_verdict="decides",
    matters=0.6,
)
def planes_fid(x: np.ndarray, y: np.ndarray) -> float:
    """2.5D FID: mean over three planes of the Frechet distance between slice statistics ``[N, 3, slices, 8]``.

    Each slice is a sample of eight values (see `summary.describe`), in units of their standard deviation in ``y``. A
    shift of all eight by a quarter of it gives 0.5; a Gaussian blur of half a voxel, 0.7 to 5.
    """
    values = []
    for plane in range(3):
        a, b = (v[:, plane].reshape(-1, v.shape[-1]) for v in (x, y))
        scale = np.maximum(b.std(axis=0), LEAST_DEVIATION)
        values.append(fid(a / scale, b / scale))
    return float(np.mean(values))


@metric("slice_mean", title="slice means, Wasserstein", better="lower", needs="voxels:slice_mean")
@metric("slice_deviation", title="slice deviations, Wasserstein", better="lower", needs="voxels:slice_deviation")
def slice_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over slices of the 1D Wasserstein distance between slice statistics ``[N, slices]`` of two sets."""
    return float(np.mean([wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]))


@metric("histogram", title="intensity histogram, Wasserstein", better="lower", needs="voxels:histogram")
def histogram_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance between mean histograms ``[N, BINS]``, in units of the [-1, 1] range."""
    difference = np.cumsum(x.mean(axis=0) - y.mean(axis=0))
    return float(np.abs(difference).sum() * 2 / BINS)


@dataclass(frozen=True)
class Variety:
    """Standard deviation of voxels over the volumes of one set, relative to that of another."""

    voxels: int
    """Voxels per axis at which the volumes are compared; 0: full resolution."""
    ratio: float
    """1: as varied as the reference set, 0: all volumes are equal (mode collapse)."""
    error: float | None
    """Standard error; None at full resolution."""


def variety(x: Summary, y: Summary, subjects: Subjects | None = None) -> list[Variety]:
    """Return the variety of ``x`` relative to ``y`` at several resolutions, the coarsest last.

    The ratio of the root mean variance of voxels over volumes; ``subjects`` are those of both sets, for its error.
    """
    rows: list[Variety] = []
    groups = _subjects_or_each(x, y, subjects)
    if "total" in x and x["total"].size > SMALL**3 and "total" in y:
        a, b = (_full_deviation(s, own) for s, own in zip((x, y), groups, strict=True))
        rows.append(Variety(0, a / max(b, 1e-12), None))
    for side in (SMALL, SMALL // 2, SMALL // 4, SMALL // 8):
        one, other = (
            _mean_variance(blocks(s["small"], (side,) * 3), own) for s, own in zip((x, y), groups, strict=True)
        )
        ratio = float(np.sqrt(one[0] / max(other[0], 1e-12)))
        relative = [error / value if value > 0 else 0.0 for value, error in (one, other)]
        rows.append(Variety(side, ratio, ratio / 2 * math.hypot(*relative)))
    return rows


def _subjects_or_each(x: Summary, y: Summary, subjects: Subjects | None) -> Subjects:
    """Return the subjects of the volumes of both sets, each of its own by default."""
    return subjects or (np.arange(len(x["small"])), np.arange(len(y["small"])))


def _mean_variance(x: np.ndarray, subjects: np.ndarray) -> tuple[float, float]:
    """Mean variance of the voxels over volumes ``[N, ...]`` and its standard error.

    Half the mean squared difference of volumes of different subjects, since those of one subject are alike: unbiased,
    and the usual sample variance if each volume is of its own subject.
    """
    centred = x.reshape(len(x), -1).astype(np.float64)
    centred -= centred.mean(axis=0)
    number = np.unique(subjects, return_inverse=True)[1]
    sizes = np.bincount(number)
    squares = (centred**2).mean(axis=1)
    sums = (np.eye(len(sizes))[number].T @ centred) ** 2  # of each subject
    within = (sizes * np.bincount(number, squares)).sum() - sums.mean(axis=1).sum()
    pairs = len(x) ** 2 - (sizes**2).sum()
    value = (len(x) * squares.sum() - within) / pairs if pairs else 0.0
    scale = value / squares.mean() if squares.any() else 1.0
    return float(value), mean_error(squares, subjects) * scale


def _full_deviation(summary: Summary, subjects: np.ndarray) -> float:
    """Root mean variance of the voxels at full resolution, corrected for repeated subjects as that of block means."""
    small, n = summary["small"], len(summary["small"])
    variance = (summary["total_square"] - summary["total"] ** 2 / n) / (n - 1)
    plain, of_subjects = (_mean_variance(small, one)[0] for one in (np.arange(n), subjects))
    return float(np.sqrt(variance.clip(0).mean() * (of_subjects / plain if plain else 1.0)))


@dataclass(frozen=True)
class Seams:
    """Mean intensity step from slice to slice at window borders, relative to the step elsewhere."""

    generated: float
    real: float
    ratio: Estimate
    """Generated over real; 1: no visible seams."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return {"generated": self.generated, "real": self.real, "ratio": self.ratio.to_dict()}


def seams(x: Summary, y: Summary, depth: int, subjects: Subjects | None = None) -> Seams | None:
    """Compare the intensity steps across window borders of generated and of real volumes.

    Args:
        x: Summary of generated volumes.
        y: Summary of real volumes.
        depth: Slices per window.
        subjects: Subjects of both sets, for the error.

    Returns:
        None where one window is the whole volume, or all steps of real volumes are 0.
    """
    steps = x["gradients"].shape[1]
    border = np.zeros(steps, dtype=bool)
    border[depth - 1 :: depth] = True
    if not border.any():
        return None
    generated, real = (
        s["gradients"][:, border].mean(axis=1) / s["gradients"][:, ~border].mean(axis=1).clip(1e-9) for s in (x, y)
    )
    if not real.any():
        return None
    ratio = float(generated.mean() / real.mean())
    errors = [mean_error(v, own) for v, own in zip((generated, real), _subjects_or_each(x, y, subjects), strict=True)]
    error = math.hypot(errors[0], ratio * errors[1]) / float(real.mean())
    return Seams(float(generated.mean()), float(real.mean()), Estimate(ratio, error))


@dataclass(frozen=True)
class Coverage:
    """How many slices of one set have mean intensities that cover those of another."""

    share: float
    """Share of the slices where at least 80 % of the reference volumes are within the range of the evaluated set."""
    worst: int
    """The slice that is covered least."""
    worst_share: float
    """Share of the reference volumes that are covered there."""
    slices: dict[str, list[float]]
    """Mean and standard deviation per slice, of the evaluated (``x_``) and of the reference set (``y_``)."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return asdict(self)


@metric(
    "slice_coverage",
    title="slices with covered means",
    unit="%",
    better="higher",
    needs="voxels:slice_mean",
    in_verdict="decides",
    matters=40.0,
)
def covered_slices(x: np.ndarray, y: np.ndarray) -> float:
    """Percentage of the slices where the range of means ``[M, D]`` of ``x`` has at least 80 % of those of ``y``."""
    return 100 * float((_inside(x, y) >= COVERED).mean())


def _inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the slice means ``[N, D]`` of ``y`` that lie within the range of those of ``x``, per slice ``[D]``."""
    return ((y >= x.min(axis=0) - LEAST_DEVIATION) & (y <= x.max(axis=0) + LEAST_DEVIATION)).mean(axis=0)


def coverage(x: Summary, y: Summary, count: int | None = None) -> Coverage:
    """Compare slice by slice whether the range of slice means of ``x`` covers the slice means of ``y``.

    The more volumes, the wider their range: ``count`` is how many of ``x`` take part, the first ones. Default: all.
    """
    a, b = x["slice_mean"][:count], y["slice_mean"]
    inside = _inside(a, b)
    worst = int(inside.argmin())
    rows = {
        "x_mean": a.mean(axis=0),
        "x_deviation": a.std(axis=0),
        "y_mean": b.mean(axis=0),
        "y_deviation": b.std(axis=0),
    }
    slices = {name: [round(float(v), 5) for v in row] for name, row in rows.items()}
    return Coverage(float((inside >= COVERED).mean()), worst, float(inside[worst]), slices)


@dataclass(frozen=True)
class PairSimilarity:
    """Mean MS-SSIM over random disjoint pairs of volumes of one set."""

    estimate: Estimate
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return {**self.estimate.to_dict(), "pairs": self.pairs}


def pair_similarity(x: Summary) -> PairSimilarity | None:
    """Return the MS-SSIM between volumes of one set, None without pairs; above that of real volumes: mode collapse."""
    values = x["similarity"]
    if not len(values):
        return None
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return PairSimilarity(Estimate(float(values.mean()), error), len(values))
