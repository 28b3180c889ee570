"""Group norm and ReLU on GPUs, tile by tile over space, in at least float32.

PyTorch's kernel sums each group of each volume in one block of threads, which leaves most of a GPU idle, and stores the
statistics of halves as halves. Here sums are PyTorch's reductions, which spread over the GPU, and a tile bounds what
float32 copies of halves take.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 1 << 24  # elements


def forward(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise, scale, shift, ReLU.

    Args:
        x: ``[B, C, D, H, W]``.
        groups: Groups of channels.
        weight: ``[C]``, in at least float32.
        bias: ``[C]``, in at least float32.
        eps: Added to the variance.

    Returns:
        The result ``[B, C, D, H, W]``, channels last if ``x`` is; mean and reciprocal standard deviation of each group
        ``[B, groups, 1, 1]``.
    """
    rows = _rows(x, groups)
    mean, rstd = _statistics(rows, weight.dtype, eps)
    scale = rstd * _per_channel(weight, groups)
    shift = _per_channel(bias, groups) - mean * scale
    y = torch.empty_like(rows)
    for tile, out in zip(_tiles(rows), _tiles(y), strict=True):
        out.copy_(torch.addcmul(shift, tile.to(scale.dtype), scale).relu_())
    return y.view(x.shape), mean, rstd


def backward(
    grad: Tensor, x: Tensor, groups: int, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in ``x``, ``weight`` and ``bias``, arguments as of `forward`.

    With g the gradient before the ReLU and n the normalised input: the sums of g and g n over the voxels of each
    channel are the gradients of shift and scale; that in x is rstd (w g - mean(w g) - n mean(w g n)), means over a
    group.
    """
    rows, grads = _rows(x, groups), _rows(grad, groups)
    w, b = _per_channel(weight, groups), _per_channel(bias, groups)
    sums = torch.zeros(2, *rows.shape[:3], 1, dtype=weight.dtype, device=x.device)
    for tile, g in zip(_tiles(rows), _tiles(grads), strict=True):
        normed, inner = _inner(tile, g, w, b, mean, rstd)
        sums[0] += inner.sum(3, keepdim=True)
        sums[1] += inner.mul_(normed).sum(3, keepdim=True)
    count = rows.shape[2] * rows.shape[3]
    first, second = ((w * part).sum(2, keepdim=True) / count for part in sums)
    dx = torch.empty_like(rows)
    for tile, g, out in zip(_tiles(rows), _tiles(grads), _tiles(dx), strict=True):
        normed, inner = _inner(tile, g, w, b, mean, rstd)
        out.copy_(inner.mul_(w).sub_(first).sub_(normed.mul_(second)).mul_(rstd))
    dbias, dweight = sums.sum(1).view(2, -1)
    return dx.view(x.shape), dweight, dbias


def _rows(x: Tensor, groups: int) -> Tensor:
    """View ``[B, C, D, H, W]`` as ``[B, groups, C / groups, voxels]``; a copy unless contiguous or channels last."""
    dense = x if x.is_contiguous(memory_format=torch.channels_last_3d) else x.contiguous()
    return dense.view(len(x), groups, x.shape[1] // groups, -1)


def _per_channel(values: Tensor, groups: int) -> Tensor:
    return values.view(1, groups, -1, 1)


def _tiles(rows: Tensor) -> Iterator[Tensor]:
    """Cut along the voxels."""
    return iter(rows.split(max(1, TILE // rows[..., 0].numel()), dim=3))


def _inner(
    tile: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the normalised input and the gradient before the ReLU."""
    normed = (tile.to(mean.dtype) - mean).mul_(rstd)
    before = torch.addcmul(bias, normed, weight)
    return normed, torch.where(before > 0, grad.to(mean.dtype), 0)


def _statistics(rows: Tensor, dtype: torch.dtype, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation of each group ``[B, groups, 1, 1]``.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    count, (mean, squares) = 0, torch.zeros(2, dtype=dtype, device=rows.device)
    for tile in _tiles(rows):
        variance, average = torch.var_mean(tile.to(dtype), dim=(2, 3), correction=0, keepdim=True)
        new = tile.shape[2] * tile.shape[3]
        delta, share = average - mean, new / (count + new)
        squares = squares + variance * new + delta.square() * (count * share)
        mean = mean + delta * share
        count += new
    return mean, torch.rsqrt(squares / count + eps)
