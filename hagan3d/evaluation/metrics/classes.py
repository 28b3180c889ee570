"""Classes told from features: the inception score, and whether a conditional model makes the class it is asked for."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hagan3d.evaluation.metrics.distances import Estimate

LEAST = 2  # training volumes of a class that a classifier can learn from


def inception_score(p: np.ndarray) -> float:
    """Exponential of the mean divergence of ``p [N, K]``, the class probabilities of each volume, from their mean.

    1 where all volumes look alike to the classifier, K where each class is certain and as frequent as the others.

    Source: Salimans et al., Improved techniques for training GANs, NeurIPS 2016, section 4.
    """
    p = p.astype(np.float64)
    mean = p.mean(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(mean)), 0)
    return float(np.exp(terms.sum(axis=1).mean()))


def class_scores(
    features: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray | None], rounds: int
) -> dict[str, Any] | None:
    """Measure the sets by a classifier of features, a logistic regression on the training volumes.

    Args:
        features: Features ``[N, dim]`` of each set; ``train`` among them.
        labels: Class of each volume ``[N]``, -1 where unknown; for generated ones the class asked for, None without.
        rounds: Resamplings behind each error.

    Returns:
        For each set its inception score and, where the classes are known, the share of volumes whose class is named
        rightly; None where the training volumes have fewer than two classes of two volumes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = labels["train"]
    if known is None or (np.bincount(known[known >= 0], minlength=2) >= LEAST).sum() < 2:
        return None
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features["train"][known >= 0], known[known >= 0])
    found: dict[str, Any] = {"classes": len(classifier.classes_)}
    for name, rows in features.items():
        p = classifier.predict_proba(rows)
        found[name] = {"inception_score": _resampled(p, rounds).to_dict()}
        own = labels[name]
        if own is not None and (own >= 0).any():
            right = classifier.classes_[p.argmax(axis=1)][own >= 0] == own[own >= 0]
            error = float(np.sqrt(right.mean() * (1 - right.mean()) / len(right)))
            found[name]["accuracy"] = Estimate(float(right.mean()), error).to_dict()
    return found


def _resampled(p: np.ndarray, rounds: int) -> Estimate:
    random = np.random.default_rng(0)
    again = [inception_score(p[random.integers(len(p), size=len(p))]) for _ in range(rounds)]
    return Estimate(inception_score(p), float(np.std(again)))
