"""Structural similarity (SSIM) of volumes with a separable Gaussian window."""

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5


def ssim_map(x: Tensor, y: Tensor, data_range: float) -> Tensor:
    """Return the SSIM around every voxel whose window is inside the volume.

    The window of 11^3 weights is separable: 165 multiply-adds for the five means of a voxel in place of 6655.

    Args:
        x: Volume ``[C, D, H, W]``, each side at least 11; or a slice ``[C, 1, H, W]``, of which it is the 2D SSIM.
        y: Volume of the same shape.
        data_range: Difference between the largest and the smallest possible value.

    Returns:
        SSIM ``[C, D - 10, H - 10, W - 10]``, of a slice ``[C, 1, H - 10, W - 10]``; at most 1.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13(4), 2004,
    eq. 13, with its constants and window.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, xx, yy, xy = (_windowed(volume) for volume in (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian-weighted mean around every voxel of ``[C, D, H, W]``."""
    offsets = torch.arange(WINDOW) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    for dim in (1, 2, 3) if x.shape[1] > 1 else (2, 3):
        length = x.shape[dim] - WINDOW + 1
        taps = zip((weights / weights.sum()).tolist(), range(WINDOW), strict=True)
        first, _ = next(taps)
        mean = first * x.narrow(dim, 0, length)
        for weight, start in taps:
            mean.add_(x.narrow(dim, start, length), alpha=weight)
        x = mean
    return x
