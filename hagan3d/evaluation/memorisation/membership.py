"""Membership inference by discriminators: do their logits tell training volumes from held-out ones?

Two controls go with it, without which such an attack misleads. Members only: the same attack between random parts of
the training volumes, of which one, as many as are held out, plays the held-out volumes. No part was trained on more
than the other, so its AUC is 0.5, and its spread is what chance does with so few volumes. Untrained: the same attack
by discriminators of fresh weights. They have seen nothing, so an AUC away from 0.5 says that the held-out volumes are
of another kind.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import nn

from hagan3d.checkpoint import Model
from hagan3d.config import low_factor
from hagan3d.evaluation.memorisation.nearest import split_subjects
from hagan3d.methods.hagan.networks import Networks

FALSE_POSITIVES = 0.01  # rate at which true positives are told
JUDGES = ("d_h", "d_l")
SCORES = (*JUDGES, "sum")


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Chance that a member has the higher score, ties counted half: the area under the ROC curve."""
    m, n = len(members), len(others)
    return float((rankdata(np.concatenate([members, others]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def true_positives(members: np.ndarray, others: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """Share of members above the score that at most ``rate`` of the others exceed; of fewer than 100 others: none."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


def has_discriminators(model: Model) -> bool:
    """Whether a checkpoint holds D^H and D^L; imported weights need not."""
    return all(name in model.loaded for name in JUDGES)


def untrained(model: Model, seed: int = 0) -> dict[str, nn.Module]:
    """Return discriminators as the model's, with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = Networks(model.config.data.size, model.config.data.depth, model.config.model, model.num_classes)
    return {name: nets[name].to(model.device).eval().requires_grad_(False) for name in JUDGES}


@torch.no_grad()
def logits(judges: dict[str, nn.Module], volume: np.ndarray, depth: int, device: torch.device) -> np.ndarray:
    """Judge one volume, alone in its batch, so that none has a say in another's logits.

    Args:
        judges: D^H and D^L by name.
        volume: ``[D, H, W]`` in [-1, 1].
        depth: Slices of the sub-volumes that D^H sees.
        device: Of the networks.

    Returns:
        The mean logit of D^H over adjacent sub-volumes, and the logit of D^L ``[2]``.
    """
    x = torch.from_numpy(volume)[None, None].to(device)
    factor = low_factor((volume.shape[0], volume.shape[1], volume.shape[2]))
    starts = range(0, volume.shape[0] - depth + 1, depth)
    high = [judges["d_h"](x[:, :, s : s + depth], torch.tensor([s], device=device))[0].item() for s in starts]
    low = judges["d_l"](F.avg_pool3d(x, factor))[0].item()
    return np.array([np.mean(high), low])


def membership(members: np.ndarray, others: np.ndarray, groups: np.ndarray, rounds: int, seed: int = 0) -> list[Any]:
    """Attack by each discriminator and by the sum of both, each in units of its deviation over members.

    Args:
        members: Logits of training volumes ``[N, 2]``.
        others: Logits of held-out volumes ``[K, 2]``.
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
    for name, weights in zip(SCORES, ((1, 0), (0, 1), (1, 1)), strict=True):
        one, other = ((values / scale) @ np.array(weights) for values in (members, others))
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


def logits_of(judges: dict[str, nn.Module], volumes: Iterable[np.ndarray], model: Model) -> np.ndarray:
    """Judge volumes one by one: ``[N, 2]``, see `logits`."""
    return np.stack([logits(judges, volume, model.config.data.depth, model.device) for volume in volumes])
