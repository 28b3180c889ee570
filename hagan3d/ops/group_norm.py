"""Group normalization fused with ReLU; only the input is saved for the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hagan3d.ops import forms, group_norm_tiles
from hagan3d.ops.device import device_kind


def group_norm_relu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise over space and the channels of each group, weight, shift, ReLU.

    Saves ``x`` but not the result, which the backward pass recomputes piece by piece. Statistics are in at least
    float32, also under autocast; the result has the dtype of ``x``.

    Args:
        x: Feature maps ``[B, C, D, H, W]``.
        groups: Groups of channels; divides C.
        weight: Scale per channel ``[C]``.
        bias: Offset per channel ``[C]``.
        eps: Added to the variance.

    Returns:
        ``[B, C, D, H, W]`` in the dtype of ``x``. Once differentiable; a second derivative raises an error.

    Raises:
        ValueError: If the shapes disagree.

    Source: Wu and He, Group Normalization, ECCV 2018, equations 1 and 2.
    """
    if x.ndim != 5 or x.shape[1] % groups or weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        shapes = f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        raise ValueError(f"expected x [B, C, D, H, W], weight [C], bias [C], C a multiple of {groups}, got {shapes}")
    forms.chosen("group_norm_relu", x, weight, groups)  # it has one form, whose time depends on the layout
    wide = torch.promote_types(x.dtype, torch.float32)
    function = _OnCPU if device_kind(x) == "cpu" else _OnGPU
    return function.apply(x, groups, weight.to(wide), bias.to(wide), eps)


def group_norm_relu_reference(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """``group_norm_relu`` as two PyTorch functions, without argument checks."""
    return F.relu(F.group_norm(x, groups, weight, bias, eps))


class _OnCPU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = _normalized(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias)
        ctx.options = groups, eps
        return y.relu_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        groups, eps = ctx.options
        needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        dx, dweight, dbias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        for b in range(len(x)):
            one = x[b : b + 1]
            y, mean, rstd = _normalized(one, groups, weight, bias, eps)
            inner = torch.ops.aten.threshold_backward(grad[b : b + 1], y, 0)
            del y
            grads = torch.ops.aten.native_group_norm_backward(
                inner, one, mean, rstd, weight, 1, one.shape[1], one[0, 0].numel(), groups, needed
            )
            for total, value in zip((dx[b : b + 1], dweight, dbias), grads, strict=True):
                if value is not None:
                    total.add_(value) if total.ndim == 1 else total.copy_(value)
        return dx, None, dweight, dbias, None


class _OnGPU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y, mean, rstd = group_norm_tiles.forward(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dx, dweight, dbias = group_norm_tiles.backward(grad, x, ctx.groups, weight, bias, mean, rstd)
        return dx, None, dweight, dbias, None


def _normalized(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm without ReLU, mean and reciprocal standard deviation of each group, in the precision of the weight."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.native_group_norm(x, weight, bias, len(x), x.shape[1], x[0, 0].numel(), groups, eps)
