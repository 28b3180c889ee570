"""Up-convolution by Winograd's minimal filtering: 27 products per input voxel, where folded taps need 64.

Along one axis, with d[i] = x[i-1] - x[i] and S = w0 + w1 + w2, output voxels 2i and 2i + 1 are S x[i] + w0 d[i] and
S x[i] - w2 d[i+1]: three products for two voxels. Along three axes that is 27 products per 8 voxels, as many as a 3^3
convolution of the small input, and an eighth of one of the upsampled tensor. They are matrix products over channels;
the transforms run slab by slab in buffers that fit the cache, one slab per thread.

Source: Winograd, Arithmetic complexity of computations, SIAM 1980, for minimal filtering.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hagan3d.ops.contraction import Contraction, contract
from hagan3d.ops.extension import LOADED
from hagan3d.ops.winograd.taps import fold_taps, unfold_taps

_SLAB_BYTES = 4 << 20


def upsample_conv3d_winograd(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int) -> Tensor:
    """``upsample_conv3d`` for inputs that `has_winograd`."""
    ops, options = torch.ops.hagan3d, (trim, _SLAB_BYTES)

    def both(x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, sums = ops.winograd_upsample_both(y.contiguous(), x.contiguous(), fold_products(weight), *options)
        return x, unfold_taps(sums, _products(sums))

    def of_weight(x: Tensor, y: Tensor) -> Tensor:
        sums = ops.winograd_upsample_weight(y.contiguous(), x.contiguous(), *options)
        return unfold_taps(sums, _products(sums))

    contraction = Contraction(
        y=lambda x, weight, bias: ops.winograd_upsample(
            x.contiguous(), fold_products(weight), None if bias is None else bias.contiguous(), *options
        ),
        x=lambda weight, y: ops.winograd_upsample_x(y.contiguous(), fold_products(weight), *options),
        weight=of_weight,
        both=both,
    )
    return contract(contraction, x, weight, bias)


def fold_products(weight: Tensor) -> Tensor:
    """Transform a 3^3 kernel ``[C_out, C_in, 3, 3, 3]`` to the weights of the 27 products ``[27 * C_out, C_in]``."""
    return fold_taps(weight, _products(weight))


def _products(weight: Tensor) -> Tensor:
    """Coefficients ``[27, 27]`` of the weight transform, in the order of a slab; along one axis S, w0, -w2."""
    axis = weight.new_tensor([[1, 1, 1], [1, 0, 0], [0, 0, -1]])
    taps = torch.kron(torch.kron(axis, axis), axis)
    kinds = ([0], [1, 2])  # of products: with x, and with its differences
    order = [9 * d + 3 * h + w for d in range(3) for i in kinds for j in kinds for h in i for w in j]
    return taps[order]


if LOADED:

    @torch.library.register_fake("hagan3d::winograd_upsample")
    def _(x: Tensor, folded: Tensor, bias: Tensor | None, trim: int, slab_bytes: int) -> Tensor:
        B, _, D, H, W = x.shape
        return x.new_empty(B, len(folded) // 27, 2 * D - 2 * trim, 2 * H, 2 * W)

    @torch.library.register_fake("hagan3d::winograd_upsample_x")
    def _(grad: Tensor, folded: Tensor, trim: int, slab_bytes: int) -> Tensor:
        B, _, depth, height, width = grad.shape
        return grad.new_empty(B, folded.shape[1], depth // 2 + trim, height // 2, width // 2)

    @torch.library.register_fake("hagan3d::winograd_upsample_weight")
    def _(grad: Tensor, x: Tensor, trim: int, slab_bytes: int) -> Tensor:
        return x.new_empty(27 * grad.shape[1], x.shape[1])

    @torch.library.register_fake("hagan3d::winograd_upsample_both")
    def _(grad: Tensor, x: Tensor, folded: Tensor, trim: int, slab_bytes: int) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(folded)

    ops = torch.ops.hagan3d

    @register_flop_formula([ops.winograd_upsample, ops.winograd_upsample_x])
    def _(x: Sequence[int], folded: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        small = min(x, out_shape, key=lambda shape: shape[3])  # not D, which trimming may halve
        return 2 * math.prod(folded) * small[0] * math.prod(small[2:])

    @register_flop_formula([ops.winograd_upsample_weight, ops.winograd_upsample_both])
    def _(grad: Sequence[int], x: Sequence[int], *rest: Any, **_: Any) -> int:
        products = 1 if isinstance(rest[0], int) else 2
        return products * 2 * 27 * grad[1] * math.prod(x)
