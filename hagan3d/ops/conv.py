"""Convolutions that keep for the backward pass no more than their gradients need.

PyTorch keeps the input of every convolution, also where the weight is frozen and only the gradient in the input is
asked for, which is a convolution of the output's gradient with the weight. In a step where one network learns through
frozen ones those inputs are half of what is kept.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

Triple = tuple[int, int, int]
_ONES: Triple = (1, 1, 1)
_SMALL = (
    20480  # values of a single volume up to which PyTorch takes its slow kernels, 5 times slower at 32 x 8 x 64 x 64
)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Triple = _ONES, padding: Triple = (0, 0, 0)
) -> Tensor:
    """Convolve as `torch.nn.functional.conv3d`; with frozen ``weight`` and ``bias`` the input is not kept.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, *kernel]``.
        bias: ``[C_out]`` or None.
        stride: Along D, H, W.
        padding: Zeros at both ends of D, H, W.

    Returns:
        ``[B, C_out, ...]``, of autocast's type where that is on. Any number of times differentiable.
    """
    if not _is_frozen(x, weight, bias):
        return _convolve(x, weight, bias, stride, padding, False, (0, 0, 0))
    return _Frozen.apply(*_cast(x, weight, bias), stride, padding, False, (0, 0, 0))


def conv_transpose3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Triple = _ONES, padding: Triple = (0, 0, 0)
) -> Tensor:
    """Convolve as `torch.nn.functional.conv_transpose3d`, ``weight [C_in, C_out, *kernel]``; else as `conv3d`."""
    if not _is_frozen(x, weight, bias):
        return _convolve(x, weight, bias, stride, padding, True, (0, 0, 0))
    return _Frozen.apply(*_cast(x, weight, bias), stride, padding, True, (0, 0, 0))


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
    return C * D * H <= _SMALL < C * W * H


def _turned(triple: Triple) -> Triple:
    return triple[2], triple[1], triple[0]


def _is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and x.requires_grad and not learns


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give the tensors the type that autocast would."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _Frozen(Function):
    """A convolution that is a function of its input alone, and whose derivative is the mirrored convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Triple,
        padding: Triple,
        transposed: bool,
        output_padding: Triple,
    ) -> Tensor:
        y = _convolve(x, weight, bias, stride, padding, transposed, output_padding)
        ctx.save_for_backward(weight)
        ctx.options = stride, padding, transposed
        ctx.rest = (0, 0, 0)
        if not transposed:  # what the strides left over at the end of each axis
            ctx.rest = tuple(
                x.shape[i + 2] - ((y.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + weight.shape[i + 2])
                for i in range(3)
            )
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        stride, padding, transposed = ctx.options
        with torch.autocast(grad.device.type, enabled=False):
            x = _Frozen.apply(grad, weight, None, stride, padding, not transposed, ctx.rest)
        return x, None, None, None, None, None, None
