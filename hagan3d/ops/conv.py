"""Convolutions that keep for the backward pass no more than their gradients need.

PyTorch keeps the input of every convolution, also where the weight is frozen and only the gradient in the input is
asked for, which is a convolution of the output's gradient with the weight. In a step where one network learns through
frozen ones those inputs are half of what is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from hagan3d.ops.winograd.conv import conv3d_winograd
from hagan3d.ops.winograd.dispatch import SLOW_CONV_SIZE, is_frozen, use_winograd

Triple = tuple[int, int, int]
Fold = Callable[[Tensor], Tensor]
_ONES: Triple = (1, 1, 1)


def _same(weight: Tensor) -> Tensor:
    return weight


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = _ONES,
    padding: Triple = (0, 0, 0),
    fold: Fold = _same,
) -> Tensor:
    """Convolve as `torch.nn.functional.conv3d`; with frozen ``weight`` and ``bias`` the input is not kept.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, *kernel]``, or what ``fold`` makes that of.
        bias: ``[C_out]`` or None.
        stride: Along D, H, W.
        padding: Zeros at both ends of D, H, W.
        fold: Makes the kernel; of a frozen ``weight`` it is made again in the backward pass, not kept.

    Returns:
        ``[B, C_out, ...]``, of autocast's type where that is on. Any number of times differentiable.
    """
    if fold is _same and stride == _ONES and use_winograd(x, weight, bias, padding):
        return conv3d_winograd(x, weight, bias, padding[0])
    return _either(x, weight, bias, fold, stride, padding, False)


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = _ONES,
    padding: Triple = (0, 0, 0),
    fold: Fold = _same,
) -> Tensor:
    """Convolve as `torch.nn.functional.conv_transpose3d`, kernel ``[C_in, C_out, *kernel]``; else as `conv3d`."""
    return _either(x, weight, bias, fold, stride, padding, True)


def _either(
    x: Tensor, weight: Tensor, bias: Tensor | None, fold: Fold, stride: Triple, padding: Triple, transposed: bool
) -> Tensor:
    if not is_frozen(x, weight, bias):
        return _convolve(x, fold(weight), bias, stride, padding, transposed, (0, 0, 0))
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return _Frozen.apply(x, weight, bias, fold, stride, padding, transposed, (0, 0, 0))


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Triple,
    padding: Triple,
    transposed: bool,
    output_padding: Triple,
) -> Tensor:
    turned = _is_better_turned(x, weight)
    if turned:
        x, weight = x.transpose(2, 4), weight.transpose(2, 4)
        stride, padding, output_padding = _turned(stride), _turned(padding), _turned(output_padding)
    if transposed:
        y = F.conv_transpose3d(x, weight, bias, stride, padding, output_padding)
    else:
        y = F.conv3d(x, weight, bias, stride, padding)
    return y.transpose(2, 4).contiguous() if turned else y


def _is_better_turned(x: Tensor, weight: Tensor) -> bool:
    """Say whether D and W should change places: PyTorch judges by C x D x H whether a CPU's fast kernels pay off."""
    if x.device.type != "cpu" or len(x) > 1 or min(weight.shape[3:]) > 3:
        return False
    _, C, D, H, W = x.shape
    return C * D * H <= SLOW_CONV_SIZE < C * W * H


def _turned(triple: Triple) -> Triple:
    return triple[2], triple[1], triple[0]


class _Frozen(Function):
    """A convolution that is a function of its input alone, and whose derivative is the mirrored convolution.

    It saves no tensor: a checkpoint around it would compute the convolution again only to save one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        fold: Fold,
        stride: Triple,
        padding: Triple,
        transposed: bool,
        output_padding: Triple,
    ) -> Tensor:
        kernel, summand = fold(weight).to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = _convolve(x, kernel, summand, stride, padding, transposed, output_padding)
        ctx.weight, ctx.fold, ctx.options = weight, fold, (stride, padding, transposed)
        ctx.rest = (0, 0, 0)
        if not transposed:  # what the strides left over at the end of each axis
            ctx.rest = tuple(
                x.shape[i + 2] - ((y.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + kernel.shape[i + 2])
                for i in range(3)
            )
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        stride, padding, transposed = ctx.options
        with torch.autocast(grad.device.type, enabled=False):
            x = _Frozen.apply(grad, ctx.weight, None, ctx.fold, stride, padding, not transposed, ctx.rest)
        return x, None, None, None, None, None, None, None
