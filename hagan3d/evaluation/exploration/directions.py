"""Directions in latent space: of an attribute (supervised) and of principal components (unsupervised)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from hagan3d.evaluation.exploration.regression import Regression, cross_validate, fit
from hagan3d.evaluation.metrics.estimate import Estimate

HALVINGS = 50  # random halves of the subjects


@dataclass(frozen=True)
class Scale:
    """Normal scores of an attribute: standard deviations that stay within the population for skewed attributes too.

    Quantile p of the attribute is mapped to quantile p of the standard normal distribution; for a normally distributed
    attribute that is (value - mean) / deviation.

    Source: van der Waerden, Indagationes Mathematicae 14, 1952.
    """

    values: np.ndarray
    """Observed values, ascending ``[M]``."""
    scores: np.ndarray
    """Their scores, ascending ``[M]``."""

    @classmethod
    def of(cls, y: np.ndarray) -> Scale:
        """Fit the scale to the values ``y [N]`` of a population.

        Raises:
            ValueError: If all values are equal.
        """
        values, first = np.unique(y, return_index=True)
        if len(values) < 2:
            raise ValueError("expected an attribute that varies")
        return cls(values, norm.ppf((rankdata(y) - 0.5) / len(y))[first])

    def score(self, value: np.ndarray | float) -> np.ndarray:
        """Return the scores of values, clamped to the observed range."""
        return np.interp(value, self.values, self.scores)

    def value(self, score: np.ndarray | float) -> np.ndarray:
        """Return the values of scores, clamped to the observed range."""
        return np.interp(score, self.scores, self.values)


@dataclass(frozen=True)
class Direction:
    """A linear direction in latent space, and the linear regression that it changes: z . weights + intercept."""

    weights: np.ndarray
    """``[latent_dim]``."""
    intercept: float
    step: np.ndarray
    """Change of z that increases the regression by 1 ``[latent_dim]``."""

    def read(self, z: np.ndarray) -> np.ndarray:
        """Return the regression of latents ``[..., latent_dim]``, in standard deviations."""
        return z @ self.weights + self.intercept

    def move(self, z: np.ndarray, to: float) -> np.ndarray:
        """Move a latent ``[latent_dim]`` along the direction until the regression is ``to``, float32."""
        return (z + (to - self.read(z)) * self.step).astype(np.float32)


@dataclass(frozen=True)
class AttributeDirection:
    """The direction of an attribute and its quality."""

    direction: Direction
    regression: Regression
    """Cross-validated regression of the attribute (normal scores) on latents."""
    agreement: Estimate
    """Cosine between the directions of two halves of the subjects, over random halves."""


def attribute_direction(
    z: np.ndarray,
    y: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    *,
    covariance: np.ndarray | None = None,
    seed: int = 0,
) -> AttributeDirection:
    """Fit the direction along which an attribute changes.

    The weights of the regression predict the attribute, but may point out of the distribution of latents. The step is
    the activation pattern instead, cov(z, prediction) / var(prediction), which stays within that distribution. For
    standard normal latents both are parallel.

    Args:
        z: Latents ``[N, latent_dim]``.
        y: Attribute ``[N]``, normal scores.
        groups: Subjects ``[N]``.
        covariance: Covariance of the distribution of ``z``, if available ``[latent_dim, latent_dim]``. Default: that of
            the sample.
        seed: Seed of the folds.

    Raises:
        ValueError: As `cross_validate` does.

    Source: Haufe et al., On the interpretation of weight vectors of linear models, NeuroImage 87, 2014, equation 6.
    """
    z = z.astype(np.float64)
    model = fit(z, y, groups, seed=seed)
    weights, step = _weights_and_step(model, z, covariance)
    direction = Direction(weights, float(model.predict(np.zeros((1, z.shape[1])))[0]), step)
    return AttributeDirection(
        direction, cross_validate(z, y, groups, seed=seed), _agreement(model, z, y, groups, covariance, seed)
    )


def _weights_and_step(model: Any, z: np.ndarray, covariance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a fitted ridge regression on unstandardized z, and the step (activation pattern)."""
    scaler, ridge = model[0], model[-1]
    weights = ridge.coef_ / scaler.scale_
    centred = z - z.mean(axis=0)
    pattern = centred.T @ (centred @ weights) / len(z) if covariance is None else covariance @ weights
    spread = float(weights @ pattern)
    return weights, pattern / spread if spread > 0 else np.zeros_like(weights)


def _agreement(
    model: Any,
    z: np.ndarray,
    y: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    covariance: np.ndarray | None,
    seed: int,
) -> Estimate:
    """Cosine between the steps of random halves of the subjects, at the selected regularisation strength."""
    from sklearn.base import clone

    random = np.random.default_rng(seed)
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    cosines = []
    for _ in range(HALVINGS):
        side = random.permutation(len(names)) < len(names) // 2
        halves = side[which], ~side[which]
        a, b = (_weights_and_step(clone(model).fit(z[half], y[half]), z[half], covariance)[1] for half in halves)
        cosines.append(cosine(a, b))
    low, high = np.quantile(cosines, (0.025, 0.975))
    return Estimate(float(np.mean(cosines)), float(np.std(cosines)), float(low), float(high))


def principal_directions(z: np.ndarray, num: int) -> tuple[list[Direction], np.ndarray]:
    """Return the principal components of latents ``[N, latent_dim]`` as directions.

    Returns:
        Directions in descending order of variance, each in its own standard deviations, signed so that the largest
        weight is positive; and the share of the variance of each ``[num]``.

    Raises:
        ValueError: If there are fewer.
    """
    if not 1 <= num < min(z.shape):
        raise ValueError(f"expected 1 to {min(z.shape) - 1} components, got {num}")
    mean = z.mean(axis=0)
    _, singular, axes = np.linalg.svd(z - mean, full_matrices=False)
    deviations = singular / np.sqrt(len(z))
    directions = []
    for axis, deviation in zip(axes[:num], deviations, strict=False):
        signed = axis * np.sign(axis[np.abs(axis).argmax()])
        directions.append(Direction(signed / deviation, float(-mean @ signed / deviation), signed * deviation))
    return directions, deviations[:num] ** 2 / (deviations**2).sum()


def between(a: np.ndarray, b: np.ndarray, share: float, middle: np.ndarray | float = 0.0) -> np.ndarray:
    """Interpolate spherically (slerp) between two latents ``[latent_dim]``, float32.

    Along the great circle around ``middle``, the mean of the latents, with linearly interpolated norms: linear
    interpolation between samples of a high-dimensional normal distribution passes closer to its mean than any sample.

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    one, other = a - middle, b - middle
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    angle = np.arccos(np.clip(cosine(one, other), -1, 1))
    if angle < 1e-4 or angle > np.pi - 1e-4:  # the great circle is not unique
        return ((1 - share) * a + share * b).astype(np.float32)
    sides = np.sin((1 - share) * angle) * one / lengths[0] + np.sin(share * angle) * other / lengths[1]
    return (middle + sides / np.sin(angle) * ((1 - share) * lengths[0] + share * lengths[1])).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine similarity of two vectors; 0 for a zero vector."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
