"""Membership inference attack by discriminators: do their logits separate training from held-out volumes?

Two controls make the attack interpretable. Members only: the same attack between random parts of the training volumes.
Its expected AUC is 0.5, and its spread is the sampling error. Untrained: the same attack by discriminators with fresh
weights. An AUC away from 0.5 then means that the held-out volumes come from another distribution.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata

from hagan3d.checkpoint import Model
from hagan3d.evaluation.memorisation.nearest import split_subjects
from hagan3d.evaluation.memorisation.results import Membership
from hagan3d.methods.registry import make_generative_networks
from hagan3d.networks.generative import GenerativeNetworks

FALSE_POSITIVES = 0.01  # false positive rate of the reported true positive rate


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return the area under the ROC curve: the probability that a member has the higher score, ties counted half."""
    m, n = len(members), len(others)
    return float((rankdata(np.concatenate([members, others]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def true_positives(members: np.ndarray, others: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """Return the true positive rate at a false positive rate of at most ``rate`` (0 for fewer than 100 others)."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


def has_discriminators(model: Model) -> bool:
    """Return whether a checkpoint holds the discriminators; imported weights may not."""
    names = model.networks.discriminators
    return bool(names) and set(names) <= set(model.loaded)


def untrained(model: Model, seed: int = 0) -> GenerativeNetworks:
    """Return networks of the same architecture with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = make_generative_networks(model.config, model.num_classes)
    return networks.to(model.device).eval().requires_grad_(False)


def score_names(networks: GenerativeNetworks) -> list[str]:
    """Return the names of the attack's scores: each discriminator, and the sum of several."""
    return [*networks.discriminators, *(["sum"] if len(networks.discriminators) > 1 else [])]


def logits_of(networks: GenerativeNetworks, volumes: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
    """Return the logits of each discriminator ``[N, K]`` for volumes ``[C, D, H, W]`` in [-1, 1].

    Each volume is alone in its batch, since minibatch statistics mix the volumes of a batch.
    """
    return np.stack([networks.discriminate(torch.from_numpy(x)[None].to(device)) for x in volumes])


def membership(
    names: Sequence[str], members: np.ndarray, others: np.ndarray, groups: np.ndarray, rounds: int, seed: int = 0
) -> list[Membership]:
    """Attack with each discriminator, and with the sum of several logits in units of their deviation over members.

    Args:
        names: Names of the scores: of each column, and of their sum if there are several.
        members: Logits of training volumes ``[N, K]``.
        others: Logits of held-out volumes ``[M, K]``.
        groups: Subjects of the training volumes ``[N]``; the control does not split subjects.
        rounds: Random splits of the control.
        seed: Seed of these.
    """
    scale = np.maximum(members.std(axis=0), 1e-12)
    masks = _parts(groups, len(others), rounds, np.random.default_rng(seed))
    rows = []
    columns = members.shape[1]
    for name, weights in zip(names, [*np.eye(columns), np.ones(columns)], strict=False):
        one, other = ((values / scale) @ weights for values in (members, others))
        value, control = auc(one, other), np.array([auc(one[~part], one[part]) for part in masks])
        rows.append(
            Membership(
                score=name,
                auc=value,
                true_positives=true_positives(one, other),
                control_auc=float(control.mean()),
                control_deviation=float(control.std()),
                control_true_positives=float(np.mean([true_positives(one[~part], one[part]) for part in masks])),
                z=float((value - control.mean()) / max(float(control.std()), 1e-12)),
            )
        )
    return rows


def _parts(groups: np.ndarray, count: int, rounds: int, random: np.random.Generator) -> list[np.ndarray]:
    """Masks of random subjects with ``count`` volumes in total, at most half of all."""
    return [split_subjects(groups, min(count, len(groups) // 2), random) for _ in range(rounds)]
