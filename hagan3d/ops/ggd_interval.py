"""Central intervals of the generalized Gaussian: coverage of an error, and half width at a level (its inverse).

For inference and evaluation; not differentiable.
"""

from functools import lru_cache

import numpy as np
import scipy.special
import torch
from torch import Tensor

from hagan3d.ops.ggd_reference import LOG_SHAPE_BOUNDS

NODES = 1025  # of the table over ln b; linear interpolation is accurate to 2e-5


def ggd_central(error: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Coverage of the central interval that ends at the error, P(1/b, (|e|/a)^b), P the regularised gamma function.

    Args:
        error: Residuals, any shape.
        alpha: Scale a > 0, same shape.
        beta: Shape b > 0, same shape.

    Returns:
        Values in [0, 1], in the dtype of the error. The CDF is (1 + sign(e) x coverage) / 2.
    """
    power = ((error.abs() / alpha).log() * beta).exp()
    return torch.special.gammainc(1 / beta, power).clamp_(0, 1)


def ggd_half_width(beta: Tensor, level: float) -> Tensor:
    """Half width of the central interval with a coverage, for scale 1: the |e| with P(1/b, |e|^b) = level.

    Args:
        beta: Shape b, within the bounds of `ggd_nll`.
        level: Coverage, above 0 and below 1.

    Raises:
        ValueError: If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    low, high = LOG_SHAPE_BOUNDS
    table = torch.from_numpy(_log_half_widths(level)).to(device=beta.device, dtype=beta.dtype)
    position = ((beta.log() - low) * ((NODES - 1) / (high - low))).clamp(0, NODES - 1)
    left = position.floor().clamp(max=NODES - 2).long()
    return torch.lerp(table[left], table[left + 1], position - left).exp()


@lru_cache(maxsize=8)
def _log_half_widths(level: float) -> np.ndarray:
    """Log half widths at equidistant ln b."""
    shape = np.exp(np.linspace(*LOG_SHAPE_BOUNDS, NODES))
    return np.log(scipy.special.gammaincinv(1 / shape, level)) / shape
