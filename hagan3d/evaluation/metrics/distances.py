"""Metrics of features: KID, MMD, FID, precision and recall between two sets."""

import math

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist, pdist

from hagan3d.evaluation.metrics.estimate import Estimate, Subjects, binomial_error, mean_error
from hagan3d.evaluation.metrics.registry import metric

RBF_WIDTHS = (
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
)  # kernel bandwidths of the mixture, in units of the median distance within the reference set

LEAST_SUBJECTS = 3  # of each set: fewer say nothing about differences between subjects


def check_sets(x: np.ndarray, y: np.ndarray, least: int = 3) -> None:
    """Raise ValueError unless both are ``[N, dim]`` with one ``dim`` and at least ``least`` rows."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(f"expected two sets [N >= {least}, dim] of the same dim, got {x.shape} and {y.shape}")


def unbiased_mmd(kxx: np.ndarray, kxy: np.ndarray, kyy: np.ndarray, subjects: Subjects | None = None) -> Estimate:
    """Unbiased squared maximum mean discrepancy from kernel matrices ``[M, M]``, ``[M, N]``, ``[N, N]``.

    May be negative, since it is unbiased: all means are over pairs of volumes of different subjects, because those of
    one subject are more alike than independent ones. The standard error is the jackknife over subjects.

    Args:
        kxx: Kernel within the first set.
        kxy: Kernel between both sets.
        kyy: Kernel within the second set.
        subjects: Subject of each volume of both sets ``[M]``, ``[N]``; equal ones are the same subject, in both sets
            too. Default: one volume per subject.

    Raises:
        ValueError: If a set is of fewer than three subjects.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012, eq. 3.
    """
    m, n = kxy.shape
    found = np.arange(m + n) if subjects is None else np.unique(np.concatenate(subjects), return_inverse=True)[1]
    of_x, of_y = (np.eye(found.max() + 1)[found[part]] for part in (slice(m), slice(m, None)))
    in_x, in_y = (one.any(axis=0) for one in (of_x, of_y))
    if min(in_x.sum(), in_y.sum()) < LEAST_SUBJECTS:
        raise ValueError(f"expected {LEAST_SUBJECTS} subjects in each set, got {in_x.sum()} and {in_y.sum()}")
    parts = ((1, kxx, of_x, of_x), (-2, kxy, of_x, of_y), (1, kyy, of_y, of_y))
    means = [(sign, *_mean_and_without(kernel, rows, columns)) for sign, kernel, rows, columns in parts]
    value = sum(sign * mean for sign, mean, _ in means)
    without = sum((sign * each for sign, _, each in means), np.zeros(of_x.shape[1]))
    groups = (in_x & in_y, in_x & ~in_y, in_y & ~in_x)
    variance = sum((group.sum() - 1) * without[group].var() for group in groups if group.any())
    return Estimate(float(value), math.sqrt(variance))


def _mean_and_without(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of a kernel matrix over pairs of different subjects, and that mean without each subject in turn ``[S]``.

    ``rows [M, S]`` and ``columns [N, S]`` are 1 where a volume is of a subject.
    """
    sums, pairs = rows.T @ kernel @ columns, np.outer(rows.sum(axis=0), columns.sum(axis=0))
    for each in (sums, pairs):
        np.fill_diagonal(each, 0)
    left, count = (each.sum() - each.sum(axis=0) - each.sum(axis=1) for each in (sums, pairs))
    return float(sums.sum() / pairs.sum()), left / count


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``(x . y / dim + 1)^3`` for all pairs, in float64."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


