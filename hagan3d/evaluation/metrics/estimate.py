"""An estimated number with its standard error and 95 % confidence interval."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.96  # standard errors on each side of a 95 % interval

Subjects = tuple[np.ndarray, np.ndarray]
"""Subject of each volume of the evaluated set ``[M]`` and of the reference set ``[N]``; equal ones are one subject."""


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error and its 95 % confidence interval.

    Without ``low`` and ``high`` the interval is the normal approximation, value +- 1.96 standard errors.
    """

    value: float
    error: float | None = None
    """Standard error; None where it is not estimated."""
    low: float = math.nan
    """Lower end of the 95 % interval; NaN without a standard error."""
    high: float = math.nan
    """Upper end."""

    def __post_init__(self) -> None:
        if self.error is not None and math.isnan(self.low):
            object.__setattr__(self, "low", self.value - NORMAL_95 * self.error)
            object.__setattr__(self, "high", self.value + NORMAL_95 * self.error)

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON; without a standard error the value alone."""
        if self.error is None:
            return {"value": self.value}
        return {"value": self.value, "error": self.error, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.error is None else f" +- {self.error:.2g}")


def one_per_subject_first(indices: Sequence[int] | np.ndarray, subjects: Sequence[str], seed: int) -> list[int]:
    """Return indices of volumes in random order: one of each subject, then the second of each, and so on.

    The first of them are of as many subjects as there can be, and neighbours hardly ever of one.

    Args:
        indices: Of the volumes to order.
        subjects: Subject of every volume, by index.
        seed: Of the order.
    """
    order = [int(i) for i in np.random.default_rng(seed).permutation(indices)]
    seen, rounds = Counter[str](), {}
    for i in order:
        rounds[i] = seen[subjects[i]]
        seen[subjects[i]] += 1
    return sorted(order, key=rounds.__getitem__)


def bootstrap_error(
    distance: Callable[[np.ndarray, np.ndarray], float],
    subjects: Subjects,
    rounds: int,
    seed: int = 0,
) -> float:
    """Return the bootstrap standard error of a distance between two sets, resampling subjects with all their volumes.

    Args:
        distance: Function of the resampled indices of the first and of the second set.
        subjects: Subjects of both sets.
        rounds: Number of bootstrap resamplings.
        seed: Seed of the resampling.

    Source: Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7(1), 1979.
    """
    random = np.random.default_rng(seed)
    x, y = (_volumes_of_subjects(own) for own in subjects)
    return float(np.std([distance(_resampled(x, random), _resampled(y, random)) for _ in range(rounds)]))


def mean_error(values: np.ndarray, subjects: np.ndarray) -> float:
    """Return the standard error of the mean of values ``[N]``, those of one subject not independent of each other.

    With one volume per subject it is the deviation over the root of N. Source: Liang and Zeger, Longitudinal data
    analysis using generalized linear models, Biometrika 73(1), 1986 (the sandwich estimator of a mean).
    """
    number = np.unique(subjects, return_inverse=True)[1]
    sums = np.bincount(number, values - values.mean())
    return math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())) / len(values)


def _volumes_of_subjects(subjects: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """Indices of the volumes of each subject; one array if all have one volume, which is much faster to resample."""
    groups = [np.flatnonzero(subjects == one) for one in np.unique(subjects)]
    return np.concatenate(groups) if len(groups) == len(subjects) else groups


def _resampled(volumes: np.ndarray | list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    chosen = random.integers(len(volumes), size=len(volumes))
    return volumes[chosen] if isinstance(volumes, np.ndarray) else np.concatenate([volumes[i] for i in chosen])


def binomial_error(share: float, count: float) -> float:
    """Return the standard error of a share of ``count`` trials.

    One success and one failure are added first, so that shares of 0 and 1 have an error too.
    """
    adjusted = (share * count + 1) / (count + 2)
    return math.sqrt(adjusted * (1 - adjusted) / count)
