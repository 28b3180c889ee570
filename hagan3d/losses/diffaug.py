"""Differentiable augmentation of the inputs of discriminators, real and generated alike.

A sub-volume and its low-resolution volume get the same transform, so that they still match.
Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020; the adaptive
probability: Karras et al., Training GANs with Limited Data, NeurIPS 2020, section 3.
"""

import numpy as np
import torch
from torch import Tensor

from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.ops.device import to_device

NUM_RANDOMS = 7  # uniform numbers per volume: 3 for whether a transform is applied, 4 for its magnitude


def diffaug(
    window: Tensor, low: Tensor, config: DiffAugConfig, probability: float, randoms: np.ndarray, images: int = 1
) -> tuple[Tensor, Tensor]:
    """Translate pairs and change the brightness and contrast of their images.

    Args:
        window: Sub-volumes ``[B, C, depth, H, W]`` in [-1, 1].
        low: Volumes at low resolution ``[B, C, d, h, w]``.
        config: Largest magnitudes.
        probability: Of each transform, 0 to 1.
        randoms: ``[B, NUM_RANDOMS]``, uniform in [0, 1).
        images: Number of image channels; those of labels follow and are translated alone.

    Returns:
        The augmented ``(window, low)``; linear in both, so any number of times differentiable.
    """
    applied = (randoms[:, :3] < probability).astype(np.float32)
    amount = randoms[:, 3:] * 2 - 1
    contrast = to_device(1 + config.contrast * applied[:, 0] * amount[:, 0], window.device, window.dtype)
    brightness = to_device(config.brightness * applied[:, 1] * amount[:, 1], window.device, window.dtype)
    shift = (config.translate * applied[:, 2:] * amount[:, 2:]).tolist() if config.translate else None
    return (
        _translated(_recoloured(window, contrast, brightness, images), shift),
        _translated(_recoloured(low, contrast, brightness, images), shift),
    )


def _recoloured(x: Tensor, contrast: Tensor, brightness: Tensor, images: int) -> Tensor:
    """Scale the intensities of image channels and add to them, with one pair of values per volume."""
    changed = x[:, :images] * contrast[:, None, None, None, None] + brightness[:, None, None, None, None]
    return changed if images == x.shape[1] else torch.cat([changed, x[:, images:]], dim=1)


def _translated(x: Tensor, shift: list[list[float]] | None) -> Tensor:
    """Translate each volume along H and W by fractions of the side: linear interpolation, border padding."""
    if shift is None:
        return x
    return torch.cat([_translate_one(volume[None], *fractions) for volume, fractions in zip(x, shift, strict=True)])


def _translate_one(x: Tensor, along_h: float, along_w: float) -> Tensor:
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
    """Return the next probability: higher if D overfits (mean sign on real volumes above target), else lower."""
    step = volumes / config.ramp
    return min(1.0, max(0.0, probability + (step if mean_sign > config.target else -step)))
