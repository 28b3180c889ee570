"""Differentiable augmentation: the same kind of change to real and generated volumes, seen by the discriminators.

A sub-volume and its low-resolution volume are changed alike, so that they still belong together.
Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020; the adaptive
probability: Karras et al., Training GANs with Limited Data, NeurIPS 2020, section 3.
"""

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import DiffAugConfig

NUM_RANDOMS = 7  # uniform numbers per volume: 3 for whether, 4 for how much


def diffaug(
    window: Tensor, low: Tensor, config: DiffAugConfig, probability: float, randoms: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Shift, brighten and stretch the contrast of pairs.

    Args:
        window: Sub-volumes ``[B, 1, depth, H, W]`` in [-1, 1].
        low: Volumes at low resolution ``[B, 1, d, h, w]``.
        config: Largest changes.
        probability: How often each change is made, 0 to 1.
        randoms: ``[B, NUM_RANDOMS]``, uniform in [0, 1).

    Returns:
        The changed ``(window, low)``. Once differentiable in both, and linear: any number of times.
    """
    made = (randoms[:, :3] < probability).astype(np.float32)
    amount = randoms[:, 3:] * 2 - 1
    contrast = torch.tensor(1 + config.contrast * made[:, 0] * amount[:, 0]).to(window)
    brightness = torch.tensor(config.brightness * made[:, 1] * amount[:, 1]).to(window)
    shift = (config.translate * made[:, 2:] * amount[:, 2:]).tolist() if config.translate else None
    return (
        _shifted(_restained(window, contrast, brightness), shift),
        _shifted(_restained(low, contrast, brightness), shift),
    )


def _restained(x: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """Scale intensities about 0 and add to them, one pair of numbers per volume."""
    return x * contrast[:, None, None, None, None] + brightness[:, None, None, None, None]


def _shifted(x: Tensor, shift: list[list[float]] | None) -> Tensor:
    """Shift each volume along H and W by fractions of the side, linearly between voxels; the edge is repeated."""
    if shift is None:
        return x
    return torch.cat([_shift_one(volume[None], *fractions) for volume, fractions in zip(x, shift, strict=True)])


def _shift_one(x: Tensor, along_h: float, along_w: float) -> Tensor:
    for axis, fraction in ((3, along_h), (4, along_w)):
        side = x.shape[axis]
        voxels = fraction * side
        whole = int(voxels // 1)
        rest = voxels - whole
        index = torch.arange(side, device=x.device) - whole
        near = x.index_select(axis, index.clamp(0, side - 1))
        x = near if rest == 0 else torch.lerp(near, x.index_select(axis, (index - 1).clamp(0, side - 1)), rest)
    return x


def adapted_probability(probability: float, mean_sign: float, volumes: int, config: DiffAugConfig) -> float:
    """Return the next probability: up where D is too sure of real volumes (mean sign above target), else down."""
    step = volumes / config.ramp
    return min(1.0, max(0.0, probability + (step if mean_sign > config.target else -step)))
