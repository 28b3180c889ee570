"""The generalized Gaussian operators in plain PyTorch, without argument checks: fallback and reference of the tests."""

import math
from typing import Any

import torch
from torch import Tensor

LOG_SCALE_BOUNDS = (math.log(1e-3), math.log(10.0))
LOG_SHAPE_BOUNDS = (math.log(0.25), math.log(8.0))
EPS = 1e-3
MAX_POWER = 50.0


def nll_reference(error: Tensor, log_scale: Tensor, log_shape: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted negative log likelihood per voxel; arguments as in ``ggd_nll``, of one dtype, which the result has."""
    wide = torch.promote_types(error.dtype, torch.float32)
    w = torch.ones((), dtype=wide, device=error.device) if weight is None else weight.detach().to(wide)
    return (_nll(error.to(wide), log_scale.to(wide), log_shape.to(wide), w) * w).to(error.dtype)


def nll_mean_reference(error: Tensor, log_scale: Tensor, log_shape: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of the negative log likelihood, in at least float32; 0 if empty or if all weights are zero."""
    wide = torch.promote_types(error.dtype, torch.float32)
    w = error.new_ones((), dtype=wide) if weight is None else weight.detach().to(wide)
    total = w.expand_as(error).sum()
    nll = _nll(error.to(wide), log_scale.to(wide), log_shape.to(wide), w)
    return (nll * w).sum() / torch.where(total > 0, total, 1)


def sigma_reference(log_scale: Tensor, log_shape: Tensor, log: bool = False) -> Tensor:
    """Standard deviation, or its logarithm."""
    wide = torch.promote_types(log_scale.dtype, torch.float32)
    log_sigma = _log_sigma(log_scale.to(wide), log_shape.to(wide))
    return (log_sigma if log else log_sigma.exp()).to(log_scale.dtype)


def mean_sigma_reference(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Mean standard deviation per sample ``[B]``, in at least float32."""
    wide = torch.promote_types(log_scale.dtype, torch.float32)
    return _log_sigma(log_scale.to(wide), log_shape.to(wide)).exp().mean(dim=(1, 2, 3, 4))


def guide_reference(value: Tensor, log_scale: Tensor, log_shape: Tensor, mean: Tensor, limit: float) -> Tensor:
    """Prediction times standard deviation over its mean per sample ``[B]``, clipped."""
    wide = torch.promote_types(value.dtype, torch.float32)
    relative = _log_sigma(log_scale.to(wide), log_shape.to(wide)).exp() / mean.to(wide).view(-1, 1, 1, 1, 1)
    return (value.to(wide) * relative).clamp(-limit, limit).to(value.dtype)


class _OneSided(torch.autograd.Function):
    """Clamp with a one-sided gradient: blocked only if descent along it would move the value further out of bounds."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((raw > high).to(torch.int8) - (raw < low).to(torch.int8))
        return raw.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (side,) = ctx.saved_tensors
        return torch.where(side * grad >= 0, grad, 0), None, None


def _log_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    a = _OneSided.apply(log_scale, *LOG_SCALE_BOUNDS)
    x = torch.exp(-_OneSided.apply(log_shape, *LOG_SHAPE_BOUNDS))
    return a + (torch.lgamma(1 + 3 * x) - torch.lgamma(1 + x) - math.log(3)) / 2


def _nll(e: Tensor, raw_a: Tensor, raw_lb: Tensor, weight: Tensor) -> Tensor:
    log_r = torch.log(e * e + EPS**2) / 2
    with torch.no_grad():
        passes_a, passes_lb = _passing_gradients(log_r, raw_a, raw_lb, weight)
    a = _bounded_where(passes_a, raw_a, LOG_SCALE_BOUNDS)
    lb = _bounded_where(passes_lb, raw_lb, LOG_SHAPE_BOUNDS)
    t, limit = lb.exp() * (log_r - a), math.log(MAX_POWER)
    p = torch.where(t <= limit, t.clamp(max=limit).exp(), MAX_POWER * (1 + t - limit))
    return p + a + torch.lgamma(1 + torch.exp(-lb)) + math.log(2)


def _passing_gradients(log_r: Tensor, raw_a: Tensor, raw_lb: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the gradient passes to the raw parameters: descent does not move them further out of bounds."""
    a, lb = raw_a.clamp(*LOG_SCALE_BOUNDS), raw_lb.clamp(*LOG_SHAPE_BOUNDS)
    b, x = lb.exp(), log_r - a
    q = (b * x).clamp(max=math.log(MAX_POWER)).exp()
    grad_a = (weight * (1 - b * q)).sum_to_size(raw_a.shape)
    grad_lb = (weight * (b * q * x - torch.digamma(1 + 1 / b) / b)).sum_to_size(raw_lb.shape)
    return (raw_a - a) * grad_a >= 0, (raw_lb - lb) * grad_lb >= 0


def _bounded_where(passes: Tensor, raw: Tensor, bounds: tuple[float, float]) -> Tensor:
    bounded = raw.detach().clamp(*bounds)
    return bounded + torch.where(passes, raw - raw.detach(), 0)
