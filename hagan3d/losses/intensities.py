"""Distance between intensity distributions: L1 of sorted intensities."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SIDE = 8  # voxels, largest side of a block


def sorted_l1(fake: Tensor, real: Tensor) -> Tensor:
    """L1 distance of sorted intensities of each channel, of whole volumes plus of blocks of up to 8^3 voxels, a scalar.

    It is the 1-Wasserstein distance between the histograms, averaged over volumes and over blocks. A voxel-wise L1 loss
    is minimal at the conditional median, so that structures whose position cannot be predicted (emphysema) vanish. This
    loss penalizes a wrong amount of them wherever they are. Over a whole volume, dark lung and background air could
    compensate each other; within a block they cannot.

    Args:
        fake: Volumes or sub-volumes ``[B, C, D, H, W]``; the gradient moves each voxel towards the real
            intensity of the same rank.
        real: The same shape.

    Source: Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6 (measures on a line).
    """
    return _SortedL1.apply(fake, real)


class _SortedL1(torch.autograd.Function):
    """The distance with its gradient, of which a byte per voxel is kept: autograd would keep the ranks, 8 per sort."""

    @staticmethod
    def forward(ctx: Any, fake: Tensor, real: Tensor) -> Tensor:
        signs = torch.empty(fake.shape, dtype=torch.int8, device=fake.device)
        total = torch.zeros((), dtype=torch.float32, device=fake.device)
        for x, y, sign in zip(fake, real, signs, strict=True):  # one volume at a time, since sorting takes memory
            whole, whole_signs = _ranked(x.flatten(1), y.flatten(1))
            in_blocks, block_signs = _ranked(_blocks(x), _blocks(y))
            total += whole + in_blocks
            sign.copy_(whole_signs.view(x.shape) + _from_blocks(block_signs, x.shape))
        ctx.save_for_backward(signs)
        ctx.dtype = fake.dtype
        return total / len(fake)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (signs,) = ctx.saved_tensors
        return (signs * (gradient / signs.numel())).to(ctx.dtype), None


def _ranked(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Compare rows ``[N, voxels]``, each sorted: mean absolute difference, and its sign at each voxel of ``fake``."""
    ranked_real = real.float().sort(dim=1).values
    ranked, order = fake.float().sort(dim=1, stable=True)
    ranked -= ranked_real
    signs = torch.empty(ranked.shape, dtype=torch.int8, device=ranked.device)
    return ranked.abs().mean(), signs.scatter_(1, order, ranked.sign().to(torch.int8))


def _blocks(x: Tensor) -> Tensor:
    """Cut ``[C, D, H, W]`` into blocks whose sides divide those of ``x``, one row each."""
    for axis in (1, 3, 5):
        x = x.unflatten(axis, (-1, math.gcd(x.shape[axis], SIDE)))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(0, 3)


def _from_blocks(rows: Tensor, shape: torch.Size) -> Tensor:
    """Put the rows of `_blocks` together again."""
    sides = [math.gcd(side, SIDE) for side in shape[1:]]
    counts = [side // block for side, block in zip(shape[1:], sides, strict=True)]
    return rows.view(shape[0], *counts, *sides).permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)
