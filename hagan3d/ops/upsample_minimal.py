"""The up-convolution by minimal filtering: 27 products per voxel of the small input, where folded taps need 64.

Along one axis, with d[i] = x[i-1] - x[i] and S = w0 + w1 + w2, output voxels 2i and 2i + 1 are S x[i] + w0 d[i] and
S x[i] - w2 d[i+1]: three products for two voxels. Along three axes that makes 27 products for 8 voxels, as many as a
3^3 convolution of the small input has, and an eighth of what the upsampled tensor would take. They are matrix products
over the channels; differences and sums are made slab by slab, in buffers that stay in the cache.

Source: Winograd, Arithmetic complexity of computations, SIAM 1980, for the idea of minimal filtering.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from hagan3d.ops.extension import LOADED

Fold = Callable[[Tensor], Tensor]

_SLAB_BYTES = 16 << 20
_LEAST_ROWS = 16
"""Rows of a slab: fewer cost more in the differences that neighbours share than they save in cache."""


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


@dataclass(frozen=True)
class _Slab:
    """How many samples, planes and rows are worked on together, and the buffers for it."""

    samples: int
    planes: int
    rows: int
    width: int
    c_in: int
    c_out: int
    like: Tensor

    @cached_property
    def spread(self) -> Tensor:
        """The input and its differences, one array after the other."""
        return self._empty_spread()

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient in ``spread``."""
        return self._empty_spread()

    @cached_property
    def products(self) -> Tensor:
        """What x and its differences give times the weights, one block after the other."""
        return self.like.new_empty(sum(self.c_out * rows * columns for rows, columns in self._blocks))

    def _empty_spread(self) -> Tensor:
        return self.like.new_empty(sum(self.c_in * self._columns(d, h) for d, h, _ in _bits(3)))

    def _columns(self, d: int, h: int) -> int:
        return (self.planes + d) * self.samples * (self.rows + h) * (self.width + 1)

    @cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        """Rows of weights and columns of each of the 12 matrix products: 3 along D, times x or differences."""
        return [(1 << (h + w), self._columns(0, h)) for _ in range(3) for h, w in _bits(2)]

    @cached_property
    def factors(self) -> list[Tensor]:
        """The part of ``spread`` that each matrix product takes."""
        return self._parts(self.spread)

    @cached_property
    def factor_gradients(self) -> list[Tensor]:
        """The same parts of ``gradient``."""
        return self._parts(self.gradient)

    @cached_property
    def results(self) -> list[Tensor]:
        """The part of ``products`` that each matrix product makes."""
        parts = self.products.split([self.c_out * rows * columns for rows, columns in self._blocks])
        return [
            part.view(rows * self.c_out, columns) for part, (rows, columns) in zip(parts, self._blocks, strict=True)
        ]

    def _parts(self, spread: Tensor) -> list[Tensor]:
        arrays = spread.split([self.c_in * self._columns(d, h) for d, h, _ in _bits(3)])
        plain, along_d = ([a.view(self.c_in, -1) for a in arrays[i : i + 4]] for i in (0, 4))
        columns = [p.shape[1] for p in plain]
        first = [a[:, :n] for a, n in zip(along_d, columns, strict=True)]
        last = [a[:, -n:] for a, n in zip(along_d, columns, strict=True)]  # w2 is with the difference one plane on
        return plain + first + last

    def multiply_back(self, weights: list[Tensor]) -> None:
        """Fill ``gradient`` from the gradients in the products, those being in ``products``."""
        self.gradient[-sum(self.c_in * self._columns(1, h) for h, _ in _bits(2)) :].zero_()
        for i, (weight, result) in enumerate(zip(weights, self.results, strict=True)):
            to = self.factor_gradients[i]
            torch.mm(weight.t(), result, out=to) if i < 4 else torch.addmm(to, weight.t(), result, out=to)


def _bits(n: int) -> list[tuple[int, ...]]:
    return [tuple(i >> (n - 1 - k) & 1 for k in range(n)) for i in range(1 << n)]


