"""Generalized Gaussian density: negative log likelihood, standard deviation and uncertainty guide, numerically stable.

The density of a residual e is b / (2 a Gamma(1/b)) exp(-(|e| / a)^b) with scale a and shape b. Networks predict ln a
and ln b; both are bounded, |e| is smoothed and the power grows linearly beyond a bound, because a plain power has
NaN gradients at e = 0, and a hard clamp reverses the gradient of the scale.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.ops.extension import has_kernels
from hagan3d.ops.ggd_kernels import nll_mean
from hagan3d.ops.ggd_reference import (
    guide_reference,
    mean_sigma_reference,
    nll_mean_reference,
    nll_reference,
    sigma_reference,
)
from hagan3d.ops.second_order import saving_inputs

REDUCTIONS = ("mean", "none")


def ggd_nll(
    error: Tensor,
    log_scale: Tensor,
    log_shape: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log likelihood of residuals under a generalized Gaussian, in nats per voxel.

    With EPS = 1e-3, r2 = e^2 + EPS^2 and t = b (ln r2 / 2 - ln a): nll = p + ln a + lnGamma(1 + 1/b) + ln 2, where
    p = exp(t) up to p = 50 and linear in t past it. a is bounded to [1e-3, 10] and b to [0.25, 8]; outside, a gradient
    passes only if minimising the likelihood with it moves the raw value back inside.

    Args:
        error: Residuals ``[B, C, D, H, W]``, floating point; math is float32, or float64 for float64.
        log_scale: ln a, ``[B, C or 1, D, H, W]``.
        log_shape: ln b, ``[B, C or 1, D, H, W]``.
        weight: Weights >= 0 or a mask ``[B, C or 1, D, H, W]``; not differentiated.
        reduction: ``mean`` for sum(weight nll) / sum(weight), 0 if all weights are zero; ``none`` per voxel.

    Returns:
        A scalar in at least float32, or ``[B, C, D, H, W]`` in the common type of the residuals and parameters.
        ``none`` is twice differentiable; the second derivative of ``mean`` raises an error if a kernel computes it.

    Raises:
        ValueError: If the shapes disagree or the reduction is unknown.

    Source: Upadhyay et al., Uncertainty-guided progressive GANs, MICCAI 2021, equation 4, with its exponent restored.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction}")
    if weight is not None:
        _check_companion("weight", weight, error)
    error, log_scale, log_shape = _aligned(error, log_scale, log_shape)
    weight = None if weight is None else weight.detach().to(error.dtype)
    if not has_kernels(error):
        return saving_inputs(partial(ggd_nll_reference, reduction=reduction), error, log_scale, log_shape, weight)
    if reduction == "mean":
        return nll_mean(error, log_scale, log_shape, weight)
    return torch.ops.hagan3d.ggd_nll(error, log_scale, log_shape, weight)


def ggd_nll_reference(
    error: Tensor,
    log_scale: Tensor,
    log_shape: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``ggd_nll`` in plain PyTorch, without argument checks."""
    reference = nll_reference if reduction == "none" else nll_mean_reference
    return reference(error, log_scale, log_shape, weight)


def ggd_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Standard deviation of a generalized Gaussian, in the unit of the scale: exp of ``ggd_log_sigma``."""
    return _sigma(log_scale, log_shape, log=False)


def ggd_log_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Log standard deviation of a generalized Gaussian: ln a + (lnGamma(1 + 3/b) - lnGamma(1 + 1/b) - ln 3) / 2.

    Args:
        log_scale: ln a, ``[B, C, D, H, W]``, bounded as in ``ggd_nll``.
        log_shape: ln b, ``[B, C, D, H, W]``.

    Returns:
        ln sigma ``[B, C, D, H, W]``. Outside the bounds only gradients that lead back inside pass. Twice
        differentiable.

    Raises:
        ValueError: If the shapes differ.
    """
    return _sigma(log_scale, log_shape, log=True)


