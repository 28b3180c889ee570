"""Whole volumes in bounded memory: G^H runs on windows of A, and the windows equal the whole volume."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.methods.hagan.generator import HighHead
from hagan3d.methods.hagan.windows import Window, window_plan
from hagan3d.networks.layers import GroupNormReLU

Norm = Callable[[Tensor], Tensor]


@torch.no_grad()
def volume_windows(high: HighHead, a: Tensor, depth: int, skip: Tensor | None = None) -> Iterator[Tensor]:
    """Generate whole volumes lazily, in windows that equal the same slices of `high(a, skip=skip)`.

    With `norm: rms` each window is one pass with a halo; see `methods.hagan.windows`. With `norm: group` the exact
    statistics of each GroupNorm over the volume are computed first, in one pass over all windows per norm.

    Args:
        high: G^H.
        a: The feature map A ``[B, features, d, h, w]``.
        depth: Slices of A per window; the last window may have fewer.
        skip: Low-resolution volume that is added before the tanh ``[B, C, d, h, w]``.

    Yields:
        ``[B, C, factor * depth, factor * h, factor * w]``, in order along D.
    """
    norms: list[Norm] = []
    for block in high.blocks:
        norm: Any = block.norm
        if isinstance(norm, GroupNormReLU):
            # The statistics of this norm need the layers before it, whose statistics have been computed already.
            norm = _with_statistics(norm, *_statistics(_windows(high, norms, a, depth), norm.num_groups))
        norms.append(norm)
    for first in range(0, a.shape[2], depth):
        count = min(depth, a.shape[2] - first)
        yield _with_skip(high, _window(high, norms, a, first, count), skip, first, count)


def _windows(high: HighHead, norms: list[Norm], a: Tensor, depth: int) -> Iterator[Tensor]:
    for first in range(0, a.shape[2], depth):
        yield _window(high, norms, a, first, min(depth, a.shape[2] - first))


def _window(high: HighHead, norms: list[Norm], a: Tensor, first: int, depth: int) -> Tensor:
    """Run the first `len(norms) + 1` convolutions of G^H, with the norms between them, on a window of A."""
    convs = high.convs[: len(norms) + 1]
    plan = window_plan(high.scales[: len(convs)], first, depth, a.shape[2])
    x = _cut(a, plan[0])
    for conv, norm, window in zip(convs, [*norms, None], plan[1:], strict=True):
        x = conv(x, window.trim)  # two statements: the input of the convolution is freed before the norm allocates
        if norm is not None:
            x = window.zero_outside_(norm(x))
    return x


def _cut(a: Tensor, window: Window) -> Tensor:
    """Return the slices of a window of A, with zeros where it reaches beyond the volume."""
    assert isinstance(window.first, int)
    below, above = window.outside
    x = a[:, :, window.first + below : window.first + window.count - above]
    return F.pad(x, (0, 0, 0, 0, below, above)) if below or above else x


def _with_skip(high: HighHead, x: Tensor, skip: Tensor | None, first: int, depth: int) -> Tensor:
    """Add the slices of the upsampled low-resolution volume, and apply the tanh and softmax, in place."""
    if skip is not None:
        x += high.enlarged(skip, torch.full((len(x),), first, device=x.device), depth)
    return high.output.in_place(x)


def _statistics(windows: Iterable[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels over all windows ``[B, groups]``, float64.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for window in windows:
        parts = [torch.var_mean(group.double(), dim=(1, 2, 3, 4), correction=0) for group in window.chunk(groups, 1)]
        variances, means = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
        new = window[0].numel() // groups
        share = new / (count + new)
        delta = means - mean.to(means)
        squares = squares.to(means) + variances * new + delta.square() * (count * share)
        mean = mean.to(means) + delta * share
        count += new
        del window, parts  # before the next window is computed
    return mean, squares / count


def _with_statistics(norm: GroupNormReLU, mean: Tensor, variance: Tensor) -> Norm:
    """Return GroupNorm and ReLU with given statistics, in place."""
    per_channel = norm.num_channels // norm.num_groups
    factor = torch.rsqrt(variance + norm.eps).repeat_interleave(per_channel, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(per_channel, dim=1) * factor
    factor, shift = (values.to(norm.weight.dtype)[:, :, None, None, None] for values in (factor, shift))
    return lambda x: x.mul_(factor).add_(shift).relu_()
