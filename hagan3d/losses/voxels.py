"""Voxel-wise errors, averaged over all voxels or over a mask."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_MASK = 1e-6  # sum of weights: a volume without a mask in its window has error 0


def l1(fake: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error of ``[B, C, D, H, W]``, a scalar; see `masked_mean`."""
    return F.l1_loss(fake, real) if mask is None else masked_mean((fake - real).abs(), mask)


def l2(fake: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of ``[B, C, D, H, W]``, a scalar; see `masked_mean`."""
    return F.mse_loss(fake, real) if mask is None else masked_mean((fake - real).square(), mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the mask of each volume, then over volumes, a scalar.

    The mean of means lets micro-batches add up to the batch, whatever the size of their masks.

    Args:
        values: ``[B, C, D, H, W]``.
        mask: Weights from 0 to 1 ``[B, 1, D, H, W]``; None: all voxels count.
    """
    if mask is None:
        return values.mean()
    weights = mask.to(torch.promote_types(values.dtype, torch.float32)).expand_as(values)
    total = weights.flatten(1).sum(1).clamp(min=SMALLEST_MASK)
    return ((values * weights).flatten(1).sum(1) / total).mean()
