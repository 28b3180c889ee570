"""3^3 convolutions by minimal filtering along D and H: 12 products per voxel instead of 27 (csrc/cpu/conv_minimal.cpp).

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
    """Convolve with a 3^3 kernel, on a CPU with compiled operators, in float32 or float64.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, 3, 3, 3]``.
        bias: ``[C_out]`` or None.
        padding: Zeros at both ends of D, at most 2; at those of H and W there is one.

    Returns:
        ``[B, C_out, D + 2 * padding - 2, H, W]``. Any number of times differentiable.
    """

    def of_y(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.hagan3d.conv_minimal(
            x.contiguous(), fold_taps(weight, _taps(weight)), bias, padding, _SLAB_BYTES
        )

    def of_x(weight: Tensor, y: Tensor) -> Tensor:
        turned = fold_taps(weight.flip(2, 3, 4).transpose(0, 1), _taps(weight))
        return torch.ops.hagan3d.conv_minimal(y.contiguous(), turned, None, 2 - padding, _SLAB_BYTES)

    def of_weight(x: Tensor, y: Tensor) -> Tensor:
        sums = torch.ops.hagan3d.conv_minimal_products(y.contiguous(), x.contiguous(), padding, _SLAB_BYTES)
        return unfold_taps(sums, _taps(sums))

    def both(x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return of_x(weight, y), of_weight(x, y)

    return contract(Contraction(of_y, of_x, of_weight, both), x, weight, bias)


def _taps(weight: Tensor) -> Tensor:
    """Which of the 27 taps each of the 48 products sums."""
    filters = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(torch.kron(filters, filters), torch.eye(3, dtype=weight.dtype, device=weight.device))


if LOADED:

    @torch.library.register_fake("hagan3d::conv_minimal")
    def _(x: Tensor, folded: Tensor, bias: Tensor | None, padding: int, slab_bytes: int) -> Tensor:
        B, _, D, H, W = x.shape
        return x.new_empty(B, len(folded) // _PRODUCTS, D + 2 * padding - 2, H, W)

    @torch.library.register_fake("hagan3d::conv_minimal_products")
    def _(grad: Tensor, x: Tensor, padding: int, slab_bytes: int) -> Tensor:
        return x.new_empty(_PRODUCTS * grad.shape[1], x.shape[1])

    @register_flop_formula(torch.ops.hagan3d.conv_minimal)
    def _(x: Sequence[int], folded: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        return 2 * math.prod(folded) * _tiles(out_shape)

    @register_flop_formula(torch.ops.hagan3d.conv_minimal_products)
    def _(grad: Sequence[int], x: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * _PRODUCTS * grad[1] * x[1] * _tiles(grad)


def _tiles(y: Sequence[int]) -> int:
    """Count the places of four voxels, two along D and two along H, in ``[B, C, D, H, W]``."""
    return y[0] * math.ceil(y[2] / 2) * math.ceil(y[3] / 2) * y[4]
