"""Convolutions as what they are: linear in input and in kernel, so that each derivative is one of three maps.

<y, f(x, weight)> is linear in x, weight and y. The gradient in one of them is a map of the other two, and the
derivative of such a map is again one of the three: any number of derivatives follow from them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

_X, _WEIGHT, _Y = range(3)


class Contraction(NamedTuple):
    """The three maps of a convolution, each from the two other tensors."""

    y: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Of x, weight and bias."""
    x: Callable[[Tensor, Tensor], Tensor]
    """Of weight and y."""
    weight: Callable[[Tensor, Tensor], Tensor]
    """Of x and y."""
    both: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """x and weight, of x, weight and y."""


def contract(of: Contraction, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return y. Neither the bias nor a copy of the weight is kept for the backward pass; x is, where it learns."""
    fixed = None if bias is None else bias.detach()
    return with_bias_gradient(cast(Tensor, _Map.apply(of, _Y, x, weight, None, fixed)), bias)


def with_bias_gradient(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``y`` [B, C, ...], made with a detached ``bias``, so that the bias gets its gradient all the same."""
    return _BiasGradient.apply(y, bias) if bias is not None and bias.requires_grad else y


class _BiasGradient(torch.autograd.Function):
    """Identity with the bias gradient: that of a transposed convolution costs a weight gradient on CPU."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = bias.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad.sum((0, 2, 3, 4), dtype=ctx.dtype)


class _Map(torch.autograd.Function):
    """One of x, weight and y from the two others.

    With a frozen weight it saves no tensor: a checkpoint around it would compute it again only to save one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        of: Contraction,
        slot: int,
        x: Tensor | None,
        weight: Tensor | None,
        y: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.of, ctx.slot = of, slot
        values, learns = (x, weight, y), ctx.needs_input_grad[2:5]
        ctx.frozen = None if learns[_WEIGHT] else weight
        needed = [i != slot and any(learns[j] for j in range(3) if j not in (i, slot)) for i in range(3)]
        needed[_WEIGHT] &= ctx.frozen is None
        ctx.save_for_backward(*(value if keep else None for value, keep in zip(values, needed, strict=True)))
        if slot == _WEIGHT:
            return of.weight(cast(Tensor, x), cast(Tensor, y))
        if slot == _X:
            return of.x(cast(Tensor, weight), cast(Tensor, y))
        return of.y(cast(Tensor, x), cast(Tensor, weight), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, learns = list(ctx.saved_tensors), ctx.needs_input_grad[2:5]
        if all(learns[:2]):
            x, weight = _Both.apply(ctx.of, grad, *values[:2])
            return None, None, x, weight, None, None
        values[ctx.slot] = grad
        if ctx.frozen is not None:
            values[_WEIGHT] = ctx.frozen
        grads: list[Tensor | None] = [None, None, None]
        for i in {_X, _WEIGHT, _Y} - {ctx.slot}:
            if learns[i]:
                others = [None if j == i else value for j, value in enumerate(values)]
                grads[i] = _Map.apply(ctx.of, i, *others, None)
        return None, None, *grads, None


class _Both(torch.autograd.Function):
    """The gradients in x and in the weight, together."""

    @staticmethod
    def forward(ctx: Any, of: Contraction, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.of = of
        ctx.save_for_backward(grad, x, weight)
        return of.both(x, weight, grad)

    @staticmethod
    def backward(ctx: Any, for_x: Tensor, for_weight: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, x, weight = ctx.saved_tensors
        in_grad = _Map.apply(ctx.of, _Y, for_x, weight, None, None) + _Map.apply(ctx.of, _Y, x, for_weight, None, None)
        in_x = _Map.apply(ctx.of, _X, None, for_weight, grad, None)
        in_weight = _Map.apply(ctx.of, _WEIGHT, for_x, None, grad, None)
        return None, in_grad, in_x, in_weight
