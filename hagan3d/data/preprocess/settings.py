"""Settings of `hagan3d prepare`, with units, bounds and defaults."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hagan3d.config import Size, check_size
from hagan3d.config.bounds import MAX_SEED, Section, bounded
from hagan3d.errors import InputError

MAX_LABEL = 255
WINDOW = (-1024.0, 600.0)  # HU, of a CT
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class ChannelConfig(Section):
    """Intensities of one channel; what is not set is that of the others."""

    PREFIX: ClassVar[str] = "intensities."

    intensity: Literal["window", "percentiles", "z-score"] | None = None
    """Interval that becomes [-1, 1]."""
    window: tuple[float, float] | None = None
    """Lower and upper limit for `intensity: window`, in the units of the files (HU for CT)."""
    percentiles: tuple[float, float] | None = bounded(None, at_least=0, at_most=100)
    """Lower and upper percentile for `intensity: percentiles`."""
    units: str = ""
    """Name of the intensity units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self.PREFIX, self.window, self.percentiles)


@dataclass(frozen=True)
class DomainConfig(Section):
    """Intensities of the sources of pairs, or intensities and grid of the source domain."""

    PREFIX: ClassVar[str] = "source."

    intensity: Literal["window", "percentiles", "z-score"] = "percentiles"
    """Interval that becomes [-1, 1]."""
    window: tuple[float, float] | None = None
    """Lower and upper limit for `intensity: window`, in the units of the files. Default: -1024 600."""
    percentiles: tuple[float, float] | None = bounded(None, at_least=0, at_most=100)
    """Lower and upper percentile for `intensity: percentiles`. Default: 0.5 99.5."""
    units: str = ""
    """Name of the intensity units."""
    size: Size | None = None
    """Voxels per axis D, H, W of the volumes of the source domain. Default: those of the target domain."""
    spacing: tuple[float, float, float] | None = bounded(None, above=0)
    """Voxel spacing of the source domain along D, H, W, mm; its volumes are cropped or padded. Default: as for the
    target domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self.PREFIX, self.window, self.percentiles)
        if self.size is not None:
            check_size(self.size)


@dataclass(frozen=True)
class PrepareConfig(Section):
    """How files are preprocessed into the volumes of a store."""

    size: Size = (64, 64, 64)
    """Voxels per axis D, H, W of every stored volume; sub-volumes are windows along D."""
    orientation: str = "RAS"
    """Orientation of generated and translated files, three-letter axis codes (RAS: x to the right, y to the front, z
    to the head)."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """Slice plane of sub-volumes: D is perpendicular to it."""
    spacing: tuple[float, float, float] | None = bounded(None, above=0)
    """Voxel spacing along D, H, W, mm. Default: determined by `fit` for each volume."""
    fit: Literal["resize", "crop-pad"] | None = None
    """resize: stretch the whole volume to `size`. crop-pad: resample to `spacing` (default: that of the file) and crop
    or pad around the centre. Default: crop-pad if a spacing is given, else resize."""
    intensity: Literal["window", "percentiles", "z-score", "labels"] = "percentiles"
    """Interval that becomes [-1, 1]: a fixed window, two percentiles of each volume, or mean +- 3 standard deviations
    of each volume. labels: volumes (of pairs, the targets) are label maps, resampled by the largest share, and
    `window` is 0 and the largest label."""
    window: tuple[float, float] | None = None
    """Lower and upper limit for `intensity: window`, in the units of the files (HU for CT). Default: -1024 600."""
    percentiles: tuple[float, float] | None = bounded(None, at_least=0, at_most=100)
    """Lower and upper percentile for `intensity: percentiles`. Default: 0.5 99.5."""
    intensities: dict[str, ChannelConfig] = field(default_factory=dict)
    """Intensities of single channels, by name, where they differ from the settings above: `--intensities '{ct:
    {intensity: window, units: HU}}'`."""
    channels: Literal["3d", "4d"] = "3d"
    """Channels of a file. 3d: one. 4d: one per index of the last axis of a 4D file or of its vectors."""
    channel_names: tuple[str, ...] = ()
    """Names of the channels of 4D files, in their order. Default: channel-1, channel-2, ..."""
    label_names: tuple[str, ...] = ()
    """Names of the labels in column `seg` of a CSV of cases, in the order of their values, background first."""
    masks: str | None = None
    """Folder of masks for `intensity: z-score`, above 0 in the region of the statistics; the name of a mask is that of
    its scan, or begins with it. Default: voxels above the mean of each scan."""
    units: str = ""
    """Name of the intensity units, for figures and tables. Default: HU for a window, otherwise empty."""
    trim: bool = False
    """Whether to crop blank slices (background) on all sides before resizing."""
    labels: str | None = None
    """CSV with a column `id` (file name without its ending, or a prefix), and optionally `class`, `subject` and numeric
    columns."""
    class_column: str = "class"
    """Column of the CSV with the class."""
    partial_labels: bool = False
    """Whether to accept volumes without a line in the CSV (unknown class) and lines without a volume."""
    subject: str | None = None
    """Rule for the subject of an id without a subject in the CSV: a regular expression with one group, or `pairs`.
    Default: volumes of one PatientID of DICOM (of one study, if all have the same or none), of one participant of BIDS
    (sub-01_ses-1, sub-01_ses-2) or that share a file are of one subject."""
    validation: float = bounded(0.1, at_least=0, below=1)
    """Fraction of subjects held out for validation. Of 20 subjects or more at least 5 are held out, which `evaluate`
    needs, unless this and `test` are 0."""
    test: float = bounded(0.0, at_least=0, below=1)
    """Fraction of subjects held out for testing."""
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED)
    """Random seed of the split."""
    fill: float | None = None
    """Replacement for NaN and infinite voxels, also in files that a model of this store is given later. Default: they
    are an error."""
    skip_bad: bool = False
    """Whether to leave out unusable files and report them, instead of stopping."""
    workers: int = bounded(2, at_least=1)
    """Number of processes that read and resample."""
    shard: str | None = None
    """k/n: prepare only shard k (1 to n) of the list, as one task of an array job."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)
        _check_order("", self.window, self.percentiles)
        others = {channel.intensity for channel in self.intensities.values()}
        check_used("", self.window, self.percentiles, self.intensity, others)
        if self.spacing is not None and self.fit == "resize":
            raise InputError(f"spacing: must be unset with --fit resize, got {list(self.spacing)}; use --fit crop-pad")
        low, high = self.window or (-1.0, -1.0)
        if self.intensity == "labels" and not (low == 0 and high in range(1, MAX_LABEL + 1)):
            raise InputError(
                f"window: must be 0 K with --intensity labels, K (1 to {MAX_LABEL}) the largest label, "
                f"got {'none' if self.window is None else list(self.window)}"
            )
        if self.validation + self.test >= 1:
            raise InputError(
                f"validation, test: must have a sum below 1, got {self.validation:g} and {self.test:g}; leave some "
                "subjects for training"
            )
        if self.fill is not None and not math.isfinite(self.fill):
            raise InputError(f"fill: must be finite, got {self.fill}")
        if len(set(self.channel_names)) < len(self.channel_names):
            raise InputError(f"channel_names: must differ from each other, got {list(self.channel_names)}")
        if self.masks is not None and self.intensity != "z-score":
            raise InputError(f"masks: need --intensity z-score, got {self.intensity}")
        if self.labels is None and (self.class_column != "class" or self.partial_labels):
            raise InputError("class_column, partial_labels: are about the table of --labels; give it or leave them out")

    @property
    def fit_used(self) -> Literal["resize", "crop-pad"]:
        """`fit` with its default resolved."""
        return self.fit or ("resize" if self.spacing is None else "crop-pad")

    @property
    def units_used(self) -> str:
        """Name of the intensity units."""
        return self.units or ("HU" if self.intensity == "window" else "")

    @property
    def shard_position(self) -> tuple[int, int]:
        """Shard k of n; 1 of 1 without shards."""
        if self.shard is None:
            return 1, 1
        k, _, n = self.shard.partition("/")
        if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
            raise InputError(f"shard: must be k/n with k from 1 to n, such as 3/16, got {self.shard!r}")
        return int(k), int(n)


def check_used(
    prefix: str,
    window: tuple[float, float] | None,
    percentiles: tuple[float, float] | None,
    intensity: str,
    others: Collection[str | None],
) -> None:
    """Raise InputError if a section has a window or percentiles that no channel uses.

    Args:
        prefix: Of the section.
        window: Its window.
        percentiles: Its percentiles.
        intensity: Its intensity.
        others: Intensities of single channels, which may take the intervals of the section.
    """
    used = {intensity, *others}
    if window is not None and not used & {"window", "labels"}:
        raise InputError(f"{prefix}window: has no effect with intensity {intensity}; use {prefix}intensity window")
    if percentiles is not None and "percentiles" not in used:
        raise InputError(f"{prefix}percentiles: have no effect with intensity {intensity}; leave them out")


def _check_order(prefix: str, window: tuple[float, float] | None, percentiles: tuple[float, float] | None) -> None:
    """Raise InputError unless intervals are finite and in ascending order."""
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(f"{prefix}window: must be two finite values in ascending order, got {list(window)}")
    if percentiles is not None and not percentiles[0] < percentiles[1]:
        raise InputError(f"{prefix}percentiles: must be in ascending order, got {list(percentiles)}")
