"""Settings of the volumes a run sees."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hagan3d.config.degrade import DegradeConfig
from hagan3d.errors import InputError

Size = tuple[int, int, int]

LOW_SIDE = 64  # voxels: the low-resolution anchor has at most so many along any axis
SIZE_STEP = 32  # voxels: every side is a multiple of it


def check_size(size: Size) -> None:
    """Raise InputError unless every side is a multiple of 32 from 32 up."""
    if len(size) != 3 or any(side < SIZE_STEP or side % SIZE_STEP for side in size):
        raise InputError(
            f"size {list(size)}: every side D, H, W must be a multiple of {SIZE_STEP}, from {SIZE_STEP} up"
        )


def low_factor(size: Size) -> int:
    """Voxels of the volume per voxel of the low-resolution anchor and of A: 4 up to 256, 8 at 512, 16 at 1024."""
    return max(4, 2 ** math.ceil(math.log2(max(size) / LOW_SIDE)))


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of real volumes before they are cut (MONAI transforms, seeded per step and volume)."""

    flip_axes: tuple[Literal["D", "H", "W"], ...] = ()
    """Axes mirrored with probability 1/2. W is left-right for axial slabs; mirror only what nature mirrors."""
    rotate_deg: float = 0.0
    """Largest rotation about each axis, degrees."""
    scale: float = 0.0
    """Largest relative zoom: 0.1 scales by 0.9 to 1.1."""
    shift: float = 0.0
    """Largest shift along each axis, as a fraction of that side."""
    brightness: float = 0.0
    """Largest shift of intensity, in units of the [-1, 1] range."""
    contrast: float = 0.0
    """Largest relative change of contrast: 0.1 scales by 0.9 to 1.1."""
    noise: float = 0.0
    """Largest standard deviation of added Gaussian noise, in units of the [-1, 1] range."""

    def __post_init__(self) -> None:
        for name in ("rotate_deg", "scale", "shift", "brightness", "contrast", "noise"):
            if getattr(self, name) < 0:
                raise InputError(f"data.augment.{name}: want a number from 0 up, got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether any change is asked for."""
        return self != AugmentConfig()


@dataclass(frozen=True)
class DataConfig:
    """The real volumes of a run."""

    store: str | None = None
    """HDF5 store made by `hagan3d prepare`, or a folder of its shards. Without one, phantoms are made."""
    size: Size = (32, 32, 32)
    """Voxels per axis D, H, W; each a multiple of 32. It must be the store's."""
    subvolume_depth: int | None = None
    """Slices of a sub-volume (HA-GAN: what D^H and E^H see) or window (translation), a multiple of the low-resolution
    factor (4 up to 256). Default: 1/8 of D."""
    window: Literal["whole", "patch", "hierarchical"] = "whole"
    """For translation: what the networks learn on. whole: whole volumes. patch: windows of `subvolume_depth` slices.
    hierarchical: such windows, beside what an anchor makes of the low-resolution volume (64 voxels a side at most)."""
    windows: Literal["even", "uniform", "fixed", "published"] = "even"
    """Where sub-volumes are cut. even: every slice about equally often. For comparison: uniform, at any start that
    A allows; fixed, in the middle; published, one start for the batch, generated ones up to A's stride off."""
    split: str = "train"
    """The part of the store to train on; "all" takes every volume."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of real volumes."""
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """For translation: sources simulated from the volumes of a store without pairs."""
    paired: bool = True
    """For translation: whether source and target are of one subject; if not, targets are drawn by themselves."""
    fraction: float = 1.0
    """For translation: fraction of the subjects of the split to train on; smaller ones are parts of larger ones."""
    phantoms: int = 96
    """Volumes made when there is no store."""

    def __post_init__(self) -> None:
        check_size(self.size)
        depth, factor = self.subvolume_depth, low_factor(self.size)
        if depth is not None and not (0 < depth <= self.size[0] and depth % factor == 0):
            raise InputError(
                f"data.subvolume_depth: want a multiple of {factor} (the low-resolution factor at {list(self.size)}) "
                f"from {factor} to {self.size[0]}, got {depth}"
            )
        if not 0 < self.fraction <= 1:
            raise InputError(f"data.fraction: want more than 0, at most 1, got {self.fraction}")
        if self.phantoms < 2:
            raise InputError(f"data.phantoms: want at least 2, got {self.phantoms}")

    @property
    def factor(self) -> int:
        """Low-resolution factor."""
        return low_factor(self.size)

    @property
    def depth(self) -> int:
        """Slices per sub-volume: as set, else 1/8 of D rounded up to the low-resolution factor."""
        return self.subvolume_depth or self.factor * math.ceil(self.size[0] / 8 / self.factor)

    @property
    def low_size(self) -> Size:
        """Voxels of the low-resolution volume."""
        d, h, w = (side // self.factor for side in self.size)
        return d, h, w

    @property
    def seen_size(self) -> Size:
        """Voxels of what the networks of a translation learn on: a whole volume, or a window."""
        return self.size if self.window == "whole" else (self.depth, *self.size[1:])
