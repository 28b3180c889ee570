"""Dataset metadata stored with a checkpoint: grid, spacing, channels, label names and class names."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from hagan3d.config import Size, check_size
from hagan3d.config.serialization import has_type
from hagan3d.data.io.checks import check_affine
from hagan3d.data.io.files import same_file
from hagan3d.data.io.geometry import (
    Axis,
    Fit,
    GridRule,
    check_orientation,
    slice_affine,
    slice_axis,
    spacing_of,
    stored_code,
)
from hagan3d.data.preprocess.intensity import IntensityRule, Kind
from hagan3d.errors import InputError

CHANNEL_FIELDS = ("channels", "source_channels")


@dataclass(frozen=True)
class Channel:
    """One image channel: its name, units and intensities."""

    name: str
    intensity: Kind
    """How the interval [lo, hi] of each volume was determined; x = 2 (v - lo) / (hi - lo) - 1, clipped to [-1, 1]."""
    lo: float
    """Value of x = -1 in file units; the median if volumes have individual intervals."""
    hi: float
    """Value of x = 1 in file units; the median if volumes have individual intervals."""
    units: str = ""
    """Unit of the intensities; empty: arbitrary."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Lower and upper percentile, for `intensity: percentiles`."""
    masked: bool = False
    """Whether the statistics of `intensity: z-score` were those inside masks, which new files do not have."""

    @classmethod
    def of(cls, rule: dict[str, Any], interval: Sequence[float], masked: bool = False) -> "Channel":
        """Return a channel by its settings in a store; ``masked``: z-scores there are those inside masks."""
        lo, hi = map(float, interval)
        is_masked = masked and rule["intensity"] == "z-score"
        return cls(rule["name"], rule["intensity"], lo, hi, rule["units"], tuple(rule["percentiles"]), is_masked)

    @property
    def interval(self) -> tuple[float, float]:
        """Values of x = -1 and x = 1 in file units."""
        return self.lo, self.hi

    @property
    def rule(self) -> IntensityRule:
        """How the intensity interval of a new file is determined."""
        return IntensityRule(self.intensity, self.interval, self.percentiles)


@dataclass(frozen=True)
class Grid:
    """The grid of the source domain, where it has one of its own; the fields are those of `DataDescription`."""

    size: Size
    affine: tuple[tuple[float, ...], ...]
    spacing: tuple[float, float, float] | None
    fit: Fit


