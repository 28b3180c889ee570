"""Intervals of the generalized Gaussian: what probability lies within an error, and within which error a probability.

For inference and evaluation; nothing here has a derivative.
"""

from functools import lru_cache

import numpy as np
import scipy.special
import torch
from torch import Tensor

from hagan3d.ops.ggd_reference import LOG_SHAPE_BOUNDS

NODES = 1025  # of the table over ln b; linear between them is exact to 2e-5


def ggd_central(error: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Probability that an error is no larger in size than this one: P(1/b, (|e|/a)^b).

    Args:
        error: Residuals, any shape.
        alpha: Scale a > 0, same shape.
        beta: Shape b > 0, same shape.

    Returns:
        Values in [0, 1], the type of the error. The CDF is 1/2 + sign(e)/2 times it.
    """
    power = ((error.abs() / alpha).log() * beta).exp()
    return torch.special.gammainc(1 / beta, power).clamp_(0, 1)


def ggd_half_width(beta: Tensor, level: float) -> Tensor:
    """Half the width of the central interval of a probability, for scale 1: the |e| with P(1/b, |e|^b) = level.

    Args:
        beta: Shape b, within the bounds of `ggd_nll`.
        level: Probability, above 0 and below 1.

    Raises:
        ValueError: If the level is no such probability.
    """
    if not 0 < level < 1:
        raise ValueError(f"want a level above 0 and below 1, got {level}")
    low, high = LOG_SHAPE_BOUNDS
    table = torch.from_numpy(_log_half_widths(level)).to(device=beta.device, dtype=beta.dtype)
    place = ((beta.log() - low) * ((NODES - 1) / (high - low))).clamp(0, NODES - 1)
    left = place.floor().clamp(max=NODES - 2).long()
    return torch.lerp(table[left], table[left + 1], place - left).exp()


@lru_cache(maxsize=8)
def _log_half_widths(level: float) -> np.ndarray:
    """Log half widths at equal steps of ln b."""
    shape = np.exp(np.linspace(*LOG_SHAPE_BOUNDS, NODES))
    return np.log(scipy.special.gammaincinv(1 / shape, level)) / shape
