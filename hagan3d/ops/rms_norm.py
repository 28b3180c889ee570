"""Root-mean-square normalization over the channels of each voxel, fused with its activation."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hagan3d.ops import forms
from hagan3d.ops.extension import LOADED, has_kernels
from hagan3d.ops.second_order import backward_through_reference, saving_inputs

ACTIVATIONS = ("none", "relu")


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", eps: float = 1e-6) -> Tensor:
    """Normalize each voxel by the root mean square of its channels, then scale, shift and activate.

    Computed in at least float32. There are no statistics over space, so a window equals those slices of the volume.

    Args:
        x: Feature maps ``[B, C, D, H, W]``.
        weight: Scale per channel ``[C]``.
        bias: Offset per channel ``[C]``.
        activation: ``none`` or ``relu``.
        eps: Added to the mean square.

    Returns:
        ``[B, C, D, H, W]`` in the dtype of ``x``. Twice differentiable.

    Raises:
        ValueError: If shapes or devices disagree or the activation is unknown.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019, equation 4.
    """
    if x.ndim != 5 or weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        shapes = f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        raise ValueError(f"expected x [B, C, D, H, W], weight [C] and bias [C], got {shapes}")
    if not x.device == weight.device == bias.device:
        raise ValueError(f"expected one device, got x on {x.device}, weight on {weight.device}, bias on {bias.device}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")
    forms.chosen("rms_norm", x, weight, activation)  # it has one form, whose time depends on the layout
    if not has_kernels(x):
        return saving_inputs(partial(rms_norm_reference, activation=activation, eps=eps), x, weight, bias)
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (one.to(wide).contiguous() for one in (weight, bias))
    return torch.ops.hagan3d.rms_norm(_dense(x), weight, bias, activation == "relu", eps)


def rms_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", eps: float = 1e-6) -> Tensor:
    """``rms_norm`` in plain PyTorch, without argument checks."""
    wide = torch.promote_types(x.dtype, torch.float32)
    v = x.to(wide)
    channel = (1, -1, 1, 1, 1)
    y = v * torch.rsqrt(v.square().mean(1, keepdim=True) + eps) * weight.to(wide).view(channel)
    y = y + bias.to(wide).view(channel)
    return (y.relu() if activation == "relu" else y).to(x.dtype)


def _dense(x: Tensor) -> Tensor:
    channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return x if x.is_contiguous() or channels_last else x.contiguous()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last_3d
    grad = grad.contiguous(memory_format=layout)
    return *torch.ops.hagan3d.rms_norm_backward(grad, x, weight, bias, *ctx.options), None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _second_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *inputs = ctx.saved_tensors
    relu, eps = ctx.options
    reference = partial(rms_norm_reference, activation="relu" if relu else "none", eps=eps)
    return *backward_through_reference(reference, inputs, grad, cotangents), None, None


if LOADED:
    torch.library.register_fake("hagan3d::rms_norm", lambda x, *_: torch.empty_like(x))
    torch.library.register_fake(
        "hagan3d::rms_norm_backward", lambda _, *inputs: tuple(torch.empty_like(t) for t in inputs[:3])
    )
    torch.library.register_autograd("hagan3d::rms_norm", _backward, setup_context=_setup_context)
    torch.library.register_autograd("hagan3d::rms_norm_backward", _second_backward, setup_context=_setup_second)
