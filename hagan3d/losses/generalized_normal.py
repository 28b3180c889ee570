"""The generalized normal distribution, which PyTorch does not have."""

import math
from typing import Any

import scipy.special
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions.utils import broadcast_all


class GeneralizedNormal(Distribution):
    """Density b / (2 a Gamma(1/b)) exp(-(|x - m| / a)^b): Laplace for shape b = 1, normal for b = 2.

    Args:
        loc: Mean, median and mode m.
        scale: a > 0, in the unit of ``loc``; the normal of deviation s has a = s sqrt(2).
        shape: b > 0.
        validate_args: Whether to check the parameters and arguments.

    Raises:
        ValueError: If a parameter is outside its bounds and arguments are validated.

    Source: Nadarajah, A generalized normal distribution, J. Appl. Stat. 32(7), 2005.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive, "shape": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, shape: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.shape = broadcast_all(loc, scale, shape)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None) -> Any:
        """Return the distribution with its parameters expanded to ``batch_shape``."""
        new = self._get_checked_instance(GeneralizedNormal, _instance)
        new.loc, new.scale, new.shape = (p.expand(batch_shape) for p in (self.loc, self.scale, self.shape))
        super(GeneralizedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """a^2 Gamma(3/b) / Gamma(1/b)."""
        return self.scale.square() * torch.exp(torch.lgamma(3 / self.shape) - torch.lgamma(1 / self.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        if self._validate_args:
            self._validate_sample(value)
        power = ((value - self.loc).abs() / self.scale) ** self.shape
        return -power - self._log_norm()

    def entropy(self) -> Tensor:
        """1/b + ln(2 a Gamma(1 + 1/b))."""
        return 1 / self.shape + self._log_norm()

    def cdf(self, value: Tensor) -> Tensor:
        """1/2 + sign(x - m)/2 P(1/b, (|x - m| / a)^b), with P the regularized lower incomplete gamma function.

        Once differentiable, in all but the shape: a shape that needs a gradient raises ValueError.
        """
        if self._validate_args:
            self._validate_sample(value)
        return _Cdf.apply((value - self.loc) / self.scale, self.shape)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile of each probability, by SciPy on the CPU; differentiable as ``cdf`` is."""
        return self.loc + self.scale * _Icdf.apply(*broadcast_all(value, self.shape))

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Sign times a G^(1/b) with G ~ Gamma(1/b): differentiable in all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        power = Gamma(1 / self.shape, torch.ones_like(self.shape), validate_args=False).rsample(
            torch.Size(sample_shape)
        )
        sign = torch.randint(0, 2, shape, device=self.loc.device, dtype=self.loc.dtype) * 2 - 1
        return self.loc + self.scale * sign * power ** (1 / self.shape)

    def _log_norm(self) -> Tensor:
        return self.scale.log() + torch.lgamma(1 + 1 / self.shape) + math.log(2)


def _density(x: Tensor, shape: Tensor) -> Tensor:
    """Density of the standard distribution, of scale 1."""
    return torch.exp(-(x.abs() ** shape) - torch.lgamma(1 + 1 / shape)) / 2


class _Cdf(torch.autograd.Function):
    """Standard cdf, whose derivative is the density; PyTorch's would be NaN at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Tensor) -> Tensor:
        ctx.save_for_backward(x, shape)
        return 0.5 + 0.5 * x.sign() * torch.special.gammainc(1 / shape, x.abs() ** shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, shape = _without_shape_gradient(ctx)
        return grad * _density(x, shape), None


class _Icdf(torch.autograd.Function):
    """Standard quantile, whose derivative is one over the density."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor, shape: Tensor) -> Tensor:
        order, side = (1 / shape).cpu().numpy(), 2 * probability - 1
        power = torch.as_tensor(scipy.special.gammaincinv(order, side.abs().cpu().numpy())).to(probability)
        x = side.sign() * power ** (1 / shape)
        ctx.save_for_backward(x, shape)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, shape = _without_shape_gradient(ctx)
        return grad / _density(x, shape), None


def _without_shape_gradient(ctx: Any) -> tuple[Tensor, Tensor]:
    if ctx.needs_input_grad[1]:
        raise ValueError("cdf and icdf have no derivative in the shape: detach it")
    return ctx.saved_tensors
