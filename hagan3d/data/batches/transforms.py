"""Augmentation of real volumes with MONAI transforms: a pure function of volume, settings and seed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hagan3d.config import AugmentConfig, is_slice

if TYPE_CHECKING:
    from monai.transforms import Compose

AXES = ("D", "H", "W")


def augment(
    volume: Tensor, config: AugmentConfig, seed: int, spacing: Sequence[float] = (1.0, 1.0, 1.0), labels: bool = False
) -> Tensor:
    """Augment a volume; equal arguments give equal results.

    Args:
        volume: Volume [D, H, W], or several on one grid [C, D, H, W] augmented jointly, in [-1, 1], on the CPU.
        config: Transforms and their ranges.
        seed: Random seed, at least 0; MONAI takes it modulo 2^32.
        spacing: Millimetres per voxel along D, H, W: a rotation is rigid in space, not in voxels.
        labels: Whether it is a label map: the same spatial transforms, nearest-neighbour, and no intensity transforms.

    Returns:
        The augmented volume, or volumes, in [-1, 1]; border padding.
    """
    if not config.active:
        return volume
    transform = _transform(config, _matrix(config, volume.shape[-3:], spacing, seed), labels)
    transform.set_random_state(seed=seed % 2**32)
    augmented = transform(volume if volume.ndim == 4 else volume[None])
    return augmented.as_subclass(Tensor).reshape(volume.shape).clamp(-1, 1)


def _matrix(config: AugmentConfig, shape: Sequence[int], spacing: Sequence[float], seed: int) -> np.ndarray:
    """Sample the affine map [4, 4] of voxels about the centre: T S^-1 R S Z, with the spacing S and a zoom Z."""
    from monai.transforms.utils import create_rotate, create_scale, create_translate

    random = np.random.default_rng(seed)
    angles, zooms, shifts = random.uniform(-1, 1, (3, 3))
    if is_slice(shape):  # within its plane: a rotation about D, no change along D
        angles[1:], zooms[0] = 0, 0
    rotation = create_rotate(3, list(np.radians(config.rotate_deg) * angles))
    zoom = create_scale(3, list(1 + config.scale * zooms))
    shift = create_translate(3, list(config.shift * shifts * np.array(shape)))
    to_mm, to_voxels = create_scale(3, list(spacing)), create_scale(3, [1 / step for step in spacing])
    return np.asarray(shift @ to_voxels @ rotation @ to_mm @ zoom)


def _transform(config: AugmentConfig, matrix: np.ndarray, labels: bool) -> "Compose":
    """Return the MONAI transforms of the settings."""
    from monai import transforms as mt  # slow to import, and needed only with augmentation

    transforms: list[Callable[[Tensor], Tensor]] = []
    transforms += [mt.RandFlip(prob=0.5, spatial_axis=AXES.index(axis)) for axis in config.flip_axes]
    if config.rotate_deg or config.scale or config.shift:
        mode = "nearest" if labels else "bilinear"
        transforms.append(mt.Affine(affine=matrix, mode=mode, padding_mode="border", image_only=True))
    if labels:  # without intensity transforms; the seeds of the spatial ones do not depend on them
        return mt.Compose(transforms)
    if config.contrast:
        transforms.append(mt.RandScaleIntensity(factors=config.contrast, prob=1.0))
    if config.brightness:
        transforms.append(mt.RandShiftIntensity(offsets=config.brightness, prob=1.0))
    if config.noise:
        transforms.append(mt.RandGaussianNoise(prob=1.0, std=config.noise))
    return mt.Compose(transforms)