@metric("kid", title="KID", better="lower", needs="features", in_verdict="decides", matters=1.0, by_subject=True)
def kid(x: np.ndarray, y: np.ndarray, subjects: Subjects | None = None) -> Estimate:
    """Kernel Inception Distance between two sets ``[N, dim]``: MMD^2 with a cubic polynomial kernel, over all pairs.

    Unbiased, unlike FID, so it is reliable for small sets. A shift of every feature by half a standard deviation gives
    about 1: (1 + 1/4)^3 - 1.

    Args:
        x: Features ``[M, dim]`` of the evaluated set.
        y: Features ``[N, dim]`` of the reference set.
        subjects: Subjects of both sets, see `unbiased_mmd`.

    Raises:
        ValueError: If the shapes do not match, or a set is of fewer than three subjects.

    Source: Binkowski et al., Demystifying MMD GANs, ICLR 2018, section 4.
    """
    check_sets(x, y)
    return unbiased_mmd(polynomial_kernel(x, x), polynomial_kernel(x, y), polynomial_kernel(y, y), subjects)


def kid_of_subsets(x: np.ndarray, y: np.ndarray, subsets: int, size: int, seed: int = 2020) -> tuple[float, float]:
    """Return mean and standard deviation of KID over random subsets, sampled as torch-fidelity samples them.

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


@metric(
    "mmd",
    title="MMD, RBF mixture",
    better="lower",
    needs="features",
    in_verdict="decides",
    matters=0.036,
    by_subject=True,
)
def rbf_mmd(x: np.ndarray, y: np.ndarray, width: float | None = None, subjects: Subjects | None = None) -> Estimate:
    """Unbiased squared maximum mean discrepancy with a mixture of five Gaussian (RBF) kernels.

    A shift of every feature by half a standard deviation gives about 0.036, to first order in its square.

    Args:
        x: Features ``[M, dim]`` of the evaluated set.
        y: Features ``[N, dim]`` of the reference set.
        width: Unit of the kernel bandwidths. Default: the median distance between two samples of ``y``.
        subjects: Subjects of both sets, see `unbiased_mmd`.

    Raises:
        ValueError: If the shapes do not match, or a set is of fewer than three subjects.
    """
    check_sets(x, y)
    unit = width or float(np.median(pdist(y.astype(np.float64)))) or 1.0

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = cdist(a.astype(np.float64), b.astype(np.float64), "sqeuclidean")
        return np.mean([np.exp(-squared / (2 * (unit * scale) ** 2)) for scale in RBF_WIDTHS], axis=0)

    return unbiased_mmd(kernel(x, x), kernel(x, y), kernel(y, y), subjects)


def shrinkage(x: np.ndarray) -> float:
    """Return the optimal Ledoit-Wolf shrinkage of the covariance of ``x [N, dim]`` towards a multiple of the identity.

    Between 0 (sample covariance) and 1 (multiple of the identity). Computed from the ``N x N`` Gram matrix.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate
    Analysis 88, 2004, lemma 3.2 to 3.4.
    """
    n, dim = x.shape
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    size = float((gram**2).sum()) / n**2  # squared Frobenius norm of the covariance
    spread = size / dim - (float(np.trace(gram)) / n / dim) ** 2
    noise = (float((np.diagonal(gram) ** 2).sum()) / n - size) / (dim * n)
    return min(1.0, max(0.0, noise / spread)) if spread > 0 else 0.0


def fid(x: np.ndarray, y: np.ndarray, shrink: bool = False) -> float:
    """Frechet distance between Gaussians fitted to two sets ``[N, dim]``.

    Biased upwards, more so for smaller sets. Computed in the span of the samples, so that ``dim`` far above N is cheap.

    Args:
        x: Features ``[M, dim]``.
        y: Features ``[N, dim]``.
        shrink: Whether to use Ledoit-Wolf covariances (see `shrinkage`) in place of sample covariances.

    Raises:
        ValueError: If the shapes do not match.

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
    rank = centred[0].shape[1]
    covariances = [
        (1 - w) * c.T @ c / (len(c) - 1) + r * np.eye(rank) for w, c, r in zip(weights, centred, rounds, strict=True)
    ]
    # outside of the span both shrunk covariances are multiples of the identity, which commute
    outside = (dim - rank) * (math.sqrt(rounds[0]) - math.sqrt(rounds[1])) ** 2
    trace = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * _trace_of_root(*covariances)
    return float(((means[0] - means[1]) ** 2).sum() + trace + outside)


