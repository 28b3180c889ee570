"""Distances and ratios from voxel statistics: no network has a say in them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from hagan3d.evaluation.features.summary import BINS, SMALL, Summary, blocks
from hagan3d.evaluation.metrics.distances import Estimate, bootstrap_error, fid

Measure = Callable[[np.ndarray, np.ndarray], float]

LEAST_DEVIATION = 1e-3  # of a slice statistic, in units of [-1, 1], below which it does not vary


def histogram_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance between mean histograms ``[N, BINS]``, in units of the [-1, 1] range."""
    difference = np.cumsum(x.mean(axis=0) - y.mean(axis=0))
    return float(np.abs(difference).sum() * 2 / BINS)


def slice_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over columns of the 1D Wasserstein distance between statistics ``[N, columns]``, such as slice means."""
    return float(np.mean([wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]))


def planes_fid(x: np.ndarray, y: np.ndarray) -> float:
    """2.5D FID: mean over three planes of the Frechet distance between slice statistics ``[N, 3, slices, 8]``.

    Every slice is a sample of eight numbers (see `summary.describe`), each in units of its deviation in ``y``.
    """
    values = []
    for plane in range(3):
        a, b = (v[:, plane].reshape(-1, v.shape[-1]) for v in (x, y))
        scale = np.maximum(b.std(axis=0), LEAST_DEVIATION)
        values.append(fid(a / scale, b / scale))
    return float(np.mean(values))


MEASURES: dict[str, tuple[str, Measure]] = {
    "histogram": ("histogram", histogram_distance),
    "slice_mean": ("slice_mean", slice_distance),
    "slice_deviation": ("slice_deviation", slice_distance),
    "planes_fid": ("planes", planes_fid),
}


def compare_voxels(x: Summary, y: Summary, rounds: int) -> dict[str, Any]:
    """Measure the distances between two sets that need no features.

    Returns:
        `histogram`, `slice_mean`, `slice_deviation`, `planes_fid`: estimates as plain values, errors by bootstrap.
    """
    found = {}
    for name, (key, measure) in MEASURES.items():
        a, b = x[key], y[key]

        def resampled(i: np.ndarray, j: np.ndarray, a: Any = a, b: Any = b, measure: Measure = measure) -> float:
            return measure(a[i], b[j])

        error = bootstrap_error(resampled, len(a), len(b), rounds)
        found[name] = Estimate(measure(a, b), error).to_dict()
    return found


def _spread(x: np.ndarray) -> Estimate:
    """Mean variance of the voxels over volumes ``[N, ...]`` and its error (volumes are independent)."""
    flat = x.reshape(len(x), -1)
    each = ((flat - flat.mean(axis=0)) ** 2).mean(axis=1, dtype=np.float64) * len(x) / (len(x) - 1)
    return Estimate(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(x))))


def variety(x: Summary, y: Summary) -> list[dict[str, Any]]:
    """Ratio of the deviation of voxels over the volumes of ``x`` to that over ``y``, at several resolutions.

    The deviation is the root of the mean variance over voxels; 1: as varied as ``y``, 0: always the same volume.

    Returns:
        Rows of `voxels` (per axis; 0: all that there are), `ratio`, `error`; coarse ones last.
    """
    rows: list[dict[str, Any]] = []
    if "total" in x and x["total"].size > SMALL**3 and "total" in y:
        rows.append({"voxels": 0, "ratio": _full_deviation(x) / max(_full_deviation(y), 1e-12), "error": None})
    for side in (SMALL, SMALL // 2, SMALL // 4, SMALL // 8):
        a, b = (_spread(blocks(s["small"], (side,) * 3)) for s in (x, y))
        ratio = float(np.sqrt(a.value / max(b.value, 1e-12)))
        relative = [e.error / e.value if e.value > 0 else 0.0 for e in (a, b)]
        rows.append({"voxels": side, "ratio": ratio, "error": ratio / 2 * math.hypot(*relative)})
    return rows


def _full_deviation(summary: Summary) -> float:
    n = len(summary["small"])
    variance = (summary["total_square"] - summary["total"] ** 2 / n) / (n - 1)
    return float(np.sqrt(variance.clip(0).mean()))


def seams(x: Summary, y: Summary, depth: int) -> dict[str, Any] | None:
    """Compare the steps of intensity across window borders with those elsewhere.

    Args:
        x: Generated.
        y: Real.
        depth: Slices per window.

    Returns:
        `generated` and `real`: step at borders over step elsewhere; `ratio`: the one over the other, with its error;
        1: borders cannot be told. None where there is but one window.
    """
    steps = x["gradients"].shape[1]
    border = np.zeros(steps, dtype=bool)
    border[depth - 1 :: depth] = True
    if not border.any():
        return None
    made, real = (
        s["gradients"][:, border].mean(axis=1) / s["gradients"][:, ~border].mean(axis=1).clip(1e-9) for s in (x, y)
    )
    ratio = float(made.mean() / real.mean())
    relative = [v.std(ddof=1) / np.sqrt(len(v)) / v.mean() for v in (made, real)]
    error = ratio * math.hypot(*relative)
    return {"generated": float(made.mean()), "real": float(real.mean()), "ratio": Estimate(ratio, error).to_dict()}


def coverage(x: Summary, y: Summary) -> dict[str, Any]:
    """Say slice by slice whether ``x`` covers what ``y`` shows there.

    Returns:
        `share`: of the slices where at least 80 % of ``y`` have a slice mean between the lowest and highest of ``x``;
        `worst`: the slice covered least, and `worst_share`; `slices`: per slice mean and deviation of both.
    """
    a, b = x["slice_mean"], y["slice_mean"]
    inside = ((b >= a.min(axis=0) - LEAST_DEVIATION) & (b <= a.max(axis=0) + LEAST_DEVIATION)).mean(axis=0)
    worst = int(inside.argmin())
    rows = {
        "x_mean": a.mean(axis=0),
        "x_deviation": a.std(axis=0),
        "y_mean": b.mean(axis=0),
        "y_deviation": b.std(axis=0),
    }
    return {
        "share": float((inside >= 0.8).mean()),
        "worst": worst,
        "worst_share": float(inside[worst]),
        "slices": {name: [round(float(v), 5) for v in row] for name, row in rows.items()},
    }


def diversity(x: Summary, y: Summary) -> dict[str, Any]:
    """MS-SSIM between two volumes of one set, for both sets; higher than among real ones: too much alike."""
    found = {}
    for name, s in (("generated", x), ("real", y)):
        values = s["similarity"]
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        found[name] = {**Estimate(float(values.mean()), error).to_dict(), "pairs": len(values)} if len(values) else None
    return found
