"""Settings of the volumes that a run trains on; a method names the class whose settings it reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from hagan3d.config.bounds import Section, bounded
from hagan3d.config.degrade import DegradeConfig
from hagan3d.errors import InputError

Size = tuple[int, int, int]

LOW_SIDE = 64  # voxels: most that the low-resolution volume has along any axis
SIZE_STEP = 32  # voxels: every side is a multiple of it
MAX_CHUNK = 2**32  # bytes: HDF5 holds chunks below it


def check_size(size: Size) -> None:
    """Raise InputError unless every side is a multiple of 32; D may be 1, the size of slices."""
    sides = size[1:] if is_slice(size) else size
    if len(size) != 3 or any(side < SIZE_STEP or side % SIZE_STEP for side in sides):
        raise InputError(
            f"size {list(size)}: every side D, H, W must be a multiple of {SIZE_STEP}, at least {SIZE_STEP} (D of "
            "slices: 1)"
        )
    slab = low_factors(size)[0] * size[1] * size[2] * 2
    if slab >= MAX_CHUNK:
        raise InputError(
            f"size {list(size)}: slabs of {low_factors(size)[0]} slices of {size[1]} x {size[2]} voxels have "
            f"{slab / 2**30:.3g} GiB, and a store holds slabs below {MAX_CHUNK / 2**30:g} GiB; use a smaller H or W"
        )


def is_slice(size: Sequence[int]) -> bool:
    """Return whether volumes of a size are single slices ``[1, H, W]``."""
    return size[0] == 1


def shortest_side(size: Sequence[int]) -> int:
    """Return the shortest side; of slices, the shorter of H and W."""
    return min(size[1:] if is_slice(size) else size)


def low_factor(size: Size) -> int:
    """Downsampling factor of the low-resolution volume and of A: 4 up to 256, 8 at 512, 16 at 1024.

    It divides every side: of 4096 x 32 x 32 it is 32, not 64.
    """
    common = math.gcd(*(size[1:] if is_slice(size) else size))
    return min(max(4, 2 ** math.ceil(math.log2(max(size) / LOW_SIDE))), common & -common)


def low_factors(size: Size) -> Size:
    """Return the downsampling factor along D, H and W; along D of slices it is 1."""
    factor = low_factor(size)
    return (1 if is_slice(size) else factor), factor, factor


@dataclass(frozen=True)
class AugmentConfig(Section):
    """Random augmentation of real volumes (MONAI transforms, seeded per step and volume)."""

    PREFIX: ClassVar[str] = "data.augment."

    flip_axes: tuple[Literal["D", "H", "W"], ...] = ()
    """Axes mirrored with probability 1/2. W is left-right for axial slices; mirror only what is symmetric in nature."""
    rotate_deg: float = bounded(0.0, at_least=0)
    """Largest rotation about each axis, degrees."""
    scale: float = bounded(0.0, at_least=0, below=1)
    """Largest relative zoom: 0.1 scales by 0.9 to 1.1."""
    shift: float = bounded(0.0, at_least=0)
    """Largest translation along each axis, as a fraction of that side."""
    brightness: float = bounded(0.0, at_least=0)
    """Largest intensity shift, in units of the [-1, 1] range."""
    contrast: float = bounded(0.0, at_least=0, below=1)
    """Largest relative change of contrast: 0.1 scales by 0.9 to 1.1."""
    noise: float = bounded(0.0, at_least=0)
    """Largest standard deviation of additive Gaussian noise, in units of the [-1, 1] range."""

    @property
    def active(self) -> bool:
        """Whether any augmentation is on."""
        return self != AugmentConfig()

    @property
    def in_space(self) -> Self:
        """The same without changes of intensities."""
        return replace(self, brightness=0.0, contrast=0.0, noise=0.0)

    @property
    def changes_intensities(self) -> bool:
        """Whether one that is on changes intensities."""
        return bool(self.brightness or self.contrast or self.noise)


@dataclass(frozen=True)
class DataConfig(Section):
    """The volumes of a run."""

    PREFIX: ClassVar[str] = "data."

    store: str | None = None
    """HDF5 store made by `hagan3d prepare`, or a folder of its shards. Default: synthetic chest CTs are made."""
    size: Size = (32, 32, 32)
    """Voxels per axis D, H, W; each a multiple of 32. It must equal the store's; with `slices`, that of its slices, [1,
    H, W]."""
    slices: Literal["none", "axial", "coronal", "sagittal"] = "none"
    """Train on slices of this plane: each sample is a random slice of a volume. A slice is blank, and another is
    sampled, if less than 1 % of its voxels are above -0.95 in every channel. none: volumes are used whole."""
    split: str = "train"
    """Part of the store to train on: train, validation, test or all."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of real volumes."""
    phantoms: int = bounded(96, at_least=2)
    """Number of synthetic volumes made when there is no store."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        if self.slices != "none" and not is_slice(self.size):
            raise InputError(
                f"data.slices {self.slices}: slices have the size [1, H, W], but data.size is {list(self.size)}; use "
                f"--data.size 1 {self.size[1]} {self.size[2]}, or --data.slices none"
            )

    @property
    def phantom_size(self) -> Size:
        """Voxels of the synthetic volumes made when there is no store: with `slices`, as many slices as rows."""
        _, rows, columns = self.size
        if self.slices == "none":
            return self.size
        return (rows, columns, rows) if self.slices == "sagittal" else (rows, rows, columns)

    @property
    def factor(self) -> int:
        """Downsampling factor of the low-resolution volume."""
        return low_factor(self.size)

    @property
    def low_size(self) -> Size:
        """Voxels of the low-resolution volume."""
        d, h, w = (side // factor for side, factor in zip(self.size, low_factors(self.size), strict=True))
        return d, h, w


@dataclass(frozen=True)
class VolumeDataConfig(DataConfig):
    """Volumes of several channels, and their label maps."""

    channels: int = bounded(1, at_least=1)
    """Image channels of a volume. It must equal the store's."""
    labels: int = bounded(0, at_least=0, at_most=256)
    """Labels of the label maps, which are generated together with the images; 0: none. It must equal the store's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == 1:
            raise InputError("data.labels: must be 0 or at least 2, the background included, got 1")

    @property
    def volume_channels(self) -> int:
        """Channels that networks see: the image channels, and one per label."""
        return self.channels + self.labels


@dataclass(frozen=True)
class SubvolumeDataConfig(VolumeDataConfig):
    """Volumes, and the sub-volumes that are selected from them at full resolution."""

    subvolume_depth: int | None = bounded(None, at_least=1)
    """Slices of a sub-volume, a multiple of the low-resolution factor (4 up to 256). Default: 1/8 of D."""
    subvolume_sampling: Literal["even", "uniform", "fixed", "published"] = "even"
    """Distribution of the first slice of a sub-volume. even: every slice is seen about equally often. For comparison:
    uniform over all starts on the grid of A; fixed in the middle; published, one start for the whole batch, generated
    sub-volumes up to the stride of A apart from the real ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_depth(self.subvolume_depth, self.size, self.factor)

    @property
    def depth(self) -> int:
        """Slices of a sub-volume: as set, else 1/8 of D rounded up to the low-resolution factor."""
        return self.subvolume_depth or self.factor * math.ceil(self.size[0] / 8 / self.factor)


