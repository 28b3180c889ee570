"""Regression with nested cross-validation, and confidence intervals by bootstrap over subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hagan3d.evaluation.metrics.estimate import Estimate

STRENGTHS = tuple(float(value) for value in np.logspace(-4, 6, 11))
"""Regularisation strengths of ridge regression (standardized features) for the inner folds."""
INNER_FOLDS = 5


@dataclass(frozen=True)
class RegressionMethod:
    """A regression method: an estimator of scikit-learn and its hyperparameter grid."""

    name: str
    estimator: Any
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values by name of the hyperparameter, as for `GridSearchCV`; empty: none."""


@dataclass(frozen=True)
class Regression:
    """Out-of-fold predictions; no model was fitted on the subject that it predicts."""

    predicted: np.ndarray
    """Predictions ``[N]``, in the units of the target."""
    r2: Estimate
    """Coefficient of determination; below 0: worse than the mean."""
    correlation: Estimate
    models: tuple[Any, ...]
    """The fitted model of each fold."""


def ridge() -> RegressionMethod:
    """Return ridge regression on standardized features, its strength selected by the inner folds."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return RegressionMethod("ridge", make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": STRENGTHS})


def cross_validate(
    x: np.ndarray,
    y: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    method: RegressionMethod | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    rounds: int = 1000,
) -> Regression:
    """Predict every volume by nested cross-validation: hyperparameters are selected on the training folds.

    Args:
        x: Features ``[N, d]``.
        y: Target ``[N]``.
        groups: Subject of each volume ``[N]``; folds, outer and inner, do not split subjects.
        method: Regression method. Default: ridge.
        folds: Outer folds; fewer if there are fewer subjects.
        seed: Seed of the folds and of the bootstrap.
        rounds: Bootstrap resamplings of subjects.

    Raises:
        ValueError: If the lengths differ, a value is not finite, or there are fewer than 4 subjects.
    """
    x, y, names = _checked(x, y, groups)
    chosen = method or ridge()
    predicted, models = np.empty(len(y)), []
    for train, test in _folds(names, folds, seed).split(x, y, names):
        model = fit(x[train], y[train], names[train], chosen, seed=seed)
        predicted[test] = model.predict(x[test])
        models.append(model)
    r2 = resampled(_r2, y, predicted, names, rounds, seed)
    return Regression(predicted, r2, resampled(correlation, y, predicted, names, rounds, seed), tuple(models))


def fit(
    x: np.ndarray,
    y: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    method: RegressionMethod | None = None,
    *,
    seed: int = 0,
) -> Any:
    """Fit a model on all of ``x [N, d]`` and ``y [N]``, its hyperparameters selected by subject-wise folds.

    Raises:
        ValueError: As `cross_validate` does.
    """
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    x, y, names = _checked(x, y, groups, least=2)
    chosen = method or ridge()
    model = clone(chosen.estimator)
    if not chosen.grid:
        return model.fit(x, y)
    inner = _folds(names, INNER_FOLDS, seed)
    search = GridSearchCV(model, dict(chosen.grid), cv=inner, scoring="neg_mean_squared_error", error_score="raise")
    return search.fit(x, y, groups=names).best_estimator_


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Pearson correlation of two arrays ``[N]``; 0 where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def resampled(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    a: np.ndarray,
    b: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    rounds: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of two arrays ``[N]`` with its 95 % percentile interval, by cluster bootstrap over groups.

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(which == group) for group in range(which.max() + 1)]
    random = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        sample = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        values.append(statistic(a[sample], b[sample]))
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(statistic(a, b), float(np.std(values)), float(low), float(high))


def _r2(y: np.ndarray, predicted: np.ndarray) -> float:
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / total if total > 0 else 0.0


def _folds(groups: np.ndarray, folds: int, seed: int) -> Any:
    from sklearn.model_selection import GroupKFold

    return GroupKFold(min(folds, len(np.unique(groups))), shuffle=True, random_state=seed)


def _checked(
    x: np.ndarray, y: np.ndarray, groups: Sequence[Any] | np.ndarray, least: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the inputs; return x and y in float64 (needed for small penalties) and the groups."""
    names = np.asarray(groups)
    if x.ndim != 2 or y.shape != (len(x),) or names.shape != (len(x),):
        raise ValueError(f"expected x [N, d], y [N] and groups [N], got {x.shape}, {y.shape} and {names.shape}")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("features and targets must be finite")
    if len(np.unique(names)) < least:
        raise ValueError(f"expected at least {least} subjects, got {len(np.unique(names))}")
    return x.astype(np.float64), y.astype(np.float64), names