def ggd_mean_sigma(log_scale: Tensor, log_shape: Tensor) -> Tensor:
    """Mean of ``ggd_sigma`` over the channels and voxels of each sample ``[B]``, in at least float32."""
    _, log_scale, log_shape = _aligned(log_scale, log_scale, log_shape)
    if has_kernels(log_scale):
        return torch.ops.hagan3d.ggd_sigma_mean(log_scale, log_shape)
    return saving_inputs(mean_sigma_reference, log_scale, log_shape)


def ggd_guide(
    value: Tensor, log_scale: Tensor, log_shape: Tensor, mean_sigma: Tensor | None = None, limit: float = 10.0
) -> Tensor:
    """Weigh a prediction by its uncertainty: value * sigma / mean(sigma), clipped to [-limit, limit].

    Args:
        value: Predictions ``[B, C, D, H, W]``.
        log_scale: ln a, ``[B, C or 1, D, H, W]``.
        log_shape: ln b, ``[B, C or 1, D, H, W]``.
        mean_sigma: Mean of sigma per sample ``[B]``, e.g. of the whole volume if ``value`` is a window. None: computed.
        limit: Bound of the result.

    Returns:
        The guide ``[B, C, D, H, W]``, in the common type of the prediction and parameters. Twice differentiable if
        ``mean_sigma`` is given.

    Raises:
        ValueError: If the shapes disagree.

    Source: Upadhyay et al., MICCAI 2021, section 2, with the mean of sigma in place of its sum.
    """
    if mean_sigma is not None and mean_sigma.shape != value.shape[:1]:
        raise ValueError(f"expected mean_sigma [{value.shape[0]}], got {tuple(mean_sigma.shape)}")
    value, log_scale, log_shape = _aligned(value, log_scale, log_shape)
    mean = ggd_mean_sigma(log_scale, log_shape) if mean_sigma is None else mean_sigma
    if not has_kernels(value):
        return saving_inputs(partial(guide_reference, limit=limit), value, log_scale, log_shape, mean)
    mean = mean.to(torch.promote_types(value.dtype, torch.float32))
    return torch.ops.hagan3d.ggd_guide(value, log_scale, log_shape, mean, limit)


def _sigma(log_scale: Tensor, log_shape: Tensor, log: bool) -> Tensor:
    if log_scale.shape != log_shape.shape:
        raise ValueError(f"expected equal shapes, got {tuple(log_scale.shape)} and {tuple(log_shape.shape)}")
    _, log_scale, log_shape = _aligned(log_scale, log_scale, log_shape)
    if has_kernels(log_scale):
        return torch.ops.hagan3d.ggd_sigma(log_scale, log_shape, log)
    return saving_inputs(partial(sigma_reference, log=log), log_scale, log_shape)


def _aligned(value: Tensor, log_scale: Tensor, log_shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert all to a common dtype, and both parameters to the same number of channels: 1, or those of the value."""
    if value.ndim != 5 or not value.is_floating_point():
        raise ValueError(f"expected floating point values [B, C, D, H, W], got {value.dtype} {tuple(value.shape)}")
    _check_companion("log_scale", log_scale, value)
    _check_companion("log_shape", log_shape, value)
    dtype = torch.promote_types(torch.promote_types(value.dtype, log_scale.dtype), log_shape.dtype)
    log_scale, log_shape = torch.broadcast_tensors(log_scale.to(dtype), log_shape.to(dtype))
    return value.to(dtype), log_scale, log_shape


def _check_companion(name: str, tensor: Tensor, value: Tensor) -> None:
    shared = torch.Size((value.shape[0], 1, *value.shape[2:]))
    if tensor.shape not in (value.shape, shared):
        raise ValueError(f"expected {name} of shape {tuple(value.shape)} or {tuple(shared)}, got {tuple(tensor.shape)}")
    if tensor.device != value.device:
        raise ValueError(f"expected {name} on {value.device}, got {tensor.device}")
