"""Membership inference by discriminators: do their logits tell training volumes from held-out ones?

Two controls go with it, without which such an attack misleads. Members only: the same attack between random parts of
the training volumes, of which one, as many as are held out, plays the held-out volumes. No part was trained on more
than the other, so its AUC is 0.5, and its spread is what chance does with so few volumes. Untrained: the same attack
by discriminators of fresh weights. They have seen nothing, so an AUC away from 0.5 says that the held-out volumes are
of another kind.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from hagan3d.checkpoint import Model
from hagan3d.evaluation.memorisation.nearest import split_subjects
from hagan3d.methods.registry import make_generative_networks
from hagan3d.networks.generative import GenerativeNetworks

FALSE_POSITIVES = 0.01  # rate at which true positives are told


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Chance that a member has the higher score, ties counted half: the area under the ROC curve."""
    m, n = len(members), len(others)
    return float((rankdata(np.concatenate([members, others]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def true_positives(members: np.ndarray, others: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """Share of members above the score that at most ``rate`` of the others exceed; of fewer than 100 others: none."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


def has_discriminators(model: Model) -> bool:
    """Return whether a checkpoint holds the discriminators; imported weights need not."""
    names = model.networks.discriminators
    return bool(names) and set(names) <= set(model.loaded)


def untrained(model: Model, seed: int = 0) -> GenerativeNetworks:
    """Return networks with the architecture of the model's and new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = make_generative_networks(model.config, model.num_classes)
    return networks.to(model.device).eval().requires_grad_(False)


def score_names(networks: GenerativeNetworks) -> list[str]:
    """Return the names of the attack's scores: each discriminator, and the sum of several."""
    return [*networks.discriminators, *(["sum"] if len(networks.discriminators) > 1 else [])]


def logits_of(networks: GenerativeNetworks, volumes: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
    """Return the logits of each discriminator ``[N, K]`` for volumes ``[D, H, W]`` in [-1, 1], one at a time.

    Each volume is alone in its batch, so that no logit depends on other volumes.
    """
    return np.stack([networks.discriminate(torch.from_numpy(x)[None, None].to(device)) for x in volumes])


def membership(
    names: Sequence[str], members: np.ndarray, others: np.ndarray, groups: np.ndarray, rounds: int, seed: int = 0
) -> list[Any]:
    """Attack by each discriminator and by the sum of both, each in units of its deviation over members.

    Args:
        names: Names of the scores: of each column, and of their sum if there are several.
        members: Logits of training volumes ``[N, K]``.
        others: Logits of held-out volumes ``[M, K]``.
        groups: Subjects of the training volumes ``[N]``; those of one subject stay together in the control.
        rounds: Random parts of the control.
        seed: Of them.

    Returns:
        Rows of `score`, `auc`, `true_positives`, and of the control among members `control_auc`, `control_deviation`,
        `control_true_positives` and `z`: deviations of the control by which the AUC is above it.
    """
    scale = np.maximum(members.std(axis=0), 1e-12)
    masks = _parts(groups, len(others), rounds, np.random.default_rng(seed))
    rows = []
    columns = members.shape[1]
    for name, weights in zip(names, [*np.eye(columns), np.ones(columns)], strict=False):
        one, other = ((values / scale) @ weights for values in (members, others))
        value = auc(one, other)
        drawn = np.array([auc(one[~part], one[part]) for part in masks])
        caught = float(np.mean([true_positives(one[~part], one[part]) for part in masks]))
        row = {"score": name, "auc": value, "true_positives": true_positives(one, other)}
        row |= {"control_auc": float(drawn.mean()), "control_deviation": float(drawn.std())}
        z = (value - drawn.mean()) / max(float(drawn.std()), 1e-12)
        rows.append({**row, "control_true_positives": caught, "z": float(z)})
    return rows


def _parts(groups: np.ndarray, count: int, rounds: int, random: np.random.Generator) -> list[np.ndarray]:
    """Masks of random subjects with ``count`` volumes, at most half of all."""
    return [split_subjects(groups, min(count, len(groups) // 2), random) for _ in range(rounds)]
