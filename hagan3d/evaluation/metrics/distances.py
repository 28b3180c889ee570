"""Distances between two sets of features, each with its standard error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist, pdist

RBF_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the mixture, in units of the median distance of the reference set
NORMAL_95 = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A number and how far it may be off."""

    value: float
    error: float
    """Standard error."""

    def to_dict(self) -> dict[str, float]:
        """Value, standard error and 95 % interval (normal approximation)."""
        half = NORMAL_95 * self.error
        return {"value": self.value, "error": self.error, "low": self.value - half, "high": self.value + half}


def check_sets(x: np.ndarray, y: np.ndarray, least: int = 3) -> None:
    """Raise ValueError unless both are ``[N, dim]`` with one ``dim`` and at least ``least`` rows."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(f"want [N >= {least}, dim] twice with one dim, got {x.shape} and {y.shape}")


def unbiased_mmd(kxx: np.ndarray, kxy: np.ndarray, kyy: np.ndarray) -> Estimate:
    """Squared maximum mean discrepancy from kernel matrices ``[M, M]``, ``[M, N]``, ``[N, N]``.

    Unbiased, so it may be below zero: eq. 3 of Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012. The error is
    the jackknife over both sets.
    """
    m, n = kxy.shape
    x_rows, y_rows = kxx.sum(axis=1) - np.diagonal(kxx), kyy.sum(axis=1) - np.diagonal(kyy)
    x_sum, y_sum, cross = x_rows.sum(), y_rows.sum(), kxy.sum()
    x_mean, y_mean = x_sum / (m * (m - 1)), y_sum / (n * (n - 1))
    without_x = (x_sum - 2 * x_rows) / ((m - 1) * (m - 2)) - 2 * (cross - kxy.sum(axis=1)) / ((m - 1) * n)
    without_y = (y_sum - 2 * y_rows) / ((n - 1) * (n - 2)) - 2 * (cross - kxy.sum(axis=0)) / (m * (n - 1))
    variance = (m - 1) * without_x.var() + (n - 1) * without_y.var()
    return Estimate(float(x_mean + y_mean - 2 * cross / (m * n)), float(math.sqrt(variance)))


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``(x . y / dim + 1)^3`` for all pairs, in float64."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Kernel distance between two sets ``[N, dim]``, over all pairs at once.

    Unlike FID it is unbiased, so it can be trusted for small sets.
    Source: Binkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.

    Raises:
        ValueError: If the sets do not fit together.
    """
    check_sets(x, y)
    return unbiased_mmd(polynomial_kernel(x, x), polynomial_kernel(x, y), polynomial_kernel(y, y))


def kid_of_subsets(x: np.ndarray, y: np.ndarray, subsets: int, size: int, seed: int = 2020) -> tuple[float, float]:
    """Mean and deviation of the kernel distance over random subsets, drawn as torch-fidelity draws them.

    Raises:
        ValueError: If a subset is larger than a set.
    """
    check_sets(x, y, least=max(size, 3))
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        one = x[random.choice(len(x), size, replace=False)]
        values.append(kid(one, y[random.choice(len(y), size, replace=False)]).value)
    return float(np.mean(values)), float(np.std(values))


def rbf_mmd(x: np.ndarray, y: np.ndarray, width: float | None = None) -> Estimate:
    """Squared maximum mean discrepancy with a mixture of five Gaussian kernels, unbiased.

    Args:
        x: Features ``[M, dim]``.
        y: Features of the reference set ``[N, dim]``.
        width: Unit of the kernels' widths. Default: the median distance between two of ``y``.

    Raises:
        ValueError: If the sets do not fit together.
    """
    check_sets(x, y)
    unit = width or float(np.median(pdist(y.astype(np.float64)))) or 1.0

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = cdist(a.astype(np.float64), b.astype(np.float64), "sqeuclidean")
        return np.mean([np.exp(-squared / (2 * (unit * scale) ** 2)) for scale in RBF_WIDTHS], axis=0)

    return unbiased_mmd(kernel(x, x), kernel(x, y), kernel(y, y))


def shrinkage(x: np.ndarray) -> float:
    """Weight of the round covariance, 0 to 1, that suits the sample ``x [N, dim]`` best.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
    Analysis 88, 2004, lemma 3.2 to 3.4; all from the ``N x N`` matrix of inner products.
    """
    n, dim = x.shape
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    size = float((gram**2).sum()) / n**2  # squared Frobenius norm of the covariance
    spread = size / dim - (float(np.trace(gram)) / n / dim) ** 2
    noise = (float((np.diagonal(gram) ** 2).sum()) / n - size) / (dim * n)
    return min(1.0, max(0.0, noise / spread)) if spread > 0 else 0.0


