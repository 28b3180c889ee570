"""Directions in latent space: the one along which an attribute changes, and principal ones that need no attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from hagan3d.evaluation.exploration.regression import Estimate, Regression, cross_validate, fit

HALVINGS = 50


@dataclass(frozen=True)
class Scale:
    """An attribute in standard deviations of its normal scores, so that +-2 is within the population however skewed.

    The volume at quantile p of the attribute has the score of quantile p of a standard normal distribution; for an
    attribute that is normally distributed that is (value - mean) / deviation. Source: van der Waerden, Indagationes
    Mathematicae 14, 1952.
    """

    values: np.ndarray
    """Values seen, rising ``[M]``."""
    scores: np.ndarray
    """Their scores, rising ``[M]``."""

    @classmethod
    def of(cls, y: np.ndarray) -> Scale:
        """Make the scale of the values ``y [N]`` of a population.

        Raises:
            ValueError: If they are all the same.
        """
        values, first = np.unique(y, return_index=True)
        if len(values) < 2:
            raise ValueError("want an attribute that varies")
        return cls(values, norm.ppf((rankdata(y) - 0.5) / len(y))[first])

    def score(self, value: np.ndarray | float) -> np.ndarray:
        """Standard deviations of values; beyond those seen, of the nearest one."""
        return np.interp(value, self.values, self.scores)

    def value(self, score: np.ndarray | float) -> np.ndarray:
        """Give the value at so many standard deviations, within the range seen."""
        return np.interp(score, self.scores, self.values)


@dataclass(frozen=True)
class Direction:
    """A straight way through latent space on which one reading changes: reading = z . weights + intercept."""

    weights: np.ndarray
    """``[latent_dim]``."""
    intercept: float
    step: np.ndarray
    """Change of z that adds 1 to the reading ``[latent_dim]``."""

    def read(self, z: np.ndarray) -> np.ndarray:
        """Standard deviations that latents ``[..., latent_dim]`` stand at."""
        return z @ self.weights + self.intercept

    def move(self, z: np.ndarray, to: float) -> np.ndarray:
        """Move a latent ``[latent_dim]`` along the direction until it reads ``to``, float32."""
        return (z + (to - self.read(z)) * self.step).astype(np.float32)


@dataclass(frozen=True)
class Found:
    """The direction of an attribute, and what it is worth."""

    direction: Direction
    regression: Regression
    """Of the attribute, in standard deviations of its scale, on latents of unseen subjects."""
    agreement: Estimate
    """Cosine between directions from one half of the subjects and from the other, over random halves."""


def attribute_direction(
    z: np.ndarray,
    y: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    *,
    covariance: np.ndarray | None = None,
    seed: int = 0,
) -> Found:
    """Find the direction along which an attribute changes.

    The regression says how to read the attribute off a latent. The way to go is another matter: the change of z that
    goes with the attribute in the population, cov(z, reading) / var(reading), which stays among latents that occur,
    where the weights themselves may point out of them. For standard normal latents both are the same.

    Args:
        z: Latents ``[N, latent_dim]``.
        y: Attribute ``[N]``, in standard deviations.
        groups: Subjects ``[N]``.
        covariance: Of the distribution ``z`` was drawn from ``[latent_dim, latent_dim]``, where it is known; default:
            that of ``z``.
        seed: Of the folds.

    Raises:
        ValueError: As `cross_validate` does.

    Source: Haufe et al., On the interpretation of weight vectors of linear models, NeuroImage 87, 2014, equation 6.
    """
    z = z.astype(np.float64)
    model = fit(z, y, groups, seed=seed)
    weights, step = _way(model, z, covariance)
    direction = Direction(weights, float(model.predict(np.zeros((1, z.shape[1])))[0]), step)
    return Found(direction, cross_validate(z, y, groups, seed=seed), _agreement(model, z, y, groups, covariance, seed))


def _way(model: Any, z: np.ndarray, covariance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a fitted ridge on z itself, and the step that goes with them."""
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
    """Fit each half of the subjects alone, with the strength that was chosen for all, and compare the steps."""
    from sklearn.base import clone

    random = np.random.default_rng(seed)
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    cosines = []
    for _ in range(HALVINGS):
        side = random.permutation(len(names)) < len(names) // 2
        halves = side[which], ~side[which]
        a, b = (_way(clone(model).fit(z[half], y[half]), z[half], covariance)[1] for half in halves)
        cosines.append(cosine(a, b))
    low, high = np.quantile(cosines, (0.025, 0.975))
    return Estimate(float(np.mean(cosines)), float(low), float(high))


def principal_directions(z: np.ndarray, num: int) -> tuple[list[Direction], np.ndarray]:
    """Find the directions in which latents ``[N, latent_dim]`` vary most; no attribute is needed.

    Returns:
        Directions, the first with the greatest variance, each read in its own standard deviations; the sign is such
        that the largest weight is positive. And the share of the variance that each holds ``[num]``.

    Raises:
        ValueError: If there are not that many.
    """
    if not 1 <= num < min(z.shape):
        raise ValueError(f"want 1 to {min(z.shape) - 1} components, got {num}")
    mean = z.mean(axis=0)
    _, singular, axes = np.linalg.svd(z - mean, full_matrices=False)
    deviations = singular / np.sqrt(len(z))
    made = []
    for axis, deviation in zip(axes[:num], deviations, strict=False):
        turned = axis * np.sign(axis[np.abs(axis).argmax()])
        made.append(Direction(turned / deviation, float(-mean @ turned / deviation), turned * deviation))
    return made, deviations[:num] ** 2 / (deviations**2).sum()


def between(a: np.ndarray, b: np.ndarray, share: float, middle: np.ndarray | float = 0.0) -> np.ndarray:
    """Go a share of the way from one latent ``[latent_dim]`` to another, float32.

    Along the great circle about ``middle``, the mean of the latents, with distances from it that change evenly: a
    straight line between two draws of a normal distribution of many dimensions passes nearer to its mean than any draw.

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    one, other = a - middle, b - middle
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    angle = np.arccos(np.clip(cosine(one, other), -1, 1))
    if angle < 1e-4 or angle > np.pi - 1e-4:  # no one circle
        return ((1 - share) * a + share * b).astype(np.float32)
    sides = np.sin((1 - share) * angle) * one / lengths[0] + np.sin(share * angle) * other / lengths[1]
    return (middle + sides / np.sin(angle) * ((1 - share) * lengths[0] + share * lengths[1])).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors; 0 where one has no length."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
