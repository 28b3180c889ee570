"""Comparison of two sets of volumes by all registered metrics."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hagan3d.evaluation.features.summary import Summary
from hagan3d.evaluation.metrics.distances import kid_of_subsets, shrinkage
from hagan3d.evaluation.metrics.estimate import Estimate, Subjects, bootstrap_error
from hagan3d.evaluation.metrics.registry import Metric, metrics
from hagan3d.evaluation.settings import EvaluateConfig

LARGEST_SUBSET = 1000  # volumes per subset of KID, the default of torch-fidelity


@dataclass(frozen=True)
class KidSubsets:
    """KID over random subsets, computed as torch-fidelity does."""

    mean: float
    deviation: float
    subsets: int
    size: int
    """Volumes per subset."""


@dataclass(frozen=True)
class FeatureComparison:
    """All feature metrics between two sets."""

    volumes: tuple[int, int]
    """Sizes of the evaluated and of the reference set."""
    dim: int
    """Features per volume."""
    estimates: dict[str, Estimate]
    """By key of the metric."""
    kid_subsets: KidSubsets
    shrinkage: tuple[float, float]
    """Ledoit-Wolf shrinkage of the two covariances."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return {
            "volumes": list(self.volumes),
            "features": self.dim,
            **{key: value.to_dict() for key, value in self.estimates.items()},
            "kid_subsets": dict(vars(self.kid_subsets)),
            "shrinkage": list(self.shrinkage),
            "warnings": list(self.warnings),
        }


def estimate(
    one: Metric, x: np.ndarray, y: np.ndarray, config: EvaluateConfig, subjects: Subjects | None = None
) -> Estimate:
    """Compute a metric of two sets; if it returns a plain float, its standard error by bootstrap over subjects.

    Args:
        one: The metric.
        x: Rows of the evaluated set ``[M, ...]``.
        y: Rows of the reference set ``[N, ...]``.
        config: Settings that metrics take, and the number of bootstrap resamplings.
        subjects: Subjects of both sets, whose volumes depend on each other. Default: one volume per subject.
    """
    subjects = subjects or (np.arange(len(x)), -1 - np.arange(len(y)))
    keywords = {name: getattr(config, name) for name in one.settings}
    value = one.function(x, y, **keywords, **({"subjects": subjects} if one.by_subject else {}))
    if isinstance(value, Estimate):
        return value

    def resampled(i: np.ndarray, j: np.ndarray) -> float:
        return float(one.function(x[i], y[j], **keywords))

    return Estimate(float(value), bootstrap_error(resampled, subjects, config.bootstrap))


def compare_features(
    x: np.ndarray, y: np.ndarray, config: EvaluateConfig, subjects: Subjects | None = None
) -> FeatureComparison:
    """Compute all feature metrics between two sets.

    Args:
        x: Features ``[M, dim]`` of the evaluated set, such as generated volumes.
        y: Features ``[N, dim]`` of the reference set.
        config: Settings of the evaluation.
        subjects: Subjects of both sets, see `estimate`.
    """
    m, n, dim = len(x), len(y), x.shape[1]
    size = min(m, n, LARGEST_SUBSET)
    mean, deviation = kid_of_subsets(x, y, config.kid_subsets, size)
    warnings = []
    if min(m, n) <= dim:
        text = f"the smaller set has {min(m, n)} volumes for {dim} features: FID is unreliable, look at KID"
        warnings.append(text)
    return FeatureComparison(
        volumes=(m, n),
        dim=dim,
        estimates={one.key: estimate(one, x, y, config, subjects) for one in metrics("features")},
        kid_subsets=KidSubsets(mean, deviation, config.kid_subsets, size),
        shrinkage=(shrinkage(x), shrinkage(y)),
        warnings=tuple(warnings),
    )


def compare_summaries(
    needs: str,
    x: Summary,
    y: Summary,
    config: EvaluateConfig,
    subjects: Subjects | None = None,
    count: int | None = None,
) -> dict[str, Estimate]:
    """Compute all metrics of one kind of input, such as `voxels`, between the summaries of two sets, by key.

    Args:
        needs: Kind of input, see `registry`.
        x: Summary of the evaluated set.
        y: Summary of the reference set.
        config: Settings of the evaluation.
        subjects: Subjects of both sets, see `estimate`.
        count: How many volumes of the evaluated set take part, the first ones. Default: all.
    """
    subjects = subjects and (subjects[0][:count], subjects[1])
    return {
        one.key: estimate(one, x[array][:count], y[array], config, subjects)
        for one in metrics(needs)
        for array in [one.needs.partition(":")[2]]
    }
