"""Sub-volume selection: one window of slices per volume, along any axis."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hagan3d.ops.extension import LOADED, has_kernels


def select_subvolume(
    x: Tensor,
    start: Tensor,
    depth: int,
    axis: int = 0,
    halo: int = 0,
    *,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Cut one window of consecutive slices out of each volume, each at its own start.

    Args:
        x: Volumes or feature maps ``[B, C, D, H, W]``; floating point, or int16 with a floating ``dtype``.
        start: First slice of each window ``[B]``, int64, in slices of ``x``.
        depth: Slices per window, ``1 <= depth``, at most the axis.
        axis: Axis of the window: 0, 1 or 2 for D, H or W.
        halo: Additional slices on both sides. Slices outside the volume are zeros; ``missing_halo`` counts them.
        dtype: Floating point dtype of the result. Default: that of ``x``.
        scale: Factor of the result: int16 in [-32767, 32767] times 1 / 32767 is in [-1, 1].

    Returns:
        Windows, a copy with ``depth + 2 * halo`` slices along ``axis``. Any number of times differentiable in ``x``.

    Raises:
        ValueError: If the shapes disagree, ``depth`` does not fit or the result would not be floating point.

    Source: the selectors S^H and S^L of Sun et al., HA-GAN, IEEE JBHI 26(8), 2022.
    """
    _check_window(x, start, depth, axis, halo)
    dtype = x.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating point, got {dtype}")
    if has_kernels(x):
        return torch.ops.hagan3d.select_subvolume(x, start, depth + 2 * halo, axis, halo, False, dtype, scale)
    return select_subvolume_reference(x, start, depth, axis, halo, dtype=dtype, scale=scale)


def select_subvolume_reference(
    x: Tensor,
    start: Tensor,
    depth: int,
    axis: int = 0,
    halo: int = 0,
    *,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> Tensor:
    """``select_subvolume`` in plain PyTorch, without argument checks."""
    length, dim = x.shape[2 + axis], 2 + axis
    slices = start[:, None] + torch.arange(-halo, depth + halo, device=x.device)  # [B, depth + 2 halo]
    shape = [x.shape[0], 1, 1, 1, 1]
    shape[dim] = slices.shape[1]
    size = list(x.shape)
    size[dim] = slices.shape[1]
    windows = x.gather(dim, slices.clamp(0, length - 1).view(shape).expand(size)).to(dtype or x.dtype)
    inside = (slices >= 0) & (slices < length)
    return torch.where(inside.view(shape), windows * scale, 0)


def select_subvolumes(
    xs: Sequence[Tensor],
    start: Tensor,
    depth: int,
    axis: int = 0,
    halo: int = 0,
    *,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> list[Tensor]:
    """Cut matching windows out of tensors of different stride, e.g. a volume and its feature maps.

    The first tensor has stride 1; ``start``, ``depth``, ``dtype`` and ``scale`` refer to it. A tensor of stride s has
    an axis s times shorter; its window starts at ``start // s`` and has ``depth // s`` slices.

    Args:
        xs: Tensors ``[B, C_i, D_i, H_i, W_i]``, at least one.
        start: First slice of each window ``[B]``, int64, in slices of ``xs[0]``; a multiple of every stride.
        depth: Slices per window of ``xs[0]``, a multiple of every stride.
        axis: Axis of the window: 0, 1 or 2 for D, H or W.
        halo: Additional slices on both sides, in slices of each tensor.
        dtype: Floating point dtype of the first window. Default: that of ``xs[0]``.
        scale: Factor of the first window.

    Returns:
        One window per tensor, as from ``select_subvolume``.

    Raises:
        ValueError: If a length does not divide that of ``xs[0]``, or ``depth`` is not a multiple of a stride.
    """
    if not xs or xs[0].ndim != 5:
        raise ValueError("expected at least one tensor [B, C, D, H, W]")
    windows = [select_subvolume(xs[0], start, depth, axis, halo, dtype=dtype, scale=scale)]
    for x in xs[1:]:
        stride, rest = divmod(xs[0].shape[2 + axis], x.shape[2 + axis])
        if rest or stride == 0 or depth % stride:
            lengths = f"{xs[0].shape[2 + axis]} and {x.shape[2 + axis]}"
            raise ValueError(f"stride must be an integer that divides depth, got axes {lengths}, depth {depth}")
        coarse = torch.div(start, stride, rounding_mode="floor")
        windows.append(select_subvolume(x, coarse, depth // stride, axis, halo))
    return windows


def missing_halo(start: Tensor, depth: int, halo: int, length: int) -> Tensor:
    """Count the slices of each haloed window that lie outside the volume.

    Args:
        start: First slice of each window ``[B]``, int64.
        depth: Slices per window without halo.
        halo: Additional slices on both sides.
        length: Slices of the volume along the cut axis.

    Returns:
        Missing slices below and above ``[B, 2]``, int64.
    """
    below = halo - start
    above = start + depth + halo - length
    return torch.stack((below, above), dim=1).clamp(0, halo)


def _check_window(x: Tensor, start: Tensor, depth: int, axis: int, halo: int) -> None:
    if x.ndim != 5 or start.shape != x.shape[:1]:
        raise ValueError(f"expected x [B, C, D, H, W] and start [B], got {tuple(x.shape)} and {tuple(start.shape)}")
    if start.dtype != torch.int64 or start.device != x.device:
        raise ValueError(f"expected start int64 on {x.device}, got {start.dtype} on {start.device}")
    if axis not in (0, 1, 2) or halo < 0:
        raise ValueError(f"axis must be 0, 1 or 2 and halo >= 0, got axis {axis} and halo {halo}")
    if not 1 <= depth <= x.shape[2 + axis]:
        raise ValueError(f"expected 1 <= depth <= {x.shape[2 + axis]}, got {depth}")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, start, _, axis, halo, adjoint, _, scale = inputs
    ctx.save_for_backward(start)
    ctx.length, ctx.dtype = x.shape[2 + axis], x.dtype
    ctx.window = (axis, halo, not adjoint)
    ctx.scale = scale


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (start,) = ctx.saved_tensors
    rest = (None,) * 7
    return torch.ops.hagan3d.select_subvolume(grad, start, ctx.length, *ctx.window, ctx.dtype, ctx.scale), *rest


def _fake(
    x: Tensor, start: Tensor, length: int, axis: int, halo: int, adjoint: bool, dtype: torch.dtype, scale: float
) -> Tensor:
    shape = list(x.shape)
    shape[2 + axis] = length
    return x.new_empty(shape, dtype=dtype)


if LOADED:
    torch.library.register_fake("hagan3d::select_subvolume", _fake)
    torch.library.register_autograd("hagan3d::select_subvolume", _backward, setup_context=_setup_context)
