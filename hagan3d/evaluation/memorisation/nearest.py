"""Statistics of memorisation, from distances alone: are generated volumes too close to training volumes?

Each is asked twice: of the training volumes, and, as a control, of the held-out ones in their place. A generator whose
volumes are smooth or near the mean is close to both; one that copies is close to the training volumes only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln
from scipy.stats import rankdata

from hagan3d.evaluation.metrics.distances import Estimate

CELL = 20  # volumes of the smaller set per cell of C_T, on average; the fewest in a cell that counts are a quarter


@dataclass(frozen=True)
class Distances:
    """Distances in one space between M generated, N training and K held-out volumes, rows to columns.

    Real volumes of one subject are infinitely far apart, so that no volume is compared with itself or its like.
    """

    made_train: np.ndarray
    made_held: np.ndarray
    held_train: np.ndarray
    train_held: np.ndarray
    train_train: np.ndarray
    held_held: np.ndarray
    train_groups: np.ndarray
    """Number of the subject of each training volume ``[N]``."""
    held_groups: np.ndarray
    """Number of the subject of each held-out volume ``[K]``."""

    def swapped(self) -> "Distances":
        """Return the distances with training and held-out volumes in each other's place."""
        return Distances(
            made_train=self.made_held,
            made_held=self.made_train,
            held_train=self.train_held,
            train_held=self.held_train,
            train_train=self.held_held,
            held_held=self.train_train,
            train_groups=self.held_groups,
            held_groups=self.train_groups,
        )


def twin_ratios(distances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Distance to the nearest volume over that to the nearest of another subject ``[M]``; near 0 for a copy.

    Args:
        distances: ``[M, N]``.
        groups: Subjects of the N volumes; at least two.
    """
    rows, nearest = np.arange(len(distances)), distances.argmin(axis=1)
    other = np.where(groups[None] == groups[nearest][:, None], np.inf, distances).min(axis=1)
    return distances[rows, nearest] / np.maximum(other, 1e-12)


def authentic(made: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Whether each generated volume is farther from its nearest real one than that one is from its nearest other.

    Args:
        made: Distances of generated to real volumes ``[M, N]``.
        among: Distances among the real ones ``[N, N]``, infinite where not to be compared.

    Source: Alaa et al., How Faithful is your Synthetic Data?, ICML 2022, section 3.3: AuthPct is 100 times the mean.
    """
    nearest = made.argmin(axis=1)
    return made[np.arange(len(made)), nearest] > among.min(axis=1)[nearest]


def effective_count(d: Distances) -> float:
    """How many of the generated volumes count as independent, 1 to M: M^2 over the sum of n^2.

    n: generated volumes that share a nearest real one. One volume made again and again counts once.
    """
    nearest = np.concatenate([d.made_train, d.made_held], axis=1).argmin(axis=1)
    return float(len(nearest) ** 2 / (np.bincount(nearest) ** 2).sum())


def share(hits: np.ndarray, count: float) -> Estimate:
    """Share of true values; its error is that of the share with one of each added, so that none and all have one.

    Args:
        hits: True or false.
        count: How many of them are independent.
    """
    likely = (hits.mean() * count + 1) / (count + 2)
    return Estimate(float(hits.mean()), math.sqrt(likely * (1 - likely) / count))


def authenticity(d: Distances) -> dict[str, Any]:
    """AuthPct of the generated volumes, with that of held-out ones as the floor.

    Returns:
        `made`, `floor`: percent with errors; `swapped_made`, `swapped_floor`: the same question of the held-out
        volumes, with training ones as the floor; `z`: standard errors by which generated volumes are less authentic
        than the floor, `excess_z`: more so than in the swapped question. Below 0: less authentic.
    """
    count = effective_count(d)
    asked = [(share(authentic(q.made_train, q.train_train), count), _floor(q)) for q in (d, d.swapped())]
    gaps = [Estimate(made.value - floor.value, math.hypot(made.error, floor.error)) for made, floor in asked]
    names = (("made", "floor"), ("swapped_made", "swapped_floor"))
    found: dict[str, Any] = {}
    for pair, estimates in zip(names, asked, strict=True):
        for name, one in zip(pair, estimates, strict=True):
            found[name] = Estimate(100 * one.value, 100 * one.error).to_dict()
    found["z"] = gaps[0].value / gaps[0].error
    found["excess_z"] = (gaps[0].value - gaps[1].value) / math.hypot(gaps[0].error, gaps[1].error)
    return found


def _floor(d: Distances) -> Estimate:
    return share(authentic(d.held_train, d.train_train), len(d.held_train))


def rank_z(x: np.ndarray, y: np.ndarray) -> float:
    """Standard errors by which values ``x`` are larger than values ``y``: the Mann-Whitney U, normal approximation."""
    m, n = len(x), len(y)
    u = rankdata(np.concatenate([x, y]))[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12))