@dataclass(frozen=True)
class PairDataConfig(DataConfig):
    """Pairs of a source and a target volume, stored or simulated."""

    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """Simulated sources: the volumes of a store without pairs, degraded."""
    fraction: float = bounded(1.0, above=0, at_most=1)
    """Fraction of the subjects of the split to train on; smaller fractions are subsets of larger ones."""
    context: int = bounded(1, at_least=1, at_most=15)
    """Slices that a source shows, an odd number: the slice itself and its neighbours, as further channels (2.5D). At
    the faces of a volume the outermost slice is repeated. It needs `slices`; a target is one slice."""

    paired = True
    window = "whole"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degrade.kind == "thick-slices" and is_slice(self.size) and self.slices == "none":
            raise InputError(
                "data.degrade.kind thick-slices: averages slices, but the volumes have one; use another kind"
            )
        if self.context % 2 == 0:
            raise InputError(f"data.context: must be an odd number, got {self.context}")
        if self.context > 1 and self.slices == "none":
            raise InputError(
                f"data.context {self.context}: neighbouring slices need data.slices; set it, or leave it out"
            )

    @property
    def depth(self) -> int:
        """Slices of what the networks train on."""
        return self.size[0]

    @property
    def train_size(self) -> Size:
        """Voxels of what the networks train on: a whole volume, or a window of it."""
        return self.depth, *self.size[1:]

    @property
    def source_volume_size(self) -> Size:
        """Voxels of a whole source volume."""
        return self.size

    @property
    def source_train_size(self) -> Size:
        """Voxels of the sources that the networks train on."""
        return (self.source_volume_size[0] if self.window == "whole" else self.depth), *self.source_volume_size[1:]


