"""Tests for memorisation from distances: are generated volumes too close to training volumes?

Each test is repeated with training and held-out volumes swapped, as a control. A generator of smooth or average volumes
is close to both sets; one that copies is close to the training volumes only.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from scipy.stats import rankdata

from hagan3d.evaluation.memorisation.results import Authenticity, DataCopying, Nearer
from hagan3d.evaluation.metrics.estimate import Estimate, binomial_error

CELL = 20  # mean number of volumes of the smaller set per cell of C_T; cells with less than a quarter are skipped


@dataclass(frozen=True)
class Distances:
    """Distances in one space between M generated, N training and K held-out volumes, from rows to columns.

    Distances within one subject are infinite, so that no real volume is compared with itself or with its subject.
    """

    generated_train: np.ndarray
    generated_held: np.ndarray
    held_train: np.ndarray
    train_held: np.ndarray
    train_train: np.ndarray
    held_held: np.ndarray
    train_groups: np.ndarray
    """Number of the subject of each training volume ``[N]``."""
    held_groups: np.ndarray
    """Number of the subject of each held-out volume ``[K]``."""

    def swapped(self) -> "Distances":
        """Return the distances with training and held-out volumes swapped."""
        return Distances(
            generated_train=self.generated_held,
            generated_held=self.generated_train,
            held_train=self.train_held,
            train_held=self.held_train,
            train_train=self.held_held,
            held_held=self.train_train,
            train_groups=self.held_groups,
            held_groups=self.train_groups,
        )


def twin_ratios(distances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest volume over that to the nearest of another subject ``[M]``; near 0: a copy.

    Args:
        distances: ``[M, N]``.
        groups: Subjects of the N volumes; at least two.
    """
    rows, nearest = np.arange(len(distances)), distances.argmin(axis=1)
    other = np.where(groups[None] == groups[nearest][:, None], np.inf, distances).min(axis=1)
    return distances[rows, nearest] / np.maximum(other, 1e-12)


