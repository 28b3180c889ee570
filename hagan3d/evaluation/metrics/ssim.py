"""Structural similarity of volumes, with the Gaussian window taken along one axis after the other."""

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5


def ssim_map(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Compare two volumes around every voxel whose window lies within them.

    A window of 11^3 weights is a product of three along the axes: 165 multiply-adds for the five means of a voxel, not
    6655.

    Args:
        x: ``[C, D, H, W]``, sides of at least 11.
        y: The same.
        data_range: Difference between the largest and the smallest value that volumes can have.

    Returns:
        Structural similarity ``[C, D - 10, H - 10, W - 10]``, at most 1.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13(4), 2004,
    equation 13, with its constants and its window.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, xx, yy, xy = (_windowed(volume) for volume in (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def _windowed(x: Tensor) -> Tensor:
    """Weighted mean around every voxel of ``[C, D, H, W]``."""
    places = torch.arange(WINDOW) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    for dim in (1, 2, 3):
        length = x.shape[dim] - WINDOW + 1
        parts = zip((weights / weights.sum()).tolist(), range(WINDOW), strict=True)
        first, _ = next(parts)
        mean = first * x.narrow(dim, 0, length)
        for weight, start in parts:
            mean.add_(x.narrow(dim, start, length), alpha=weight)
        x = mean
    return x
