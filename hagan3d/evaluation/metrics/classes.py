"""Class metrics from features: inception score, and class accuracy of a conditional model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hagan3d.evaluation.metrics.estimate import Estimate, binomial_error, bootstrap_error

LEAST = 2  # training volumes per class that the classifier needs


@dataclass(frozen=True)
class SetClasses:
    """Class metrics of one set of volumes."""

    inception_score: Estimate
    accuracy: Estimate | None
    """Share of volumes that are classified as their class; None where classes are not known, and for the volumes that
    the classifier was trained on."""


@dataclass(frozen=True)
class ClassScores:
    """Class metrics of all sets, by a classifier trained on features of the training volumes."""

    num_classes: int
    sets: dict[str, SetClasses]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values: dict[str, Any] = {"classes": self.num_classes}
        for name, one in self.sets.items():
            values[name] = {key: value.to_dict() for key, value in vars(one).items() if value is not None}
        return values


def inception_score(p: np.ndarray) -> float:
    """Inception score of class probabilities ``p [N, K]``: exp of the mean KL divergence from their mean.

    1 where the classifier cannot distinguish the volumes; K where it is certain and all classes are equally frequent.

    Source: Salimans et al., Improved techniques for training GANs, NeurIPS 2016, section 4.
    """
    p = p.astype(np.float64)
    mean = p.mean(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(mean)), 0)
    return float(np.exp(terms.sum(axis=1).mean()))


def class_scores(
    features: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray | None],
    subjects: Mapping[str, np.ndarray],
    rounds: int,
) -> ClassScores | None:
    """Evaluate sets of volumes by a classifier: logistic regression on features, trained on the training volumes.

    Args:
        features: Features ``[N, dim]`` by name of the set; ``train`` is one of them.
        labels: Class index of each volume ``[N]``, -1 unknown; of generated ones the requested class, None if
            unconditional.
        subjects: Subject of each volume ``[N]``, for standard errors.
        rounds: Bootstrap resamplings per standard error.

    Returns:
        None where the training volumes have fewer than two classes with at least two volumes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = labels["train"]
    if target is None or (np.bincount(target[target >= 0], minlength=2) >= LEAST).sum() < 2:
        return None
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features["train"][target >= 0], target[target >= 0])
    sets = {}
    for name, rows in features.items():
        p = classifier.predict_proba(rows)
        predicted = classifier.classes_[p.argmax(axis=1)]
        known = None if name == "train" else labels[name]
        sets[name] = SetClasses(_score(p, subjects[name], rounds), _accuracy(predicted, known, subjects[name]))
    return ClassScores(len(classifier.classes_), sets)


def _accuracy(predicted: np.ndarray, target: np.ndarray | None, subjects: np.ndarray) -> Estimate | None:
    """Share of right classes; volumes of one subject count as one trial for the error."""
    if target is None or not (target >= 0).any():
        return None
    share = float((predicted == target)[target >= 0].mean())
    return Estimate(share, binomial_error(share, len(np.unique(subjects[target >= 0]))))


def _score(p: np.ndarray, subjects: np.ndarray, rounds: int) -> Estimate:
    """Inception score with its standard error by bootstrap over subjects."""
    error = bootstrap_error(lambda i, _: inception_score(p[i]), (subjects, subjects), rounds)
    return Estimate(inception_score(p), error)
