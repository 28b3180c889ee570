"""Random changes of real volumes, by MONAI's transforms: a pure function of volume, settings and seed."""

from collections.abc import Callable
from math import radians
from typing import TYPE_CHECKING

from torch import Tensor

from hagan3d.config import AugmentConfig

if TYPE_CHECKING:
    from monai.transforms import Compose

AXES = ("D", "H", "W")


def augment(volume: Tensor, config: AugmentConfig, seed: int, labels: bool = False) -> Tensor:
    """Change a volume at random; equal arguments give equal results.

    Args:
        volume: Volume [D, H, W], or several on one grid [C, D, H, W] that change alike, in [-1, 1], on the CPU.
        config: Which changes, and how large.
        seed: From 0 up; MONAI takes it modulo 2^32.
        labels: Whether it is a label map: it moves as other volumes do, nearest voxels are taken, and no value changes.

    Returns:
        The changed volume, or volumes, in [-1, 1]; what comes in from outside the volume repeats its faces.
    """
    if not config.active:
        return volume
    changes = _changes(config, tuple(volume.shape[-3:]), labels)
    changes.set_random_state(seed=seed % 2**32)
    return changes(volume if volume.ndim == 4 else volume[None]).as_subclass(Tensor).reshape(volume.shape).clamp(-1, 1)


def _changes(config: AugmentConfig, shape: tuple[int, ...], labels: bool) -> "Compose":
    """MONAI's transforms for these settings."""
    from monai import transforms as mt  # seconds to import, and only training with augmentation needs it

    made: list[Callable[[Tensor], Tensor]] = []
    made += [mt.RandFlip(prob=0.5, spatial_axis=AXES.index(axis)) for axis in config.flip_axes]
    if config.rotate_deg or config.scale or config.shift:
        made.append(
            mt.RandAffine(
                prob=1.0,
                rotate_range=[radians(config.rotate_deg)] * 3,
                scale_range=[config.scale] * 3,
                translate_range=[config.shift * side for side in shape],
                mode="nearest" if labels else "bilinear",
                padding_mode="border",
            )
        )
    if labels:  # what comes now changes values; the seeds of what came do not depend on it
        return mt.Compose(made)
    if config.contrast:
        made.append(mt.RandScaleIntensity(factors=config.contrast, prob=1.0))
    if config.brightness:
        made.append(mt.RandShiftIntensity(offsets=config.brightness, prob=1.0))
    if config.noise:
        made.append(mt.RandGaussianNoise(prob=1.0, std=config.noise))
    return mt.Compose(made)