def authentic(generated: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return whether each generated volume is farther from its nearest real volume than that is from its nearest one.

    Args:
        generated: Distances of generated to real volumes ``[M, N]``.
        among: Distances among the real volumes ``[N, N]``, infinite within a subject.

    Source: Alaa et al., How Faithful is your Synthetic Data?, ICML 2022, section 3.3: AuthPct is 100 times the mean.
    """
    nearest = generated.argmin(axis=1)
    return generated[np.arange(len(generated)), nearest] > among.min(axis=1)[nearest]


def effective_count(d: Distances) -> float:
    """Return the effective number of independent generated volumes, 1 to M: M^2 over the sum of n^2.

    n: generated volumes that share a nearest real volume. One volume generated repeatedly counts once.
    """
    nearest = np.concatenate([d.generated_train, d.generated_held], axis=1).argmin(axis=1)
    return float(len(nearest) ** 2 / (np.bincount(nearest) ** 2).sum())


def share(hits: np.ndarray, count: float) -> Estimate:
    """Return the share of true values with its binomial standard error for ``count`` independent ones."""
    value = float(hits.mean())
    return Estimate(value, binomial_error(value, count))


def authenticity(d: Distances) -> Authenticity:
    """Return AuthPct of the generated volumes, with that of held-out volumes as the floor."""
    count = effective_count(d)
    tests = [(share(authentic(one.generated_train, one.train_train), count), _floor(one)) for one in (d, d.swapped())]
    gaps = [Estimate(value.value - floor.value, _hypot(value, floor)) for value, floor in tests]
    z = gaps[0].value / (gaps[0].error or math.nan)
    excess_z = (gaps[0].value - gaps[1].value) / _hypot(gaps[0], gaps[1])
    percent = [Estimate(100 * one.value, 100 * (one.error or 0.0)) for pair in tests for one in pair]
    generated, floor, swapped_generated, swapped_floor = percent
    return Authenticity(generated, floor, swapped_generated, swapped_floor, z, excess_z)


def _floor(d: Distances) -> Estimate:
    return share(authentic(d.held_train, d.train_train), len(d.held_train))


def _hypot(a: Estimate, b: Estimate) -> float:
    """Standard error of the difference of two independent estimates."""
    return math.hypot(a.error or 0.0, b.error or 0.0)


def rank_z(x: np.ndarray, y: np.ndarray) -> float:
    """Return the z-score of the Mann-Whitney U test that values ``x`` are larger than values ``y``."""
    m, n = len(x), len(y)
    u = rankdata(np.concatenate([x, y]))[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12))


def copying_score(d: Distances, seed: int = 0) -> Estimate:
    """Return C_T, the data-copying score: far below 0 where generated volumes copy training volumes.

    Space is divided into Voronoi cells around a few training volumes. In each cell the distances of generated and of
    held-out volumes to the nearest training volume are compared by `rank_z`; C_T is the mean over cells, weighted by
    the number of held-out volumes.

    Returns:
        C_T and its standard deviation under the null hypothesis that generated and held-out volumes have the same
        distribution: 1 for one cell, more where generated volumes repeat each other (see `effective_count`).

    Source: Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, AISTATS 2020, section 4.
    """
    least = min(d.held_train.shape)
    centres = np.random.default_rng(seed).permutation(len(d.train_train))[: max(1, least // CELL)]
    for used in (centres, centres[:1]):
        scores, weights = _cell_scores(d, used, CELL // 4 if len(used) > 1 else 1)
        if weights:
            break
    parts = np.array(weights) / sum(weights)
    generated, held = len(d.generated_train), len(d.held_train)
    repeats = (1 / effective_count(d) + 1 / held) / (1 / generated + 1 / held)
    return Estimate(float(parts @ np.array(scores)), float(np.sqrt((parts**2).sum() * repeats)))


def _cell_scores(d: Distances, centres: np.ndarray, fewest: int) -> tuple[list[float], list[int]]:
    """Scores of the cells with enough volumes of each set, and the number of held-out volumes in each."""
    here = d.train_train[:, centres].copy()
    here[centres, np.arange(len(centres))] = 0
    cells = [rows.argmin(axis=1) for rows in (d.generated_train[:, centres], d.held_train[:, centres], here)]
    scores, weights = [], []
    for cell in range(len(centres)):
        generated, held, train = (own == cell for own in cells)
        if min(generated.sum(), held.sum(), train.sum()) >= fewest:
            distances = d.generated_train[generated][:, train].min(axis=1)
            scores.append(rank_z(distances, d.held_train[held][:, train].min(axis=1)))
            weights.append(int(held.sum()))
    return scores, weights


def data_copying(d: Distances, seed: int = 0) -> DataCopying:
    """Return C_T, the same with training and held-out volumes swapped, and the z-score of the difference."""
    one, other = copying_score(d, seed), copying_score(d.swapped(), seed)
    return DataCopying(
        value=one.value,
        z=one.value / (one.error or math.nan),
        swapped=other.value,
        swapped_z=other.value / (other.error or math.nan),
        excess_z=(one.value - other.value) / _hypot(one, other),
    )


def nearer_share(generated_train: np.ndarray, generated_held: np.ndarray) -> float:
    """Return the probability that the nearest real volume is a training volume, among equally many of both sets.

    Args:
        generated_train: Distances ``[M, N]``.
        generated_held: Distances ``[M, K]``.

    Returns:
        Mean over generated volumes and over all subsets of min(N, K) volumes of the larger set; 1/2 where training and
        held-out volumes are exchangeable.
    """
    n, k = generated_train.shape[1], generated_held.shape[1]
    if n < k:
        return 1 - nearer_share(generated_held, generated_train)
    farther = (generated_train >= generated_held.min(axis=1, keepdims=True)).sum(axis=1).astype(float)
    # hypergeometric: no training volume of a random subset of k is nearer than the nearest held-out one
    enough = np.maximum(farther, k)
    none = np.exp(gammaln(enough + 1) - gammaln(enough - k + 1) + gammaln(n - k + 1) - gammaln(n + 1))
    return float(1 - np.where(farther >= k, none, 0.0).mean())


def split_subjects(groups: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Sample whole subjects until at least ``count`` volumes are selected; returns a mask over volumes."""
    mask = np.zeros(len(groups), dtype=bool)
    for subject in random.permutation(np.unique(groups)):
        if mask.sum() >= count:
            break
        mask |= groups == subject
    return mask


def nearer(d: Distances, rounds: int, seed: int = 0) -> Nearer:
    """Test by permutation of subjects whether the nearest real volume is too often a training volume."""
    random = np.random.default_rng(seed)
    both = np.concatenate([d.generated_train, d.generated_held], axis=1)
    groups = np.concatenate([d.train_groups, d.held_groups])
    value, permuted = nearer_share(d.generated_train, d.generated_held), []
    for _ in range(rounds):
        held = split_subjects(groups, len(d.held_groups), random)
        permuted.append(nearer_share(both[:, ~held], both[:, held]))
    expected, deviation = float(np.mean(permuted)), float(np.std(permuted))
    return Nearer(value, expected, deviation, (value - expected) / max(deviation, 1e-12))
