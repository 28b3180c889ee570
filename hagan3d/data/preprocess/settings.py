"""Settings of `prepare`: how files become the volumes of a store, with units and defaults."""

import math
from dataclasses import dataclass
from typing import Literal

from hagan3d.config import Size, check_size
from hagan3d.errors import InputError


def check_intervals(prefix: str, window: tuple[float, float], percentiles: tuple[float, float]) -> None:
    """Raise InputError unless both intervals are some."""
    if not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(f"{prefix}window {list(window)}: want the lower value first")
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(f"{prefix}percentiles {list(percentiles)}: want two from 0 to 100, the lower first")


@dataclass(frozen=True)
class DomainConfig:
    """Intensities of the sources of pairs, or of the source domain; those of targets are set as for any store."""

    intensity: Literal["window", "percentiles", "z-score"] = "percentiles"
    """What becomes [-1, 1] in sources."""
    window: tuple[float, float] = (-1024.0, 600.0)
    """Lowest and highest value for `intensity: window`, in the units of the sources' files (HU for CT)."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Per cent, for `intensity: percentiles`."""
    units: str = ""
    """Name of the intensity units of sources."""

    def __post_init__(self) -> None:
        check_intervals("source.", self.window, self.percentiles)


@dataclass(frozen=True)
class PrepareConfig:
    """How files become the volumes of a store."""

    size: Size = (64, 64, 64)
    """Voxels per axis D, H, W of every stored volume; D is the axis sub-volumes are cut along."""
    orientation: str = "RAS"
    """Orientation of the volumes that come out, three letters as nibabel has them (RAS: x to the right, ...)."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """Slices that sub-volumes are made of: D runs across them."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres per voxel along D, H, W. Default: what `fit` makes of each volume."""
    fit: Literal["resize", "crop-pad"] | None = None
    """resize: the whole volume is stretched to `size`. crop-pad: the spacing (the file's own if none is given) is kept
    and the volume cut or padded round its centre. Default: crop-pad where a spacing is given, else resize."""
    intensity: Literal["window", "percentiles", "z-score", "labels"] = "percentiles"
    """What becomes [-1, 1]: one window for all, two percentiles of each volume, or mean +- 3 deviations of each. With
    labels, volumes (of pairs, the targets) are label maps, never averaged; `window` is 0 and the largest label."""
    window: tuple[float, float] = (-1024.0, 600.0)
    """Lowest and highest value for `intensity: window`, in the units of the files (HU for CT)."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Per cent, for `intensity: percentiles`."""
    masks: str | None = None
    """Folder of volumes named as the scans or beginning so, above 0 where `intensity: z-score` shall look. Default: it
    looks at voxels above the mean of each scan."""
    units: str = ""
    """Name of the intensity units, written into pictures and tables. Default: HU for a window, else none."""
    trim: bool = False
    """Cut off blank slices (background) on all sides before resizing."""
    labels: str | None = None
    """CSV with a column `id` (file name without its ending, or its start), perhaps `class`, `subject` and numbers."""
    class_column: str = "class"
    """Column of the CSV that holds the class."""
    partial_labels: bool = False
    """Accept volumes without a line in the CSV (their class is unknown) and lines without a volume."""
    subject: str | None = None
    """Rule that makes a subject from an id where the CSV has none: a regular expression with one group, or `pairs`."""
    validation: float = 0.1
    """Fraction of subjects held out for validation."""
    test: float = 0.0
    """Fraction of subjects held out for testing."""
    seed: int = 0
    """Of the split."""
    fill: float | None = None
    """Value that replaces NaN and infinite voxels. Default: such a volume is an error."""
    skip_bad: bool = False
    """Leave out files that cannot be used and say which, instead of stopping."""
    workers: int = 2
    """Processes that read and resample."""
    shard: str | None = None
    """k/n: prepare only part k (1 to n) of the list, as one task of an array job."""

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.spacing is not None and (self.fit == "resize" or any(not 0 < side < math.inf for side in self.spacing)):
            raise InputError(f"spacing {list(self.spacing)}: want three sides above 0 mm, and --fit crop-pad")
        check_intervals("", self.window, self.percentiles)
        if self.intensity == "labels" and not (self.window[0] == 0 and self.window[1] in range(1, 256)):
            raise InputError(
                f"intensity labels: want --window 0 K, K (1 to 255) the largest label, got {list(self.window)}"
            )
        if self.validation < 0 or self.test < 0 or self.validation + self.test >= 1:
            raise InputError(
                f"validation {self.validation:g}, test {self.test:g}: want fractions that leave some to train"
            )
        if self.fill is not None and not math.isfinite(self.fill):
            raise InputError(f"fill: want a finite value, got {self.fill}")
        if self.masks is not None and self.intensity != "z-score":
            raise InputError(f"masks: want --intensity z-score with them, got {self.intensity}")
        if self.workers < 1:
            raise InputError(f"workers: want at least 1, got {self.workers}")

    @property
    def fit_used(self) -> Literal["resize", "crop-pad"]:
        """How volumes are brought to `size`."""
        return self.fit or ("resize" if self.spacing is None else "crop-pad")

    @property
    def units_used(self) -> str:
        """Name of the intensity units."""
        return self.units or ("HU" if self.intensity == "window" else "")

    @property
    def part(self) -> tuple[int, int]:
        """Which shard this is, k of n; 1 of 1 without shards."""
        if self.shard is None:
            return 1, 1
        k, _, n = self.shard.partition("/")
        if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
            raise InputError(f"shard {self.shard!r}: want k/n with k from 1 to n, such as 3/16")
        return int(k), int(n)
