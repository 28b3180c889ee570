"""3^3 convolution by Winograd's F(2, 3) along D and H: 12 products per voxel, not 27 (csrc/cpu/winograd/conv.cpp).

Source: Winograd, Arithmetic complexity of computations, SIAM 1980; Lavin and Gray, Fast algorithms for convolutional
neural networks, CVPR 2016.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hagan3d.ops.extension import LOADED
from hagan3d.ops.winograd.contraction import Contraction, contract
from hagan3d.ops.winograd.taps import fold_taps, unfold_taps

_PRODUCTS = 48  # 4 along D, 4 along H, 3 along W
_SLAB_BYTES = 4 << 20


def conv3d_winograd(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """3^3 convolution with stride 1, for inputs that `has_winograd`.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, 3, 3, 3]``.
        bias: ``[C_out]`` or None.
        padding: Zeros at both ends of D, at most 2; at those of H and W it is 1.

    Returns:
        ``[B, C_out, D + 2 * padding - 2, H, W]``. Any number of times differentiable.
    """

    def of_y(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.hagan3d.winograd_conv(
            x.contiguous(), fold_taps(weight, _taps(weight)), bias, padding, _SLAB_BYTES
        )

    def of_x(weight: Tensor, y: Tensor) -> Tensor:
        folded = fold_taps(weight.flip(2, 3, 4).transpose(0, 1), _taps(weight))
        return torch.ops.hagan3d.winograd_conv(y.contiguous(), folded, None, 2 - padding, _SLAB_BYTES)

    def of_weight(x: Tensor, y: Tensor) -> Tensor:
        sums = torch.ops.hagan3d.winograd_conv_weight(y.contiguous(), x.contiguous(), padding, _SLAB_BYTES)
        return unfold_taps(sums, _taps(sums))

    def both(x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return of_x(weight, y), of_weight(x, y)

    return contract(Contraction(of_y, of_x, of_weight, both), x, weight, bias)


def _taps(weight: Tensor) -> Tensor:
    """Coefficients ``[48, 27]`` of the weight transform."""
    filters = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(torch.kron(filters, filters), torch.eye(3, dtype=weight.dtype, device=weight.device))


if LOADED:

    @torch.library.register_fake("hagan3d::winograd_conv")
    def _(x: Tensor, folded: Tensor, bias: Tensor | None, padding: int, slab_bytes: int) -> Tensor:
        B, _, D, H, W = x.shape
        return x.new_empty(B, len(folded) // _PRODUCTS, D + 2 * padding - 2, H, W)

    @torch.library.register_fake("hagan3d::winograd_conv_weight")
    def _(grad: Tensor, x: Tensor, padding: int, slab_bytes: int) -> Tensor:
        return x.new_empty(_PRODUCTS * grad.shape[1], x.shape[1])

    @register_flop_formula(torch.ops.hagan3d.winograd_conv)
    def _(x: Sequence[int], folded: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        return 2 * math.prod(folded) * _tiles(out_shape)

    @register_flop_formula(torch.ops.hagan3d.winograd_conv_weight)
    def _(grad: Sequence[int], x: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * _PRODUCTS * grad[1] * x[1] * _tiles(grad)


def _tiles(y: Sequence[int]) -> int:
    """Number of tiles, of two voxels along D and two along H, in ``[B, C, D, H, W]``."""
    return y[0] * math.ceil(y[2] / 2) * math.ceil(y[3] / 2) * y[4]
