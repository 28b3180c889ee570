"""Convolutions that save for the backward pass only what their gradients need.

PyTorch saves the input of every convolution, even if the weight is frozen and only the gradient in the input is needed,
which is a convolution of the output gradient with the weight. In a GAN step, where one network learns through frozen
ones, those inputs are half of the saved activations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from hagan3d.ops.contraction import Contraction, contract

Triple = tuple[int, int, int]
Fold = Callable[[Tensor], Tensor]
_ONES: Triple = (1, 1, 1)

# PyTorch takes its slow kernels, not oneDNN, for a single volume with C x D x H up to this.
_SLOW_CONV_SIZE = 20480


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
    """3D convolution as `torch.nn.functional.conv3d`; with frozen ``weight`` and ``bias`` the input is not saved.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, *kernel]``, or a parameter that ``fold`` maps to it.
        bias: ``[C_out]`` or None.
        stride: Along D, H, W.
        padding: Zeros at both ends of D, H, W.
        fold: Maps ``weight`` to the kernel. For a frozen ``weight`` the backward pass recomputes it; it is not saved.

    Returns:
        ``[B, C_out, ...]``, under autocast in its dtype. Any number of times differentiable.
    """
    return _dispatch(x, weight, bias, fold, stride, padding, False)


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = _ONES,
    padding: Triple = (0, 0, 0),
    fold: Fold = _same,
) -> Tensor:
    """Transposed convolution, kernel ``[C_in, C_out, *kernel]``; otherwise as `conv3d`."""
    return _dispatch(x, weight, bias, fold, stride, padding, True)


def _dispatch(
    x: Tensor, weight: Tensor, bias: Tensor | None, fold: Fold, stride: Triple, padding: Triple, transposed: bool
) -> Tensor:
    is_frozen = _is_frozen(x, weight, bias)
    if not is_frozen and not _differentiates_by_contraction(x, weight):
        return _convolve(x, fold(weight), bias, stride, padding, transposed, (0, 0, 0))
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    if not is_frozen:
        kernel = fold(weight).to(x.dtype)
        return contract(_contraction(x.shape, kernel.shape, stride, padding, transposed), x, kernel, bias)
    return _Frozen.apply(x, weight, bias, fold, stride, padding, transposed, (0, 0, 0))


def _is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether only the input of a convolution needs a gradient."""
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and x.requires_grad and not learns


def _differentiates_by_contraction(x: Tensor, weight: Tensor) -> bool:
    """Return whether derivatives of a convolution are its own maps: on GPUs, where its weight learns.

    PyTorch's second derivative in the weight is a convolution with a kernel as large as the output and dilated by the
    stride, which cuDNN has no fast algorithm for; it is the gradient in the weight of a convolution, too.
    """
    return x.device.type == "cuda" and torch.is_grad_enabled() and weight.requires_grad


def _contraction(
    shape: torch.Size, kernel: torch.Size, stride: Triple, padding: Triple, transposed: bool
) -> Contraction:
    """Return the maps of a convolution of ``x`` and a kernel with these shapes."""

    def y_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(x, weight, bias, stride, padding, transposed, (0, 0, 0))

    def gradients(x: Tensor, weight: Tensor, y: Tensor, *needed: bool) -> tuple[Tensor, Tensor]:
        options = (stride, padding, _ONES, transposed, (0, 0, 0), 1)
        return torch.ops.aten.convolution_backward(y, x, weight, None, *options, (*needed, False))[:2]

    def x_of(weight: Tensor, y: Tensor) -> Tensor:
        return gradients(y.new_empty(1).expand(shape), weight, y, True, False)[0]  # of x, the shape alone is read

    def weight_of(x: Tensor, y: Tensor) -> Tensor:
        return gradients(x, y.new_empty(1).expand(kernel), y, False, True)[1]

    return Contraction(y_of, x_of, weight_of, lambda x, weight, y: gradients(x, weight, y, True, True))


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Triple,
    padding: Triple,
    transposed: bool,
    output_padding: Triple,
) -> Tensor:
    swapped = _should_swap_axes(x, weight)
    if swapped:
        x, weight = x.transpose(2, 4), weight.transpose(2, 4)
        stride, padding, output_padding = _swap(stride), _swap(padding), _swap(output_padding)
    if transposed:
        y = F.conv_transpose3d(x, weight, bias, stride, padding, output_padding)
    else:
        y = F.conv3d(x, weight, bias, stride, padding)
    return y.transpose(2, 4).contiguous() if swapped else y


def _should_swap_axes(x: Tensor, weight: Tensor) -> bool:
    """Return whether to swap D and W: PyTorch selects oneDNN on CPU by C x D x H, which a flat volume falls below."""
    if x.device.type != "cpu" or len(x) > 1 or min(weight.shape[3:]) > 3:
        return False
    _, C, D, H, W = x.shape
    return C * D * H <= _SLOW_CONV_SIZE < C * W * H


def _swap(triple: Triple) -> Triple:
    return triple[2], triple[1], triple[0]


class _Frozen(Function):
    """Convolution with a frozen weight: a linear function of x, whose derivative is the transposed convolution.

    It saves no tensor, so that activation checkpointing around it does not recompute the convolution.
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
        kernel, offset = fold(weight).to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = _convolve(x, kernel, offset, stride, padding, transposed, output_padding)
        ctx.weight, ctx.fold, ctx.options = weight, fold, (stride, padding, transposed)
        ctx.output_padding = (0, 0, 0)
        if not transposed:  # input voxels at the end of each axis that the stride skips
            ctx.output_padding = tuple(
                x.shape[i + 2] - ((y.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + kernel.shape[i + 2])
                for i in range(3)
            )
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        stride, padding, transposed = ctx.options
        with torch.autocast(grad.device.type, enabled=False):
            x = _Frozen.apply(grad, ctx.weight, None, ctx.fold, stride, padding, not transposed, ctx.output_padding)
        return x, None, None, None, None, None, None, None