def copying_score(d: Distances, seed: int = 0) -> Estimate:
    """C_T: how much farther from training volumes generated ones are than held-out ones; far below 0: copied.

    Space is cut into cells, in each of which distances to the nearest training volume are compared by `rank_z`; C_T is
    their mean, weighted by generated volumes. A cell holds what is nearest to one of a few training volumes.

    Returns:
        C_T and its deviation for a generator that draws from the distribution of held-out volumes: 1 for one cell, more
        where volumes repeat each other (see `effective_count`).

    Source: Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, AISTATS 2020, section 4.
    """
    least = min(d.held_train.shape)
    centres = np.random.default_rng(seed).permutation(len(d.train_train))[: max(1, least // CELL)]
    for used in (centres, centres[:1]):
        scores, weights = _cell_scores(d, used, CELL // 4 if len(used) > 1 else 1)
        if weights:
            break
    parts = np.array(weights) / sum(weights)
    made, held = len(d.made_train), len(d.held_train)
    repeats = (1 / effective_count(d) + 1 / held) / (1 / made + 1 / held)
    return Estimate(float(parts @ np.array(scores)), float(np.sqrt((parts**2).sum() * repeats)))


def _cell_scores(d: Distances, centres: np.ndarray, fewest: int) -> tuple[list[float], list[int]]:
    """Scores of the cells with enough volumes of each kind, and the generated volumes in them."""
    here = d.train_train[:, centres].copy()
    here[centres, np.arange(len(centres))] = 0
    cells = [rows.argmin(axis=1) for rows in (d.made_train[:, centres], d.held_train[:, centres], here)]
    scores, weights = [], []
    for cell in range(len(centres)):
        made, held, train = (own == cell for own in cells)
        if min(made.sum(), held.sum(), train.sum()) >= fewest:
            scores.append(rank_z(d.made_train[made][:, train].min(axis=1), d.held_train[held][:, train].min(axis=1)))
            weights.append(int(made.sum()))
    return scores, weights


def data_copying(d: Distances, seed: int = 0) -> dict[str, float]:
    """C_T and its z-score, the same with training and held-out volumes swapped, and by how much the first is lower.

    Returns:
        `value`, `z`, `swapped`, `swapped_z`, and `excess_z`: the difference in standard errors; below 0: closer to
        training volumes.
    """
    one, other = copying_score(d, seed), copying_score(d.swapped(), seed)
    return {
        "value": one.value,
        "z": one.value / one.error,
        "swapped": other.value,
        "swapped_z": other.value / other.error,
        "excess_z": (one.value - other.value) / math.hypot(one.error, other.error),
    }


def nearer_share(made_train: np.ndarray, made_held: np.ndarray) -> float:
    """Chance that the nearest volume is a training one, where as many training as held-out volumes are looked at.

    Args:
        made_train: Distances ``[M, N]``.
        made_held: Distances ``[M, K]``.

    Returns:
        Mean over generated volumes and over all choices of min(N, K) volumes of the larger set; 1/2 where training
        and held-out volumes can be exchanged.
    """
    n, k = made_train.shape[1], made_held.shape[1]
    if n < k:
        return 1 - nearer_share(made_held, made_train)
    farther = (made_train >= made_held.min(axis=1, keepdims=True)).sum(axis=1).astype(float)
    enough = np.maximum(farther, k)
    none = np.exp(gammaln(enough + 1) - gammaln(enough - k + 1) + gammaln(n - k + 1) - gammaln(n + 1))
    return float(1 - np.where(farther >= k, none, 0.0).mean())


def split_subjects(groups: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw whole subjects until at least ``count`` volumes are chosen: a mask over volumes with these ``groups``."""
    mask = np.zeros(len(groups), dtype=bool)
    for subject in random.permutation(np.unique(groups)):
        if mask.sum() >= count:
            break
        mask |= groups == subject
    return mask


def nearer(d: Distances, rounds: int, seed: int = 0) -> dict[str, float]:
    """Ask whether the nearest real volume is too often a training one.

    Returns:
        `share`: see `nearer_share`; `expected` and `deviation`: the same where subjects are called held-out at random,
        so many as there are; `z`: how far above that it is.
    """
    random = np.random.default_rng(seed)
    both = np.concatenate([d.made_train, d.made_held], axis=1)
    groups = np.concatenate([d.train_groups, d.held_groups])
    value, drawn = nearer_share(d.made_train, d.made_held), []
    for _ in range(rounds):
        held = split_subjects(groups, len(d.held_groups), random)
        drawn.append(nearer_share(both[:, ~held], both[:, held]))
    expected, deviation = float(np.mean(drawn)), float(np.std(drawn))
    return {
        "share": value,
        "expected": expected,
        "deviation": deviation,
        "z": (value - expected) / max(deviation, 1e-12),
    }