def _slabs(x: Tensor, c_out: int) -> Iterator[tuple[_Slab, list[int]]]:
    """Give slabs of the small tensor and where they are; those of one shape share their buffers."""
    B, c_in, D, H, W = x.shape
    room = max(1, _SLAB_BYTES // ((8 * c_in + 27 * c_out) * x.element_size() * (W + 1)))  # rows
    rows = min(H, max(_LEAST_ROWS, room - 1))
    planes = min(D, max(1, room // (rows + 1)))
    samples = min(B, max(1, room // ((rows + 1) * (planes + 1)))) if planes == D and rows == H else 1
    made: dict[tuple[int, int, int], _Slab] = {}
    for first in itertools.product(range(0, B, samples), range(0, D, planes), range(0, H, rows)):
        shape = (min(samples, B - first[0]), min(planes, D - first[1]), min(rows, H - first[2]))
        if shape not in made:
            made[shape] = _Slab(*shape, W, c_in, c_out, x)
        yield made[shape], [i for pair in zip(first, shape, strict=True) for i in pair]


def _rows(folded: Tensor) -> list[Tensor]:
    """Give the matrices of the 12 products."""
    c_out = len(folded) // 27
    return list(folded.split([c_out << (h + w) for _ in range(3) for h, w in _bits(2)]))


def _y(x: Tensor, folded: Tensor, bias: Tensor | None, trim: int) -> Tensor:
    """Up-convolve ``x [B, C_in, D, H, W]``."""
    x, weights = x.contiguous(), _rows(folded)
    y = _fake_y(x, folded, bias, trim)
    for slab, where in _slabs(x, y.shape[1]):
        torch.ops.hagan3d.upsample_spread(x, slab.spread, where)
        for weight, factor, result in zip(weights, slab.factors, slab.results, strict=True):
            torch.mm(weight, factor, out=result)
        torch.ops.hagan3d.upsample_join(slab.products, bias, y, where, trim)
    return y


def _x(grad: Tensor, folded: Tensor, trim: int) -> Tensor:
    """Give the gradient in x of ``_y`` for ``grad [B, C_out, 2 D - 2 trim, 2 H, 2 W]``."""
    grad, x, weights = grad.contiguous(), _fake_x(grad, folded, trim).zero_(), _rows(folded)
    for slab, where in _slabs(x, grad.shape[1]):
        torch.ops.hagan3d.upsample_split(grad, slab.products, where, trim)
        slab.multiply_back(weights)
        torch.ops.hagan3d.upsample_gather(slab.gradient, x, where)
    return x


def _weight(grad: Tensor, x: Tensor, trim: int) -> Tensor:
    """Give the gradient in the 3^3 kernel ``[C_out, C_in, 3, 3, 3]``."""
    return _gradients(grad, x, None, trim)[1]


def _both(grad: Tensor, x: Tensor, folded: Tensor, trim: int) -> tuple[Tensor, Tensor]:
    """Give both gradients in one pass."""
    return _gradients(grad, x, folded, trim)


def _gradients(grad: Tensor, x: Tensor, folded: Tensor | None, trim: int) -> tuple[Tensor, Tensor]:
    """Give the gradient in x, zero without ``folded``, and that in the kernel."""
    grad, x, x_grad = grad.contiguous(), x.contiguous(), torch.zeros_like(x, memory_format=torch.contiguous_format)
    c_out, c_in = grad.shape[1], x.shape[1]
    sums = x.new_zeros(27 * c_out, c_in)
    for slab, where in _slabs(x, c_out):
        torch.ops.hagan3d.upsample_spread(x, slab.spread, where)
        torch.ops.hagan3d.upsample_split(grad, slab.products, where, trim)
        for total, factor, result in zip(_rows(sums), slab.factors, slab.results, strict=True):
            torch.addmm(total, result, factor.t(), out=total)
        if folded is not None:
            slab.multiply_back(_rows(folded))
            torch.ops.hagan3d.upsample_gather(slab.gradient, x_grad, where)
    return x_grad, (sums.view(27, -1).t() @ _products(x)).view(c_out, c_in, 3, 3, 3)


def _fake_y(x: Tensor, folded: Tensor, bias: Tensor | None, trim: int) -> Tensor:
    B, _, D, H, W = x.shape
    return x.new_empty(B, len(folded) // 27, 2 * D - 2 * trim, 2 * H, 2 * W)


def _fake_x(grad: Tensor, folded: Tensor, trim: int) -> Tensor:
    B, _, depth, height, width = grad.shape
    return grad.new_empty(B, folded.shape[1], depth // 2 + trim, height // 2, width // 2)


def _fake_weight(grad: Tensor, x: Tensor, trim: int) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3, 3)


def _fake_both(grad: Tensor, x: Tensor, folded: Tensor, trim: int) -> tuple[Tensor, Tensor]:
    return _fake_x(grad, folded, trim), _fake_weight(grad, x, trim)


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
        if slot == _WEIGHT:
            return torch.ops.hagan3d.upsample_minimal_weight(y, x, trim)
        folded = fold(cast(Tensor, weight))
        if slot == _X:
            return torch.ops.hagan3d.upsample_minimal_x(y, folded, trim)
        return torch.ops.hagan3d.upsample_minimal(x, folded, bias, trim)

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
        return torch.ops.hagan3d.upsample_minimal_both(grad, x, fold(weight), trim)

    @staticmethod
    def backward(ctx: Any, for_x: Tensor, for_weight: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, x, weight = ctx.saved_tensors
        in_grad = _Contraction.apply(_Y, for_x, weight, None, *ctx.options)
        in_grad = in_grad + _Contraction.apply(_Y, x, for_weight, None, *ctx.options)
        in_x = _Contraction.apply(_X, None, for_weight, grad, *ctx.options)
        in_weight = _Contraction.apply(_WEIGHT, for_x, None, grad, *ctx.options)
        return in_grad, in_x, in_weight, None, None


def _register(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> None:
    operator = torch.library.custom_op(f"hagan3d::{name}", function, mutates_args=(), device_types="cpu")
    operator.register_fake(fake)


if LOADED:
    _register("upsample_minimal", _y, _fake_y)
    _register("upsample_minimal_x", _x, _fake_x)
    _register("upsample_minimal_weight", _weight, _fake_weight)
    _register("upsample_minimal_both", _both, _fake_both)
