"""Root-mean-square norm over the channels of each voxel, with its activation."""

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu")


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", eps: float = 1e-6) -> Tensor:
    """Scale each voxel to unit root mean square over its channels, then weight, shift and activate.

    Computed in float32 where ``x`` has less; no statistic leaves the voxel, so a window equals its slice of the volume.

    Args:
        x: Feature maps ``[B, C, D, H, W]``.
        weight: Factor per channel ``[C]``.
        bias: Summand per channel ``[C]``.
        activation: ``none`` or ``relu``.
        eps: Added to the mean square.

    Returns:
        ``[B, C, D, H, W]`` in the type of ``x``. Twice differentiable.

    Raises:
        ValueError: If the shapes disagree or the activation is unknown.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019, equation 4.
    """
    if x.ndim != 5 or weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(
            f"want x [B, C, D, H, W], weight [C] and bias [C], got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"want an activation among {', '.join(ACTIVATIONS)}, got {activation}")
    return rms_norm_reference(x, weight, bias, activation, eps)


def rms_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", eps: float = 1e-6) -> Tensor:
    """``rms_norm`` in plain PyTorch, unchecked."""
    wide = torch.promote_types(x.dtype, torch.float32)
    v = x.to(wide)
    channel = (1, -1, 1, 1, 1)
    y = v * torch.rsqrt(v.square().mean(1, keepdim=True) + eps) * weight.to(wide).view(channel)
    y = y + bias.to(wide).view(channel)
    return (y.relu() if activation == "relu" else y).to(x.dtype)
