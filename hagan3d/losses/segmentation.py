"""Segmentation losses on label probabilities."""

import torch
from torch import Tensor

from hagan3d.losses.voxels import masked_mean

LEAST = 1e-6  # probability below which the logarithm goes on as its tangent
SMOOTH = 1e-5  # voxels: a label that is absent and not predicted has Dice 1


def dice_loss(probabilities: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - Dice, averaged over volumes and foreground labels, a scalar.

    Unlike MONAI's it reads no value of a tensor, so that the memory of a step can be counted on fake tensors.

    Args:
        probabilities: ``[B, K, D, H, W]``, label 0 (background) first.
        target: One-hot labels, same shape.
        mask: Voxels that count ``[B, 1, D, H, W]``; None: all.

    Source: Milletari et al., V-Net, 3DV 2016, with sums of probabilities (not of their squares) in the denominator.
    """
    if mask is not None:
        probabilities, target = (torch.where(mask > 0, x, 0) for x in (probabilities, target))
    fake, real = (x[:, 1:].flatten(2) for x in (probabilities, target))
    fake, real = (x.float() if x.dtype.itemsize < 4 else x for x in (fake, real))
    overlap = (fake * real).sum(2)
    return 1 - ((2 * overlap + SMOOTH) / (fake.sum(2) + real.sum(2) + SMOOTH)).mean()


def dice_cross_entropy(probabilities: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Dice loss plus the mean cross-entropy of voxels, a scalar; arguments as of `dice_loss`.

    The Dice loss of a label that a volume lacks has no gradient; the cross-entropy has one in every voxel. Source:
    Isensee et al., nnU-Net, Nature Methods 18, 2021.
    """
    bounded = probabilities.clamp(min=LEAST)
    logarithm = bounded.log() + (probabilities - bounded) / LEAST
    entropy = -(target * logarithm).sum(1, keepdim=True)
    return dice_loss(probabilities, target, mask) + masked_mean(entropy, mask)
