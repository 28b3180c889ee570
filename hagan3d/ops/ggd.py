"""Generalized Gaussian density: negative log likelihood, standard deviation and attention guide, in a safe form.

The density of a residual e is b / (2 a Gamma(1/b)) exp(-(|e| / a)^b) with scale a and shape b. Networks predict ln a
and ln b; both are bounded, |e| is smoothed by EPS and the exponent grows linearly past ln MAX_POWER, because a plain
power gives NaN gradients at e = 0 and a hard clamp of the exponent reverses the gradient of the scale.
"""

import math
from typing import Any

import torch
from torch import Tensor

LOG_SCALE_BOUNDS = (math.log(1e-3), math.log(10.0))
LOG_SHAPE_BOUNDS = (math.log(0.25), math.log(8.0))
EPS = 1e-3
MAX_POWER = 50.0
REDUCTIONS = ("mean", "none")


def ggd_nll(
    error: Tensor,
    log_scale: Tensor,
    log_shape: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log likelihood of residuals under a generalized Gaussian, in nats per voxel.

    With r2 = e^2 + EPS^2 and t = b (ln r2 / 2 - ln a): nll = p + ln a + lnGamma(1 + 1/b) + ln 2, p = exp(t) up to
    ln MAX_POWER and linear past it. Where a raw parameter is outside its bounds only a gradient that, when the
    likelihood is maximised, moves it back inside passes.

    Args:
        error: Residuals ``[B, C, D, H, W]``, floating point; math is float32, or float64 for float64.
        log_scale: ln a, ``[B, C or 1, D, H, W]``.
        log_shape: ln b, ``[B, C or 1, D, H, W]``.
        weight: Weights >= 0 or a mask ``[B, C or 1, D, H, W]``; no gradient reaches it.
        reduction: ``mean`` for sum(weight nll) / sum(weight), 0 where that is 0 / 0; ``none`` for weight nll per voxel.

    Returns:
        A scalar in at least float32, or ``[B, C, D, H, W]`` in the common type of the arguments. ``none`` is twice
        differentiable; the gradient of ``mean`` refuses a second derivative where a kernel computes it.

    Raises:
        ValueError: If the shapes disagree or the reduction is unknown.

    Source: Upadhyay et al., Uncertainty-guided progressive GANs, MICCAI 2021, equation 4, with its exponent restored.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"want a reduction among {', '.join(REDUCTIONS)}, got {reduction}")
    _check_parameters(error, log_scale, log_shape)
    if weight is not None:
        _check_companion("weight", weight, error)
    return ggd_nll_reference(error, log_scale, log_shape, weight, reduction)


