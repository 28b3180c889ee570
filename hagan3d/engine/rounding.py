"""Stochastic rounding to fewer bits: up or down with the probability that keeps the expectation."""

import math

import torch
from torch import Tensor

# Of eight bits: by which factor one level lies above the next, so that all of them span ten decades, or six and a sign.
UNSIGNED_LEVELS, SIGNED_LEVELS = 256, 127
UNSIGNED_STEP = 10 * math.log(10) / (UNSIGNED_LEVELS - 1)
SIGNED_STEP = 6 * math.log(10) / (SIGNED_LEVELS - 1)


def round_stochastically(x: Tensor, noise: torch.Generator) -> Tensor:
    """Round float32 to bfloat16.

    Adds a random number below the last kept bit and cuts off; infinities stay.
    """
    bits = torch.empty_like(x, dtype=torch.int32).random_(0, 2**16, generator=noise)
    return bits.add_(x.view(torch.int32)).bitwise_and_(-(2**16)).view(torch.float32).to(torch.bfloat16)


def to_levels(x: Tensor, dtype: torch.dtype, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Round float32 to levels that lie a constant factor apart, below the largest magnitude of each row.

    Values below the lowest level of their row are rounded to that level; with a sign, zeros stay.

    Args:
        x: Numbers ``[N, ...]``; not negative for ``torch.uint8``.
        dtype: ``torch.uint8`` for 256 levels, 9 % apart, or ``torch.int8`` for a sign and 127 levels, 12 % apart.
        noise: Decides which of its two neighbours a number becomes.

    Returns:
        Codes like ``x`` and the largest magnitude of each row ``[N, 1, ...]``.
    """
    step, most = _levels(dtype)
    scale = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x.abs()
    share = x.abs() / scale.clamp_min(torch.finfo(x.dtype).tiny)
    place = (share.log() / step + most).clamp_(_lowest(dtype), most)
    below = place.floor().clamp_(max=most - 1)
    rise = ((place - below) * step).expm1_() / math.expm1(step)  # of the way to the next level
    codes = below + (torch.empty_like(x).uniform_(generator=noise) < rise)
    return (codes * x.sign() if dtype.is_signed else codes).to(dtype), scale


def from_levels(codes: Tensor, scale: Tensor) -> Tensor:
    """Dequantize ``codes`` and ``scale`` of `to_levels` to float32."""
    step, most = _levels(codes.dtype)
    levels = codes.float()
    x = ((levels.abs() - most) * step).exp_() * scale
    return x * levels.sign() if codes.dtype.is_signed else x


def _levels(dtype: torch.dtype) -> tuple[float, int]:
    """The logarithm of the factor between two levels, and the code of the highest."""
    return (SIGNED_STEP, SIGNED_LEVELS) if dtype.is_signed else (UNSIGNED_STEP, UNSIGNED_LEVELS - 1)


def _lowest(dtype: torch.dtype) -> int:
    return 1 if dtype.is_signed else 0
