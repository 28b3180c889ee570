"""Augmentation of real volumes with MONAI transforms: a pure function of volume, settings and seed."""

from collections.abc import Callable
from math import radians
from typing import TYPE_CHECKING

from torch import Tensor

from hagan3d.config import AugmentConfig, is_slice

if TYPE_CHECKING:
    from monai.transforms import Compose

AXES = ("D", "H", "W")


def augment(volume: Tensor, config: AugmentConfig, seed: int, labels: bool = False) -> Tensor:
    """Augment a volume; equal arguments give equal results.

    Args:
        volume: Volume [D, H, W], or several on one grid [C, D, H, W] augmented jointly, in [-1, 1], on the CPU.
        config: Transforms and their ranges.
        seed: Random seed, at least 0; MONAI takes it modulo 2^32.
        labels: Whether it is a label map: the same spatial transforms, nearest-neighbour, and no intensity transforms.

    Returns:
        The augmented volume, or volumes, in [-1, 1]; border padding.
    """
    if not config.active:
        return volume
    transform = _transform(config, tuple(volume.shape[-3:]), labels)
    transform.set_random_state(seed=seed % 2**32)
    augmented = transform(volume if volume.ndim == 4 else volume[None])
    return augmented.as_subclass(Tensor).reshape(volume.shape).clamp(-1, 1)


def _transform(config: AugmentConfig, shape: tuple[int, ...], labels: bool) -> "Compose":
    """Return the MONAI transforms of the settings."""
    from monai import transforms as mt  # slow to import, and needed only with augmentation

    transforms: list[Callable[[Tensor], Tensor]] = []
    transforms += [mt.RandFlip(prob=0.5, spatial_axis=AXES.index(axis)) for axis in config.flip_axes]
    if config.rotate_deg or config.scale or config.shift:
        angle, scale = radians(config.rotate_deg), config.scale
        transforms.append(
            mt.RandAffine(
                prob=1.0,
                # of a single slice within its plane: a rotation about D, no change along D
                rotate_range=[angle, 0.0, 0.0] if is_slice(shape) else [angle] * 3,
                scale_range=[0.0, scale, scale] if is_slice(shape) else [scale] * 3,
                translate_range=[config.shift * side for side in shape],
                mode="nearest" if labels else "bilinear",
                padding_mode="border",
            )
        )
    if labels:  # without intensity transforms; the seeds of the spatial ones do not depend on them
        return mt.Compose(transforms)
    if config.contrast:
        transforms.append(mt.RandScaleIntensity(factors=config.contrast, prob=1.0))
    if config.brightness:
        transforms.append(mt.RandShiftIntensity(offsets=config.brightness, prob=1.0))
    if config.noise:
        transforms.append(mt.RandGaussianNoise(prob=1.0, std=config.noise))
    return mt.Compose(transforms)