def ggd_nll_reference(
    error: Tensor,
    log_scale: Tensor,
    log_shape: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``ggd_nll`` in plain PyTorch, unchecked."""
    dtype = _common_dtype(error, log_scale, log_shape)
    wide = torch.promote_types(dtype, torch.float32)
    e, raw_a, raw_lb = error.to(wide), log_scale.to(wide), log_shape.to(wide)
    log_r = torch.log(e * e + EPS**2) / 2
    with torch.no_grad():
        passes_a, passes_lb = _passing_gradients(log_r, raw_a, raw_lb)
    a = _bounded_where(passes_a, raw_a, LOG_SCALE_BOUNDS)
    lb = _bounded_where(passes_lb, raw_lb, LOG_SHAPE_BOUNDS)
    nll = _power(lb.exp() * (log_r - a)) + a + torch.lgamma(1 + torch.exp(-lb)) + math.log(2)
    w = torch.ones_like(e[:, :1]) if weight is None else weight.detach().to(wide)
    if reduction == "none":
        return (nll * w).to(dtype)
    total = w.expand_as(nll).sum()
    return (nll * w).sum() / torch.where(total > 0, total, 1)


def ggd_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Standard deviation of a generalized Gaussian, in the unit of the scale: exp of ``ggd_log_sigma``."""
    return ggd_log_sigma(log_scale, log_shape).exp()


def ggd_log_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Log standard deviation of a generalized Gaussian: ln a + (lnGamma(1 + 3/b) - lnGamma(1 + 1/b) - ln 3) / 2.

    Args:
        log_scale: ln a, ``[B, C, D, H, W]``.
        log_shape: ln b, ``[B, C, D, H, W]``.

    Returns:
        ln sigma ``[B, C, D, H, W]``. Outside the bounds only gradients that lead back inside pass.

    Raises:
        ValueError: If the shapes differ.
    """
    if log_scale.shape != log_shape.shape:
        raise ValueError(f"want equal shapes, got {tuple(log_scale.shape)} and {tuple(log_shape.shape)}")
    dtype = _common_dtype(log_scale, log_shape)
    wide = torch.promote_types(dtype, torch.float32)
    a = _OneSided.apply(log_scale.to(wide), *LOG_SCALE_BOUNDS)
    x = torch.exp(-_OneSided.apply(log_shape.to(wide), *LOG_SHAPE_BOUNDS))
    return (a + (torch.lgamma(1 + 3 * x) - torch.lgamma(1 + x) - math.log(3)) / 2).to(dtype)


def ggd_guide(
    value: Tensor, log_scale: Tensor, log_shape: Tensor, mean_sigma: Tensor | None = None, limit: float = 10.0
) -> Tensor:
    """Weigh a prediction by its uncertainty: value * sigma / mean(sigma), clipped to [-limit, limit].

    Args:
        value: Predictions ``[B, C, D, H, W]``.
        log_scale: ln a, ``[B, C or 1, D, H, W]``.
        log_shape: ln b, of the shape of ``log_scale``.
        mean_sigma: Mean of sigma per sample ``[B]`` where it is that of a larger volume; else taken here.
        limit: Bound of the result.

    Returns:
        The guide ``[B, C, D, H, W]``.

    Raises:
        ValueError: If the shapes disagree.

    Source: Upadhyay et al., MICCAI 2021, equation 7, with the mean in place of the sum.
    """
    _check_parameters(value, log_scale, log_shape)
    if mean_sigma is not None and mean_sigma.shape != value.shape[:1]:
        raise ValueError(f"want mean_sigma [{value.shape[0]}], got {tuple(mean_sigma.shape)}")
    sigma = ggd_sigma(log_scale.float(), log_shape.float())
    mean = sigma.mean(dim=(1, 2, 3, 4)) if mean_sigma is None else mean_sigma
    return (value * (sigma / mean.view(-1, 1, 1, 1, 1))).clamp(-limit, limit).to(value.dtype)


class _OneSided(torch.autograd.Function):
    """Clamp that stops only the gradients that would move a value further out."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((raw > high).to(torch.int8) - (raw < low).to(torch.int8))
        return raw.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (side,) = ctx.saved_tensors
        return torch.where(side * grad >= 0, grad, 0), None, None


def _power(t: Tensor) -> Tensor:
    limit = math.log(MAX_POWER)
    return torch.where(t <= limit, t.clamp(max=limit).exp(), MAX_POWER * (1 + t - limit))


def _passing_gradients(log_r: Tensor, raw_a: Tensor, raw_lb: Tensor) -> tuple[Tensor, Tensor]:
    a, lb = raw_a.clamp(*LOG_SCALE_BOUNDS), raw_lb.clamp(*LOG_SHAPE_BOUNDS)
    b = lb.exp()
    q = (b * (log_r - a)).clamp(max=math.log(MAX_POWER)).exp()
    grad_a = (1 - b * q).sum_to_size(raw_a.shape)
    grad_lb = (b * q * (log_r - a) - torch.digamma(1 + 1 / b) / b).sum_to_size(raw_lb.shape)
    return (raw_a - a) * grad_a >= 0, (raw_lb - lb) * grad_lb >= 0


def _bounded_where(passes: Tensor, raw: Tensor, bounds: tuple[float, float]) -> Tensor:
    bounded = raw.detach().clamp(*bounds)
    return bounded + torch.where(passes, raw - raw.detach(), 0)


def _common_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _check_parameters(error: Tensor, log_scale: Tensor, log_shape: Tensor) -> None:
    if error.ndim != 5 or not error.is_floating_point():
        raise ValueError(f"want floating residuals [B, C, D, H, W], got {error.dtype} {tuple(error.shape)}")
    _check_companion("log_scale", log_scale, error)
    _check_companion("log_shape", log_shape, error)


def _check_companion(name: str, tensor: Tensor, error: Tensor) -> None:
    shared = (error.shape[0], 1, *error.shape[2:])
    if tensor.shape not in (error.shape, torch.Size(shared)):
        raise ValueError(f"want {name} of shape {tuple(error.shape)} or {shared}, got {tuple(tensor.shape)}")