def fid(x: np.ndarray, y: np.ndarray, shrink: bool = False) -> float:
    """Frechet distance between the Gaussians fitted to two sets ``[N, dim]``.

    It is biased upwards, the more so the smaller the sets. Works in the span of the samples, so that a ``dim`` far
    above N costs little.

    Args:
        x: Features ``[M, dim]``.
        y: Features ``[N, dim]``.
        shrink: Whether to shrink both covariances towards round ones (see `shrinkage`).

    Raises:
        ValueError: If the sets do not fit together.

    Source: Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017, eq. 6.
    """
    check_sets(x, y, least=2)
    dim = x.shape[1]
    means = [sample.mean(axis=0, dtype=np.float64) for sample in (x, y)]
    centred = [sample.astype(np.float64) - mean for sample, mean in zip((x, y), means, strict=True)]
    weights = [shrinkage(sample) if shrink else 0.0 for sample in (x, y)]
    rounds = [w * (c**2).sum() / (len(c) - 1) / dim for w, c in zip(weights, centred, strict=True)]
    if sum(map(len, centred)) < dim:
        basis = scipy.linalg.qr(np.concatenate(centred).T, mode="economic")[0]
        centred = [c @ basis for c in centred]
    kept = centred[0].shape[1]
    covariances = [
        (1 - w) * c.T @ c / (len(c) - 1) + r * np.eye(kept) for w, c, r in zip(weights, centred, rounds, strict=True)
    ]
    outside = (dim - kept) * (math.sqrt(rounds[0]) - math.sqrt(rounds[1])) ** 2
    trace = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * _trace_of_root(*covariances)
    return float(((means[0] - means[1]) ** 2).sum() + trace + outside)


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """Trace of the square root of ``a b`` for two covariances."""
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0))
    return float(np.sqrt(np.linalg.eigvalsh(root.T @ b @ root).clip(0)).sum())


def bootstrap_error(
    distance: Callable[[np.ndarray, np.ndarray], float], m: int, n: int, rounds: int, seed: int = 0
) -> float:
    """Deviation of a distance over resampled sets.

    Args:
        distance: Takes the indices of the first and of the second set.
        m: Size of the first set.
        n: Size of the second set.
        rounds: Resamplings.
        seed: Of the resampling.
    """
    random = np.random.default_rng(seed)
    return float(np.std([distance(random.integers(m, size=m), random.integers(n, size=n)) for _ in range(rounds)]))


def precision_recall(fake: np.ndarray, real: np.ndarray, neighbours: int = 3) -> tuple[Estimate, Estimate]:
    """How many generated samples lie among real ones, and how many real ones among generated.

    A set's region is the union of balls round its members that reach to their k-th neighbour. Errors are binomial, of
    the share with one success and one failure added, so that none and all have an error too.
    Source: Kynkaanniemi et al., Improved precision and recall metric, NeurIPS 2019, eq. 1 and 2.

    Raises:
        ValueError: If a set has fewer than ``neighbours + 1`` members.
    """
    check_sets(fake, real, least=neighbours + 1)
    cross = cdist(fake, real)

    def reach(x: np.ndarray) -> np.ndarray:
        return np.partition(cdist(x, x), neighbours, axis=1)[:, neighbours]

    def share(inside: np.ndarray) -> Estimate:
        count, hits = len(inside), int(inside.sum())
        likely = (hits + 1) / (count + 2)
        return Estimate(hits / count, math.sqrt(likely * (1 - likely) / count))

    return share((cross <= reach(real)[None]).any(axis=1)), share((cross <= reach(fake)[:, None]).any(axis=0))


def compare(x: np.ndarray, y: np.ndarray, *, neighbours: int, subsets: int, rounds: int) -> dict[str, Any]:
    """Measure everything between the features of two sets.

    Args:
        x: Features ``[M, dim]`` of generated volumes, or of the set to judge.
        y: Features ``[N, dim]`` of the reference.
        neighbours: Of precision and recall.
        subsets: Of the kernel distance in the manner of torch-fidelity.
        rounds: Resamplings for the error of FID.

    Returns:
        Plain values: sizes, estimates and warnings.
    """
    m, n, dim = len(x), len(y), x.shape[1]
    size = min(m, n, 1000)
    mean, deviation = kid_of_subsets(x, y, subsets, size)
    precision, recall = precision_recall(x, y, neighbours)

    def shrunk(i: np.ndarray, j: np.ndarray) -> float:
        return fid(x[i], y[j], shrink=True)

    warnings = []
    if min(m, n) <= dim:
        warnings.append(f"the smaller set has {min(m, n)} volumes for {dim} features: FID says little, look at KID")
    return {
        "volumes": [m, n],
        "features": dim,
        "kid": kid(x, y).to_dict(),
        "kid_subsets": {"mean": mean, "deviation": deviation, "subsets": subsets, "size": size},
        "mmd": rbf_mmd(x, y).to_dict(),
        "fid": fid(x, y),
        "fid_shrunk": Estimate(fid(x, y, shrink=True), bootstrap_error(shrunk, m, n, rounds)).to_dict(),
        "shrinkage": [shrinkage(x), shrinkage(y)],
        "precision": precision.to_dict(),
        "recall": recall.to_dict(),
        "warnings": warnings,
    }
