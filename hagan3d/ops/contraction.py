"""Autograd for bilinear ops: a convolution and its two gradients form a closed set of three maps.

The form <y, f(x, weight)> is linear in each of x, weight and y. The gradient in one of the three is a map of the other
two, and the derivative of this map is again one of the three, so all higher derivatives reuse them.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

_X, _WEIGHT, _Y = range(3)


class Contraction(NamedTuple):
    """The three maps of a convolution; each returns one of x, weight and y from the two others."""

    y: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x, weight, bias) to y: the convolution."""
    x: Callable[[Tensor, Tensor], Tensor]
    """(weight, y) to x: the gradient in x, if y is the output gradient."""
    weight: Callable[[Tensor, Tensor], Tensor]
    """(x, y) to weight: the gradient in the weight, if y is the output gradient."""
    both: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(x, weight, y) to both gradients, which share a transform of y."""


def contract(of: Contraction, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return y. The backward pass saves x only if the weight needs a gradient, and neither bias nor a weight copy."""
    detached = None if bias is None else bias.detach()
    return with_bias_gradient(cast(Tensor, _Map.apply(of, _Y, x, weight, None, detached)), bias)


def with_bias_gradient(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``y`` ``[B, C, ...]``, computed with a detached ``bias``, with the gradient of the bias attached."""
    return _BiasGradient.apply(y, bias) if bias is not None and bias.requires_grad else y


class _BiasGradient(torch.autograd.Function):
    """Identity that adds the bias gradient: on CPU, PyTorch computes a weight gradient along with that of a bias.

    It works in place, since a view made here could not be overwritten by the activation that follows.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = bias.dtype
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad.sum((0, 2, 3, 4), dtype=ctx.dtype)


class _Map(torch.autograd.Function):
    """The map to one of x, weight and y (`slot`) from the two others.

    With a frozen weight it saves no tensor, so that activation checkpointing around it does not recompute it.
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
        ctx.given = [i for i, tensor in enumerate((x, weight, y)) if tensor is not None]
        needs_grad = ctx.needs_input_grad[2:5]  # x, weight, y
        ctx.frozen_weight = None if needs_grad[_WEIGHT] else weight
        # A tensor is saved if another input of the map needs a gradient.
        saved = [i != slot and any(needs_grad[j] for j in range(3) if j not in (i, slot)) for i in range(3)]
        saved[_WEIGHT] &= ctx.frozen_weight is None
        ctx.save_for_backward(*(t if is_saved else None for t, is_saved in zip((x, weight, y), saved, strict=True)))
        if slot == _WEIGHT:
            return of.weight(cast(Tensor, x), cast(Tensor, y))
        if slot == _X:
            return of.x(cast(Tensor, weight), cast(Tensor, y))
        return of.y(cast(Tensor, x), cast(Tensor, weight), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tensors, needs_grad = list(ctx.saved_tensors), _needed(ctx)
        if needs_grad[_X] and needs_grad[_WEIGHT]:
            x, weight = _Both.apply(ctx.of, grad, *tensors[:2])
            return None, None, x, weight, None, None
        tensors[ctx.slot] = grad
        if ctx.frozen_weight is not None:
            tensors[_WEIGHT] = ctx.frozen_weight
        grads: list[Tensor | None] = [None, None, None]
        for i in {_X, _WEIGHT, _Y} - {ctx.slot}:
            if needs_grad[i]:
                others = [None if j == i else tensor for j, tensor in enumerate(tensors)]
                grads[i] = _Map.apply(ctx.of, i, *others, None)
        return None, None, *grads, None


def _needed(ctx: Any) -> list[bool]:
    """Return whether this backward pass needs the gradients in x, weight and y.

    That of a penalty needs the gradient in x alone, and the one in the weight would take as long again.
    """
    needs_grad = list(ctx.needs_input_grad[2:5])
    if torch.compiler.is_compiling():
        return needs_grad
    for (node, _), i in zip(ctx.next_functions, ctx.given, strict=False):
        if needs_grad[i] and node is not None:
            with contextlib.suppress(RuntimeError):  # raised for a leaf, whose gradient is returned
                needs_grad[i] = torch._C._will_engine_execute_node(node)
    return needs_grad


class _Both(torch.autograd.Function):
    """The gradients in x and in the weight, computed together."""

    @staticmethod
    def forward(ctx: Any, of: Contraction, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.of = of
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        return of.both(x, weight, grad)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, x_cotangent: Tensor | None, weight_cotangent: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (grad, x, weight), of = ctx.saved_tensors, ctx.of
        in_grad = in_x = in_weight = None
        if x_cotangent is not None:
            in_grad = _Map.apply(of, _Y, x_cotangent, weight, None, None)
            in_weight = _Map.apply(of, _WEIGHT, x_cotangent, None, grad, None)
        if weight_cotangent is not None:
            second = _Map.apply(of, _Y, x, weight_cotangent, None, None)
            in_grad = second if in_grad is None else in_grad + second
            in_x = _Map.apply(of, _X, None, weight_cotangent, grad, None)
        return None, in_grad, in_x, in_weight
