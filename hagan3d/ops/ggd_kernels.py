"""Autograd formulas and fake kernels of the compiled generalized Gaussian operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hagan3d.ops.extension import LOADED
from hagan3d.ops.ggd_reference import guide_reference, nll_reference, sigma_reference
from hagan3d.ops.second_order import backward_through_reference

_ops = torch.ops.hagan3d


def nll_mean(error: Tensor, log_scale: Tensor, log_shape: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean of the negative log likelihood; its gradients come from the same pass, in float32 and float64.

    Gradients of a mean underflow in float16 and would be rounded twice in bfloat16: there the backward pass recomputes
    them from the inputs.
    """
    wide = torch.promote_types(error.dtype, torch.float32)
    if weight is None:
        factor = torch.full((), 1 / max(1, error.numel()), dtype=wide, device=error.device)
    else:
        total = weight.sum(dtype=wide) * (error.shape[1] / max(1, weight.shape[1]))
        factor = torch.where(total > 0, total, 1).reciprocal()
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (error, log_scale, log_shape))
    with_gradients = differentiable and error.dtype == wide
    return _ops.ggd_nll_mean(error, log_scale, log_shape, weight, factor, with_gradients)[0]


def _setup_mean(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.with_gradients = inputs
    ctx.save_for_backward(*(output[1:] if ctx.with_gradients else tensors))
    ctx.set_materialize_grads(False)


def _mean_backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(other is not None for other in others):
        raise RuntimeError("ggd_nll: reduction 'mean' has no second derivative; use 'none' and take the mean")
    if grad is None:
        return (None,) * 6
    if ctx.with_gradients:
        gradients = _times(grad, ctx.saved_tensors)
    else:
        error, log_scale, log_shape, weight, factor = ctx.saved_tensors
        gradients = _ops.ggd_nll_backward(grad * factor, error, log_scale, log_shape, weight)
    return *gradients, None, None, None


def _times(factor: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Multiply the saved gradients by ``factor``: in place if the graph is not retained."""
    graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph
    if type(factor) is not Tensor or graph_is_kept():
        return tuple(factor * gradient for gradient in gradients)
    _ops.ggd_scale_(*gradients, factor)
    return gradients


def _setup_nll(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _nll_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_ops.ggd_nll_backward(grad, *ctx.saved_tensors), None


def _nll_second(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, error, log_scale, log_shape, weight = ctx.saved_tensors

    def reference(error: Tensor, log_scale: Tensor, log_shape: Tensor) -> Tensor:
        return nll_reference(error, log_scale, log_shape, weight)

    return *backward_through_reference(reference, (error, log_scale, log_shape), grad, cotangents), None


def _setup_sigma(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.log = inputs
    ctx.save_for_backward(*tensors)


def _sigma_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_ops.ggd_sigma_backward(grad, *ctx.saved_tensors, ctx.log), None


def _sigma_second(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *inputs = ctx.saved_tensors

    def reference(log_scale: Tensor, log_shape: Tensor) -> Tensor:
        return sigma_reference(log_scale, log_shape, ctx.log)

    return *backward_through_reference(reference, inputs, grad, cotangents), None


def _setup_mean_sigma(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _mean_sigma_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    log_scale, log_shape = ctx.saved_tensors
    spread = (grad / max(1, log_scale[0].numel())).to(log_scale.dtype).view(-1, 1, 1, 1, 1)
    return _ops.ggd_sigma_backward(spread.expand_as(log_scale), log_scale, log_shape, False)


def _setup_guide(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.limit = inputs
    ctx.save_for_backward(*tensors)


def _guide_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_ops.ggd_guide_backward(grad, *ctx.saved_tensors, ctx.limit), None


def _guide_second(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *inputs = ctx.saved_tensors

    def reference(value: Tensor, log_scale: Tensor, log_shape: Tensor, mean: Tensor) -> Tensor:
        return guide_reference(value, log_scale, log_shape, mean, ctx.limit)

    return *backward_through_reference(reference, inputs, grad, cotangents), None


def _empty_like_each(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors)


def _fake_mean(
    error: Tensor, log_scale: Tensor, log_shape: Tensor, weight: Tensor | None, factor: Tensor, with_gradients: bool
) -> tuple[Tensor, ...]:
    tensors = (error, log_scale, log_shape)
    gradients = _empty_like_each(*tensors) if with_gradients else (error.new_empty(0) for _ in tensors)
    return torch.empty_like(factor), *gradients


def _fake_mean_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    return log_scale.new_empty(log_scale.shape[:1], dtype=torch.promote_types(log_scale.dtype, torch.float32))


def _register() -> None:
    fakes: dict[str, Callable[..., Any]] = {
        "ggd_nll": lambda error, *_: _empty_like_each(error)[0],
        "ggd_nll_backward": lambda _grad, *inputs: _empty_like_each(*inputs[:3]),
        "ggd_nll_mean": _fake_mean,
        "ggd_scale_": lambda *_: None,
        "ggd_sigma": lambda log_scale, *_: _empty_like_each(log_scale)[0],
        "ggd_sigma_backward": lambda _grad, *inputs: _empty_like_each(*inputs[:2]),
        "ggd_sigma_mean": _fake_mean_sigma,
        "ggd_guide": lambda value, *_: _empty_like_each(value)[0],
        "ggd_guide_backward": lambda _grad, *inputs: _empty_like_each(*inputs[:4]),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"hagan3d::{name}", fake)
    derivatives: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "ggd_nll": (_nll_backward, _setup_nll),
        "ggd_nll_backward": (_nll_second, _setup_nll),
        "ggd_nll_mean": (_mean_backward, _setup_mean),
        "ggd_sigma": (_sigma_backward, _setup_sigma),
        "ggd_sigma_backward": (_sigma_second, _setup_sigma),
        "ggd_sigma_mean": (_mean_sigma_backward, _setup_mean_sigma),
        "ggd_guide": (_guide_backward, _setup_guide),
        "ggd_guide_backward": (_guide_second, _setup_guide),
    }
    for name, (backward, setup_context) in derivatives.items():
        torch.library.register_autograd(f"hagan3d::{name}", backward, setup_context=setup_context)


if LOADED:
    _register()
