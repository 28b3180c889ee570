"""The up-convolution by minimal filtering: 27 products per voxel of the small input, where folded taps need 64.

Along one axis, with d[i] = x[i-1] - x[i] and S = w0 + w1 + w2, output voxels 2i and 2i + 1 are S x[i] + w0 d[i] and
S x[i] - w2 d[i+1]: three products for two voxels. Along three axes that makes 27 products for 8 voxels, as many as a
3^3 convolution of the small input has, and an eighth of what the upsampled tensor would take. They are matrix products
over the channels; differences and sums are made slab by slab, in buffers that stay in the cache, a slab to a thread.

Source: Winograd, Arithmetic complexity of computations, SIAM 1980, for the idea of minimal filtering.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hagan3d.ops.extension import LOADED

Fold = Callable[[Tensor], Tensor]

_SLAB_BYTES = 4 << 20


def upsample_conv3d_minimal(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int, fold: Fold) -> Tensor:
    """``upsample_conv3d`` by minimal filtering, on a CPU with compiled operators, in float32 or float64.

    Neither the bias nor a copy of the weights is kept for the backward pass; x is, where the weight learns.
    """
    return cast(Tensor, _Contraction.apply(_Y, x, weight, None, bias, trim, fold))


def fold_minimal(weight: Tensor) -> Tensor:
    """Fold a 3^3 kernel ``[C_out, C_in, 3, 3, 3]`` into the 27 matrices of the products ``[27 * C_out, C_in]``."""
    c_out, c_in = weight.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        return (_products(weight) @ weight.reshape(-1, 27).t()).view(27 * c_out, c_in)


def _products(weight: Tensor) -> Tensor:
    """Which taps each of the 27 products sums, block by block as a slab has them: along an axis S, w0, -w2."""
    axis = weight.new_tensor([[1, 1, 1], [1, 0, 0], [0, 0, -1]])
    taps = torch.kron(torch.kron(axis, axis), axis)
    kinds = ([0], [1, 2])  # of products with x, and with its differences
    order = [9 * d + 3 * h + w for d in range(3) for i in kinds for j in kinds for h in i for w in j]
    return taps[order]


def _kernel(sums: Tensor) -> Tensor:
    """Give the gradient in the kernel ``[C_out, C_in, 3, 3, 3]`` from that in its fold ``[27 * C_out, C_in]``."""
    return (sums.view(27, -1).t() @ _products(sums)).view(-1, sums.shape[1], 3, 3, 3)


_X, _WEIGHT, _Y = range(3)


class _Contraction(torch.autograd.Function):
    """One of x, weight and y from the two others, as the gradient of <y, upsample_conv3d(x, weight)> in it.

    That is linear in each of the three, so that the derivatives of one are the two others, any number of times. With
    a frozen weight it saves no tensor: a checkpoint around it would compute it again only to save one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        slot: int,
        x: Tensor | None,
        weight: Tensor | None,
        y: Tensor | None,
        bias: Tensor | None,
        trim: int,
        fold: Fold,
    ) -> Tensor:
        ctx.slot, ctx.trim, ctx.fold = slot, trim, fold
        values, learns = (x, weight, y), ctx.needs_input_grad[1:4]
        ctx.frozen = None if learns[_WEIGHT] else weight
        needed = [i != slot and any(learns[j] for j in range(3) if j not in (i, slot)) for i in range(3)]
        needed[_WEIGHT] &= ctx.frozen is None
        ctx.save_for_backward(*(value if keep else None for value, keep in zip(values, needed, strict=True)))
        x, y = (None if value is None else value.contiguous() for value in (x, y))
        if slot == _WEIGHT:
            return _kernel(torch.ops.hagan3d.upsample_minimal_products(y, x, trim, _SLAB_BYTES))
        folded = fold(cast(Tensor, weight))
        if slot == _X:
            return torch.ops.hagan3d.upsample_minimal_x(y, folded, trim, _SLAB_BYTES)
        return torch.ops.hagan3d.upsample_minimal(x, folded, bias, trim, _SLAB_BYTES)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, learns = list(ctx.saved_tensors), ctx.needs_input_grad[1:4]
        if all(learns[:2]):
            x, weight = _Gradients.apply(grad, *values[:2], ctx.trim, ctx.fold)
            return None, x, weight, None, None, None, None
        values[ctx.slot] = grad
        if ctx.frozen is not None:
            values[_WEIGHT] = ctx.frozen
        grads: list[Tensor | None] = [None, None, None]
        for i in {_X, _WEIGHT, _Y} - {ctx.slot}:
            if learns[i]:
                others = [None if j == i else value for j, value in enumerate(values)]
                grads[i] = _Contraction.apply(i, *others, None, ctx.trim, ctx.fold)
        return None, *grads, None, None, None


class _Gradients(torch.autograd.Function):
    """The gradients in x and in the weight, together."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, trim: int, fold: Fold) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(grad, x, weight)
        ctx.options = (None, trim, fold)
        grad, x = grad.contiguous(), x.contiguous()
        x_grad, sums = torch.ops.hagan3d.upsample_minimal_both(grad, x, fold(weight), trim, _SLAB_BYTES)
        return x_grad, _kernel(sums)

    @staticmethod
    def backward(ctx: Any, for_x: Tensor, for_weight: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, x, weight = ctx.saved_tensors
        in_grad = _Contraction.apply(_Y, for_x, weight, None, *ctx.options)
        in_grad = in_grad + _Contraction.apply(_Y, x, for_weight, None, *ctx.options)
        in_x = _Contraction.apply(_X, None, for_weight, grad, *ctx.options)
        in_weight = _Contraction.apply(_WEIGHT, for_x, None, grad, *ctx.options)
        return in_grad, in_x, in_weight, None, None


if LOADED:

    @torch.library.register_fake("hagan3d::upsample_minimal")
    def _(x: Tensor, folded: Tensor, bias: Tensor | None, trim: int, slab_bytes: int) -> Tensor:
        B, _, D, H, W = x.shape
        return x.new_empty(B, len(folded) // 27, 2 * D - 2 * trim, 2 * H, 2 * W)

    @torch.library.register_fake("hagan3d::upsample_minimal_x")
    def _(grad: Tensor, folded: Tensor, trim: int, slab_bytes: int) -> Tensor:
        B, _, depth, height, width = grad.shape
        return grad.new_empty(B, folded.shape[1], depth // 2 + trim, height // 2, width // 2)

    @torch.library.register_fake("hagan3d::upsample_minimal_products")
    def _(grad: Tensor, x: Tensor, trim: int, slab_bytes: int) -> Tensor:
        return x.new_empty(27 * grad.shape[1], x.shape[1])

    @torch.library.register_fake("hagan3d::upsample_minimal_both")
    def _(grad: Tensor, x: Tensor, folded: Tensor, trim: int, slab_bytes: int) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(folded)

    ops = torch.ops.hagan3d

    @register_flop_formula([ops.upsample_minimal, ops.upsample_minimal_x])
    def _(x: Sequence[int], folded: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        small = min(x, out_shape, key=lambda shape: shape[3])  # of D, trimming may leave as much
        return 2 * math.prod(folded) * small[0] * math.prod(small[2:])

    @register_flop_formula([ops.upsample_minimal_products, ops.upsample_minimal_both])
    def _(grad: Sequence[int], x: Sequence[int], *rest: Any, **_: Any) -> int:
        products = 1 if isinstance(rest[0], int) else 2
        return products * 2 * 27 * grad[1] * math.prod(x)