@dataclass(frozen=True)
class PatchDataConfig(PairDataConfig):
    """Pairs, whole or cut into windows along D."""

    window: Literal["whole", "patch"] = "whole"
    """What the networks train on. whole: whole volumes. patch: windows of `subvolume_depth` slices."""
    subvolume_depth: int | None = bounded(None, at_least=1)
    """Slices of a window: 8, 16 or a multiple of 32. Default: 1/8 of D, at least the low-resolution factor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window != "whole" and is_slice(self.size):
            raise InputError(f"data.window {self.window}: a slice has no windows along D; use --data.window whole")
        check_depth(self.subvolume_depth, self.size, self.factor)
        if self.window == "whole" and self.subvolume_depth is not None:
            raise InputError(
                "data.subvolume_depth: whole volumes are translated; leave it out, or set data.window patch"
            )
        if self.window != "whole" and self.depth % 32 and self.depth not in (8, 16):
            raise InputError(f"data.subvolume_depth: windows have 8, 16 or a multiple of 32 slices, got {self.depth}")

    @property
    def depth(self) -> int:
        """Slices of what the networks train on."""
        if self.window == "whole":
            return self.size[0]
        return self.subvolume_depth or self.factor * math.ceil(self.size[0] / 8 / self.factor)


@dataclass(frozen=True)
class UnpairedDataConfig(PatchDataConfig):
    """Source and target volumes of two domains, paired or not; windows of both begin at the same slice.

    Where the domains have different numbers of slices, windows begin at about the same fraction of them.
    """

    paired: bool = False
    """Whether source and target of a sample are of one subject; if not, targets are sampled independently."""
    source_size: Size | None = None
    """Voxels per axis D, H, W of the source domain, where it has a grid of its own; `size` is that of the target
    domain. It must equal the store's. Default: `size`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_size is not None:
            self._check_source(self.source_size)
        if self.context > 1:
            raise InputError(
                f"data.context {self.context}: a method that also translates targets to sources would have to predict "
                "the neighbours; leave it out"
            )

    def _check_source(self, size: Size) -> None:
        """Raise InputError unless the source domain can have this size."""
        check_size(size)
        if is_slice(size) != is_slice(self.size):
            raise InputError(
                f"data.source_size {list(size)}: slices and volumes do not mix, and data.size is {list(self.size)}"
            )
        if size != self.size and (self.paired or self.degrade.active):
            raise InputError(
                f"data.source_size {list(size)}: source and target of a pair lie on one grid, and data.size is "
                f"{list(self.size)}; leave it out, or train on two domains without data.paired and data.degrade"
            )
        if self.window != "whole":
            check_depth(self.depth, size, low_factor(size))

    @property
    def source_volume_size(self) -> Size:
        """Voxels of a whole source volume."""
        return self.source_size or self.size


@dataclass(frozen=True)
class WindowDataConfig(PatchDataConfig):
    """Pairs, whole or cut into windows along D, perhaps with hierarchical conditioning."""

    window: Literal["whole", "patch", "hierarchical"] = "whole"  # type: ignore[assignment]
    """What the networks train on. whole: whole volumes. patch: windows of `subvolume_depth` slices. hierarchical: such
    windows, concatenated with the prediction of a low-resolution network for the whole volume."""


def check_depth(depth: int | None, size: Size, factor: int) -> None:
    """Raise InputError unless sub-volumes of ``depth`` slices lie on the low-resolution grid; slices have none."""
    if depth is not None and not is_slice(size) and not (depth <= size[0] and depth % factor == 0):
        raise InputError(
            f"data.subvolume_depth: must be a multiple of {factor} (the low-resolution factor at {list(size)}), at "
            f"most {size[0]}, got {depth}"
        )
