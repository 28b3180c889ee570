"""What a model must remember of its data: enough to write volumes in their units and place, and to encode new ones."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from hagan3d.config import Size
from hagan3d.data.io.geometry import Axis, Fit, GridRule, spacing_of
from hagan3d.data.preprocess.intensity import IntensityRule, Kind
from hagan3d.errors import InputError


@dataclass(frozen=True)
class Domain:
    """Intensities of the sources of a translation."""

    intensity: Kind
    """How the interval [lo, hi] of each source was found."""
    lo: float
    """Value of x = -1 in file units; the median where sources have their own."""
    hi: float
    """Value of x = 1 in file units; the median where sources have their own."""
    units: str = ""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Per cent, for `intensity: percentiles`."""

    @property
    def intensity_rule(self) -> IntensityRule:
        """How the interval of a new file is found."""
        return IntensityRule(self.intensity, (self.lo, self.hi), self.percentiles)


@dataclass(frozen=True)
class DataDescription:
    """The data a model was trained on, in plain values."""

    size: Size
    """Voxels D, H, W of a stored volume."""
    orientation: str
    """Voxel order of files that are written, three letters."""
    axis: Axis
    """Slices that D runs across."""
    affine: tuple[tuple[float, ...], ...]
    """Index (d, h, w) of a stored voxel to RAS mm, 4 x 4, of a typical training volume."""
    intensity: Kind
    """How the interval [lo, hi] of each volume was found; x = 2 (v - lo) / (hi - lo) - 1, clipped to [-1, 1]."""
    lo: float
    """Value of x = -1 in file units; the median where volumes have their own."""
    hi: float
    """Value of x = 1 in file units; the median where volumes have their own."""
    units: str = ""
    """Of the intensities; empty: arbitrary."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Per cent, for `intensity: percentiles`."""
    spacing: tuple[float, float, float] | None = None
    """Spacing asked for when the store was made, mm along D, H, W."""
    fit: Fit = "resize"
    """How volumes were brought to `size`."""
    trim: bool = False
    """Whether blank slices were cut off first."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their indices."""
    source: str = ""
    """Name of the store."""
    volumes: int = 0
    """Volumes in the store."""
    source_domain: Domain | None = None
    """Intensities of sources, where pairs or two domains were prepared; None: those of the volumes."""

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
        """How a new file is brought to the grid of this model."""
        return GridRule(self.size, self.orientation, self.axis, self.spacing, self.fit, self.trim)

    @property
    def intensity_rule(self) -> IntensityRule:
        """How the interval of a new file is found."""
        return IntensityRule(self.intensity, (self.lo, self.hi), self.percentiles)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {key: _lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataDescription":
        """Invert `to_dict`.

        Raises:
            InputError: If a field is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        required = {"size", "orientation", "axis", "affine", "intensity", "lo", "hi"}
        if not isinstance(values, dict) or not required <= set(values) <= known:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InputError(f"data description: want the fields {sorted(known)}, got {got}")
        plain = {key: _tuples(value) for key, value in values.items() if key != "source_domain"}
        domain = values.get("source_domain")
        if domain is None:
            return cls(**plain)
        if not isinstance(domain, dict) or not set(domain) <= {field.name for field in fields(Domain)}:
            raise InputError(f"data description: want the fields of a domain, got {domain}")
        return cls(**plain, source_domain=Domain(**{key: _tuples(value) for key, value in domain.items()}))


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
