"""Whole volumes window by window: G^H runs on a few slices of A at a time, and the windows equal the whole volume."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.methods.hagan.generator import HighHead, halos_of
from hagan3d.networks.layers import ConvBlock, GroupNormReLU, UpConv3d


@dataclass(frozen=True)
class _Step:
    """A layer of G^H: its convolution, and what its result goes through, which may happen in place."""

    conv: Callable[[Tensor, int], Tensor]
    after: Callable[[Tensor], Tensor]
    scale: int
    """Voxels out per voxel in, along each axis."""


@torch.no_grad()
def volume_windows(high: HighHead, a: Tensor, depth: int, skip: Tensor | None = None) -> Iterator[Tensor]:
    """Make whole volumes in windows that equal the same slices of `high(a, skip=skip)`, each when it is asked for.

    Each window has a halo of slices of A around it, and what lies outside of the volume is zero before every
    convolution, as zero padding has it. With `norm: rms` that is all. With `norm: group` one pass over all windows per
    GroupNorm goes before, first layer first, which gathers its exact statistics over the volume.

    Args:
        high: G^H.
        a: The feature map A ``[B, C, d, h, w]``.
        depth: Slices of A per window; the last window may have fewer.
        skip: Volume that is added before the tanh ``[B, 1, d, h, w]``.

    Yields:
        ``[B, 1, factor * depth, factor * h, factor * w]``, in order along D.
    """
    blocks = [cast(ConvBlock, block) for block in high.blocks]
    steps: list[_Step] = []
    for block in blocks:
        after: Callable[[Tensor], Tensor] = block.norm
        if isinstance(block.norm, GroupNormReLU):
            unfinished = [*steps, _step(block.conv, _nothing)]
            after = _normalized_by(block.norm, *_statistics(_windows(unfinished, a, depth), block.norm.num_groups))
        steps.append(_step(block.conv, after))
    steps.append(_step(high.last, _nothing))
    for first in range(0, a.shape[2], depth):
        count = min(depth, a.shape[2] - first)
        yield _finished(high, _window(steps, a, first, count), skip, first, count)


def _finished(high: HighHead, x: Tensor, skip: Tensor | None, first: int, depth: int) -> Tensor:
    """Add the skip's slices to a window, and take the tanh, in place."""
    if skip is not None:
        x += high.enlarged(skip, torch.full((len(x),), first, device=x.device), depth)
    return x.tanh_()


def _step(conv: torch.nn.Module, after: Callable[[Tensor], Tensor]) -> _Step:
    return _Step(conv, after, 2 if isinstance(conv, UpConv3d) else 1)


def _nothing(x: Tensor) -> Tensor:
    return x


def _windows(steps: list[_Step], a: Tensor, depth: int) -> Iterator[Tensor]:
    for first in range(0, a.shape[2], depth):
        yield _window(steps, a, first, min(depth, a.shape[2] - first))


def _window(steps: list[_Step], a: Tensor, first: int, depth: int) -> Tensor:
    """Run layers on `depth` slices of A from `first` on."""
    halos = halos_of([step.scale for step in steps])
    first, count, total = first - halos[0], depth + 2 * halos[0], a.shape[2]
    below, above = _outside(first, count, total)
    x = a[:, :, first + below : first + count - above]
    if below or above:
        x = F.pad(x, (0, 0, 0, 0, below, above))
    for step, halo, next_halo in zip(steps, halos, halos[1:], strict=False):
        trim = step.scale * halo - next_halo
        x = step.conv(x, trim)  # what went in is let go before the norm needs memory
        x = step.after(x)
        first, count, total = first * step.scale + trim, x.shape[2], total * step.scale
        below, above = _outside(first, count, total)
        if below:
            x[:, :, :below] = 0
        if above:
            x[:, :, count - above :] = 0
    return x


def _outside(first: int, count: int, total: int) -> tuple[int, int]:
    """Slices of a window that lie below and above a volume of `total` slices."""
    return max(0, -first), max(0, first + count - total)


def _statistics(windows: Iterable[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels over all windows ``[B, groups]``, float64.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for window in windows:
        parts = [torch.var_mean(part.double(), dim=(1, 2, 3, 4), correction=0) for part in window.chunk(groups, dim=1)]
        variances, means = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
        added = window[0].numel() // groups
        share = added / (count + added)
        delta = means - mean.to(means)
        squares = squares.to(means) + variances * added + delta.square() * (count * share)
        mean = mean.to(means) + delta * share
        count += added
        del window, parts
    return mean, squares / count


def _normalized_by(norm: GroupNormReLU, mean: Tensor, variance: Tensor) -> Callable[[Tensor], Tensor]:
    """GroupNorm and ReLU, in place, by statistics that are known."""
    per_channel = norm.num_channels // norm.num_groups
    factor = torch.rsqrt(variance + norm.eps).repeat_interleave(per_channel, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(per_channel, dim=1) * factor
    factor, shift = (values.to(norm.weight.dtype)[:, :, None, None, None] for values in (factor, shift))
    return lambda x: x.mul_(factor).add_(shift).relu_()