@dataclass(frozen=True)
class DataDescription:
    """Metadata of the data set that a model was trained on, in plain values."""

    size: Size
    """Voxels D, H, W of a stored volume."""
    orientation: str
    """Orientation of written files, three-letter axis codes."""
    axis: Axis
    """Slice plane perpendicular to D."""
    affine: tuple[tuple[float, ...], ...]
    """Index (d, h, w) of a stored voxel to RAS mm, 4 x 4: the mean geometry of the training volumes."""
    channels: tuple[Channel, ...]
    """Image channels; of pairs, those of the targets."""
    label_names: tuple[str, ...] = ()
    """Names of the labels of the label map, in the order of their values; empty: no label map."""
    spacing: tuple[float, float, float] | None = None
    """Spacing requested from `prepare`, mm along D, H, W; None: not set."""
    fit: Fit = "resize"
    """How volumes were resampled to `size`."""
    trim: bool = False
    """Whether blank slices were cropped first."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their indices."""
    source: str = ""
    """Name of the store."""
    volumes: int = 0
    """Volumes in the store."""
    source_channels: tuple[Channel, ...] = ()
    """Image channels of sources in pairs or two domains; empty: those of the volumes."""
    source_grid: Grid | None = None
    """Grid of the source domain; None: that of the volumes."""
    fill: float | None = None
    """Replaced NaN and infinite voxels; None: they were an error."""

    @property
    def affine_array(self) -> np.ndarray:
        """The affine as an array [4, 4], float64."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def voxel_spacing(self) -> tuple[float, float, float]:
        """Millimetres per voxel along D, H, W."""
        depth, height, width = spacing_of(self.affine_array)
        return float(depth), float(height), float(width)

    @property
    def grid_rule(self) -> GridRule:
        """The target grid of a new file."""
        return GridRule(self.size, self.orientation, self.axis, self.spacing, self.fit, self.trim)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return {key: _lists(value) for key, value in asdict(self).items()}

    def on_grid_of(self, domain: str) -> "DataDescription":
        """Return the description with the grid of a domain, source or target, as its only one."""
        own = self.source_grid if domain == "source" else None
        changed = {} if own is None else {field.name: getattr(own, field.name) for field in fields(own)}
        return replace(self, **changed, source_grid=None)

    def of_slices(self, plane: Axis) -> "DataDescription":
        """Return the description of single slices ``[1, rows, columns]``, at the place of the middle slice.

        Raises:
            InputError: If the rows of these slices are the columns of slices that are read from files.
        """
        axis = slice_axis(plane, self.orientation, self.axis)
        stored = stored_code(self.orientation, self.axis)
        if stored[axis] + stored[:axis] + stored[axis + 1 :] != stored_code(self.orientation, plane):
            raise InputError(
                f"data.slices {plane}: of volumes prepared with --axis {self.axis} rows and columns would be swapped "
                f"against those of files; prepare them with --axis {plane}"
            )
        rows, columns = (side for other, side in enumerate(self.size) if other != axis)
        affine = slice_affine(self.affine_array, self.size, axis)
        spacing = None if self.spacing is None else (self.spacing[axis], *np.delete(self.spacing, axis).tolist())
        return replace(self, size=(1, rows, columns), axis=plane, affine=_tuples(affine.tolist()), spacing=spacing)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataDescription":
        """Invert `to_dict`.

        Raises:
            InputError: If a field is missing or unknown, or has another type.
        """
        known = {field.name for field in fields(cls)}
        required = {"size", "orientation", "axis", "affine", "channels"}
        if not isinstance(values, dict) or not required <= set(values) <= known:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InputError(f"data description: must have the fields {sorted(known)}, got {got}")
        plain = {key: _tuples(value) for key, value in values.items() if key not in (*CHANNEL_FIELDS, "source_grid")}
        lists = {key: values[key] for key in CHANNEL_FIELDS if key in values}
        _check_types(plain, cls)
        if not all(isinstance(value, list | tuple) for value in lists.values()) or not lists["channels"]:
            raise InputError("data description: channels and source_channels must be lists of channels")
        check_orientation(plain["orientation"])
        _check_grid(plain)
        plain |= {key: tuple(map(_channel, value)) for key, value in lists.items()}
        if any(same_file(channel.name for channel in plain[key]) for key in lists):
            raise InputError("data description: two channels have the same name")
        if values.get("source_grid") is not None:
            plain["source_grid"] = _grid(values["source_grid"])
        return cls(**plain)


def _check_grid(plain: dict[str, Any]) -> None:
    """Raise InputError unless the size and the affine of a grid are valid."""
    check_size(plain["size"])
    rows = plain["affine"]
    if len(rows) != 4 or any(len(row) != 4 for row in rows) or tuple(rows[3]) != (0, 0, 0, 1):
        raise InputError("data description: the affine must be 4 x 4 numbers, of which the last four are 0, 0, 0, 1")
    try:
        check_affine(np.array(rows, dtype=np.float64))
    except InputError as error:
        raise InputError(f"data description: {error}") from error


def _grid(values: Any) -> Grid:
    names = {field.name for field in fields(Grid)}
    if not isinstance(values, dict) or set(values) != names:
        raise InputError(f"data description: source_grid must have the fields {sorted(names)}, got {values}")
    plain = {key: _tuples(value) for key, value in values.items()}
    _check_types(plain, Grid)
    _check_grid(plain)
    return Grid(**plain)


def _channel(values: Any) -> Channel:
    names = {field.name for field in fields(Channel)}
    if not isinstance(values, dict) or not {"name", "intensity", "lo", "hi"} <= set(values) <= names:
        raise InputError(f"data description: a channel must have the fields {sorted(names)}, got {values}")
    plain = {key: _tuples(value) for key, value in values.items()}
    _check_types(plain, Channel)
    if not -math.inf < plain["lo"] < plain["hi"] < math.inf:
        raise InputError(
            f"data description: the interval of channel {plain['name']} must be two finite numbers, the lower first"
        )
    return Channel(**plain)


def _check_types(values: dict[str, Any], kind: type) -> None:
    """Raise InputError unless values have the types of the fields of a dataclass."""
    types = get_type_hints(kind)
    for key, value in values.items():
        if not has_type(value, types[key]):
            raise InputError(f"data description: {key} {value!r} is of another type")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def check_names(path: Path, what: str, names: Sequence[str], expected: Sequence[str]) -> None:
    """Raise InputError unless channels or labels are those of a model, in its order; a single one may have any name.

    Args:
        path: Of the store or table that has them.
        what: What has which names, such as "sources have the channels".
        names: Those of the store or table.
        expected: Those of the model.
    """
    same = [name.lower() for name in names] == [name.lower() for name in expected]
    if not same and (len(names), len(expected)) != (1, 1):
        raise InputError(
            f"{path}: its {what} {', '.join(names) or '(none)'}, but those of the model are "
            f"{', '.join(expected) or '(none)'}; prepare the data with these names, in this order"
        )
