"""Membership inference attack by discriminators: do their logits separate training from held-out volumes?

Two controls make the attack interpretable. Members only: the same attack between random parts of the training volumes.
Its expected AUC is 0.5, and its spread is the sampling error. Untrained: the same attack by discriminators with fresh
weights. An AUC away from 0.5 then means that the held-out volumes come from another distribution.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import nn

from hagan3d.checkpoint import Model
from hagan3d.config import low_factor
from hagan3d.evaluation.memorisation.nearest import split_subjects
from hagan3d.evaluation.memorisation.results import Membership
from hagan3d.methods.hagan.networks import Networks

FALSE_POSITIVES = 0.01  # false positive rate of the reported true positive rate
DISCRIMINATORS = ("d_h", "d_l")
SCORES = (*DISCRIMINATORS, "sum")


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return the area under the ROC curve: the probability that a member has the higher score, ties counted half."""
    m, n = len(members), len(others)
    return float((rankdata(np.concatenate([members, others]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def true_positives(members: np.ndarray, others: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """Return the true positive rate at a false positive rate of at most ``rate`` (0 for fewer than 100 others)."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


def has_discriminators(model: Model) -> bool:
    """Return whether a checkpoint holds D^H and D^L; imported weights may not."""
    return all(name in model.loaded for name in DISCRIMINATORS)


def untrained(model: Model, seed: int = 0) -> dict[str, nn.Module]:
    """Return discriminators of the same architecture with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = Networks(model.config.data.size, model.config.data.depth, model.config.model, model.num_classes)
    return {name: nets[name].to(model.device).eval().requires_grad_(False) for name in DISCRIMINATORS}


@torch.no_grad()
def logits(discriminators: dict[str, nn.Module], volume: np.ndarray, depth: int, device: torch.device) -> np.ndarray:
    """Classify one volume as real or fake, in a batch of one, since minibatch statistics mix the volumes of a batch.

    Args:
        discriminators: D^H and D^L by name.
        volume: ``[D, H, W]`` in [-1, 1].
        depth: Slices per sub-volume of D^H.
        device: Device of the networks.

    Returns:
        The mean logit of D^H over adjacent sub-volumes, and the logit of D^L ``[2]``.
    """
    x = torch.from_numpy(volume)[None, None].to(device)
    factor = low_factor((volume.shape[0], volume.shape[1], volume.shape[2]))
    starts = range(0, volume.shape[0] - depth + 1, depth)
    high = [discriminators["d_h"](x[:, :, s : s + depth], torch.tensor([s], device=device))[0].item() for s in starts]
    low = discriminators["d_l"](F.avg_pool3d(x, factor))[0].item()
    return np.array([np.mean(high), low])


def membership(
    members: np.ndarray, others: np.ndarray, groups: np.ndarray, rounds: int, seed: int = 0
) -> list[Membership]:
    """Attack with each discriminator, and with the sum of both logits in units of their deviation over members.

    Args:
        members: Logits of training volumes ``[N, 2]``.
        others: Logits of held-out volumes ``[K, 2]``.
        groups: Subjects of the training volumes ``[N]``; the control does not split subjects.
        rounds: Random splits of the control.
        seed: Seed of these.
    """
    scale = np.maximum(members.std(axis=0), 1e-12)
    masks = _parts(groups, len(others), rounds, np.random.default_rng(seed))
    rows = []
    for name, weights in zip(SCORES, ((1, 0), (0, 1), (1, 1)), strict=True):
        one, other = ((values / scale) @ np.array(weights) for values in (members, others))
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


def logits_of(discriminators: dict[str, nn.Module], volumes: Iterable[np.ndarray], model: Model) -> np.ndarray:
    """Return the logits of volumes one by one ``[N, 2]``, see `logits`."""
    return np.stack([logits(discriminators, volume, model.config.data.depth, model.device) for volume in volumes])
