"""Convolutions that save for the backward pass only what their gradients need.

PyTorch saves the input of every convolution, even if the weight is frozen and only the gradient in the input is needed,
which is a convolution of the output gradient with the weight. In a GAN step, where one network learns through frozen
ones, those inputs are half of the saved activations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from hagan3d.ops import forms
from hagan3d.ops.block_conv import fold_blocks, has_block_form, to_blocks, unfold_blocks
from hagan3d.ops.contraction import Contraction, contract
from hagan3d.ops.device import device_kind

Triple = tuple[int, int, int]
_Options = tuple[Triple, Triple, bool]  # stride, padding, whether it is transposed
_ONES: Triple = (1, 1, 1)

_SMALL_SIDE = 3  # voxels: of volumes whose bfloat16 convolutions a CPU computes in float32
# PyTorch takes its slow kernels, not oneDNN, for a single volume with C x D x H up to this.
_SLOW_CONV_SIZE = 20480


class Fold(NamedTuple):
    """A linear map from a parameter to the kernel of a convolution."""

    kernel: Callable[[Tensor], Tensor]
    """Parameter to kernel."""
    adjoint: Callable[[Tensor], Tensor]
    """Gradient in the kernel to that in the parameter."""


def _same(weight: Tensor) -> Tensor:
    return weight


_IDENTITY = Fold(_same, _same)
_BLOCKS = Fold(fold_blocks, unfold_blocks)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = _ONES,
    padding: Triple = (0, 0, 0),
    fold: Fold = _IDENTITY,
    form: str = "auto",
) -> Tensor:
    """3D convolution as `torch.nn.functional.conv3d`; with frozen ``weight`` and ``bias`` the input is not saved.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, *kernel]``, or a parameter that ``fold`` maps to it.
        bias: ``[C_out]`` or None.
        stride: Along D, H, W.
        padding: Zeros at both ends of D, H, W.
        fold: Maps ``weight`` to the kernel. For a frozen ``weight``, and on GPUs, the backward pass recomputes it; it
            is not saved.
        form: ``direct``; ``blocks``: on a GPU, a halving convolution of one channel as one of eight (see
            `block_conv`), else ``direct``; ``auto``: by the table of `forms.using`, or ``direct``.

    Returns:
        ``[B, C_out, ...]``, under autocast in its dtype. Any number of times differentiable.
    """
    if fold is _IDENTITY:
        form = (forms.chosen("conv3d", x, weight, stride, padding) or "direct") if form == "auto" else form
        if form == "blocks" and has_block_form(x, weight, stride, padding):
            blocks = forms.in_layout(to_blocks(_autocast(x)))
            return _dispatch(blocks, weight, bias, _BLOCKS, _ONES, (0, 0, 0), False)
        x = forms.in_layout(x)
    return _dispatch(x, weight, bias, fold, stride, padding, False)


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = _ONES,
    padding: Triple = (0, 0, 0),
    fold: Fold = _IDENTITY,
) -> Tensor:
    """Transposed convolution, kernel ``[C_in, C_out, *kernel]``; otherwise as `conv3d`."""
    return _dispatch(x, weight, bias, fold, stride, padding, True)


def _dispatch(
    x: Tensor, weight: Tensor, bias: Tensor | None, fold: Fold, stride: Triple, padding: Triple, transposed: bool
) -> Tensor:
    is_frozen = _is_frozen(x, weight, bias)
    if not is_frozen and not _differentiates_by_contraction(x, weight):
        return _convolve(x, fold.kernel(weight), bias, stride, padding, transposed, (0, 0, 0))
    x = _autocast(x)
    if not is_frozen:
        return contract(_contraction(weight, x.shape, fold, (stride, padding, transposed)), x, weight, bias)
    return _Frozen.apply(x, weight, bias, fold, stride, padding, transposed, (0, 0, 0))


def _autocast(x: Tensor) -> Tensor:
    return x.to(_autocast_dtype(x))


def _is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether only the input of a convolution needs a gradient."""
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and x.requires_grad and not learns


def _differentiates_by_contraction(x: Tensor, weight: Tensor) -> bool:
    """Return whether derivatives of a convolution are its own maps: on GPUs, where its weight learns.

    PyTorch's second derivative in the weight is a convolution with a kernel as large as the output and dilated by the
    stride, which cuDNN has no fast algorithm for; it is the gradient in the weight of a convolution, too.
    """
    return device_kind(x) == "cuda" and torch.is_grad_enabled() and weight.requires_grad


def _contraction(weight: Tensor, shape: torch.Size, fold: Fold, options: _Options) -> Contraction:
    """Return the maps of a convolution of ``x`` with this shape; a kernel has the type of the tensor that it meets."""
    dtype, kernel_shape = weight.dtype, fold.kernel(weight.detach()).shape

    def y_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(x, fold.kernel(weight).to(x.dtype), bias, *options, (0, 0, 0))

    def gradients(x: Tensor, kernel: Tensor, y: Tensor, *needed: bool) -> tuple[Tensor, Tensor]:
        stride, padding, transposed = options
        rest = (stride, padding, _ONES, transposed, (0, 0, 0), 1)
        return torch.ops.aten.convolution_backward(y, x, kernel, None, *rest, (*needed, False))[:2]

    def x_of(weight: Tensor, y: Tensor) -> Tensor:
        x = y.new_empty(1).expand(shape)  # its shape alone is read
        return gradients(x, fold.kernel(weight).to(y.dtype), y, True, False)[0]

    def weight_of(x: Tensor, y: Tensor) -> Tensor:
        kernel = y.new_empty(1).expand(kernel_shape)
        return fold.adjoint(gradients(x, kernel, y, False, True)[1].to(dtype))

    def both(x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        in_x, in_kernel = gradients(x, fold.kernel(weight).to(y.dtype), y, True, True)
        return in_x, fold.adjoint(in_kernel.to(dtype))

    return Contraction(y_of, x_of, weight_of, both)


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
        y = plain_conv3d(x, weight, bias, stride, padding)
    return y.transpose(2, 4).contiguous() if swapped else y


def plain_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Triple) -> Tensor:
    """Convolve by `torch.nn.functional.conv3d`, small volumes in bfloat16 on a CPU in float32.

    On CPUs with AVX-512 and without AMX, oneDNN (3.13) leaves gradients in weights uninitialized where 64 channels have
    2^3 voxels; the float32 of small volumes costs little.
    """
    if _autocast_dtype(x) != torch.bfloat16 or device_kind(x) != "cpu" or max(x.shape[2:]) > _SMALL_SIDE:
        return F.conv3d(x, weight, bias, stride, padding)
    with torch.autocast("cpu", enabled=False):
        wide = None if bias is None else bias.float()
        return F.conv3d(x.float(), weight.float(), wide, stride, padding).to(torch.bfloat16)


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _should_swap_axes(x: Tensor, weight: Tensor) -> bool:
    """Return whether to swap D and W: PyTorch selects oneDNN on CPU by C x D x H, which a flat volume falls below."""
    if device_kind(x) != "cpu" or len(x) > 1 or min(weight.shape[3:]) > 3:
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
        kernel, offset = fold.kernel(weight).to(x.dtype), None if bias is None else bias.to(x.dtype)
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