@metric("fid", title="FID", better="lower", needs="features")
def plain_fid(x: np.ndarray, y: np.ndarray) -> Estimate:
    """FID with sample covariances, as torch-fidelity; without a standard error, since bias dominates."""
    return Estimate(fid(x, y))


@metric("fid_shrunk", title="FID, shrunk covariance", better="lower", needs="features")
def shrunk_fid(x: np.ndarray, y: np.ndarray) -> float:
    """FID with Ledoit-Wolf covariances."""
    return fid(x, y, shrink=True)


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """Trace of the matrix square root of ``a b`` for two covariances."""
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0))
    return float(np.sqrt(np.linalg.eigvalsh(root.T @ b @ root).clip(0)).sum())


def precision_recall(
    fake: np.ndarray, real: np.ndarray, neighbours: int = 3, subjects: Subjects | None = None
) -> tuple[Estimate, Estimate]:
    """Improved precision and recall: share of generated samples in the real manifold, and the other way round.

    The manifold of a set is the union of balls around its samples, each with the distance to the k-th nearest sample of
    another subject as its radius. Standard errors are the jackknife over the subjects of both sets, and at least
    binomial (see `binomial_error`).

    Args:
        fake: Features ``[M, dim]`` of generated volumes.
        real: Features ``[N, dim]`` of real volumes.
        neighbours: k.
        subjects: Subject of each volume of both sets. Default: one volume per subject.

    Raises:
        ValueError: If a set has fewer than ``neighbours + 1`` samples.

    Source: Kynkaanniemi et al., Improved precision and recall metric, NeurIPS 2019, eq. 1 and 2.
    """
    check_sets(fake, real, least=neighbours + 1)
    of_fake, of_real = subjects or (np.arange(len(fake)), np.arange(len(real)))
    distances = cdist(fake, real)
    return (
        _share_inside(distances, _neighbours(real, of_real), neighbours, of_fake, of_real),
        _share_inside(distances.T, _neighbours(fake, of_fake), neighbours, of_real, of_fake),
    )


def _neighbours(x: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Distances ``[N, N]`` between samples of different subjects; infinite between those of one."""
    return np.where(subjects[:, None] == subjects, np.inf, cdist(x, x))


def _share_inside(
    distances: np.ndarray, within: np.ndarray, neighbours: int, of_points: np.ndarray, of_balls: np.ndarray
) -> Estimate:
    """Share of points that are in a ball, from distances ``[points, balls]`` and those between the balls' centres."""

    def inside(kept: np.ndarray) -> np.ndarray:
        nearest = np.sort(within[np.ix_(kept, kept)], axis=1)
        others = np.minimum(neighbours, np.isfinite(nearest).sum(axis=1)).clip(1)
        radii = np.take_along_axis(nearest, others[:, None] - 1, axis=1)[:, 0]
        return np.asarray((distances[:, kept] <= radii).any(axis=1))

    every = inside(np.ones(len(of_balls), dtype=bool))
    count = len(np.unique(of_balls))
    without = [inside(of_balls != one).mean() for one in np.unique(of_balls)]
    value = float(every.mean())
    error = math.hypot(math.sqrt((count - 1) * np.var(without)), mean_error(every.astype(np.float64), of_points))
    return Estimate(value, max(error, binomial_error(value, len(np.unique(of_points)))))


@metric("precision", title="precision", better="higher", needs="features", settings=("neighbours",), by_subject=True)
def precision(fake: np.ndarray, real: np.ndarray, neighbours: int, subjects: Subjects | None = None) -> Estimate:
    """Share of generated volumes that lie in the manifold of the real ones, see `precision_recall`."""
    return precision_recall(fake, real, neighbours, subjects)[0]


@metric(
    "recall",
    title="recall",
    better="higher",
    needs="features",
    settings=("neighbours",),
    in_verdict="shown",
    by_subject=True,
)
def recall(fake: np.ndarray, real: np.ndarray, neighbours: int, subjects: Subjects | None = None) -> Estimate:
    """Share of real volumes that lie in the manifold of the generated ones, see `precision_recall`."""
    return precision_recall(fake, real, neighbours, subjects)[1]
