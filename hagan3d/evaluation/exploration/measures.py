"""Measures of a volume: volumes and percentages of segmented labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from nibabel.orientations import io_orientation
from scipy import ndimage

from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.errors import InputError

OUTSIDE, BODY, LUNG, EMPHYSEMA, BONE = range(5)
BODY_ABOVE, LUNG_BELOW, EMPHYSEMA_BELOW, BONE_ABOVE = -400.0, -500.0, -950.0, 200.0  # HU
NAMED = re.compile(r"label_(.+)_(ml|percent)")


class Segmenter(Protocol):
    """Segments a volume."""

    @property
    def name(self) -> str:
        """Short description."""
        ...

    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Segment a volume ``[D, H, W]`` in [-1, 1]: labels uint8 ``[D, H, W]``, 0 is background.

        ``interval``: intensities of -1 and 1 in file units; ``affine``: index to RAS mm ``[4, 4]``.
        """
        ...


@dataclass(frozen=True)
class Measure:
    """The volume or percentage of labels in a label map."""

    name: str
    labels: tuple[int, ...]
    """Measured labels."""
    of: tuple[int, ...] = ()
    """Labels of the denominator, for percentages; empty: volume in millilitres."""

    @property
    def unit(self) -> str:
        """Unit of the value."""
        return "%" if self.of else "ml"

    def __call__(self, labels: np.ndarray, affine: np.ndarray) -> float:
        """Measure a label map ``[D, H, W]`` with ``affine``; a percentage of no voxels is 0."""
        counted = int(np.isin(labels, self.labels).sum())
        if self.of:
            return 100.0 * counted / max(int(np.isin(labels, self.of).sum()), 1)
        return counted * millilitres(affine)


CT_MEASURES = (
    Measure("lung_volume_ml", (LUNG, EMPHYSEMA)),
    Measure("emphysema_percent", (EMPHYSEMA,), (LUNG, EMPHYSEMA)),
    Measure("bone_volume_ml", (BONE,)),
    Measure("body_volume_ml", (BODY, LUNG, EMPHYSEMA, BONE)),
)
"""Measures of `ChestCT`, named as the columns of phantoms."""


class ChestCT:
    """Lungs, emphysema, bone and body in chest CT by thresholds in Hounsfield units.

    The body is the largest connected component above -400 HU, with holes filled in axial slices; in it lungs (and
    airways) are below -500 HU, emphysema of the lungs below -950 HU (Gevenois et al., Am J Respir Crit Care Med 154,
    1996) and bone above 200 HU.
    """

    name = "thresholds in HU"

    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Segment a volume; see `Segmenter`."""
        values = denormalize(x, *interval)  # HU
        labels = np.zeros(values.shape, np.uint8)
        labels[_filled(_largest(values > BODY_ABOVE), affine)] = BODY
        lung = (labels == BODY) & (values < LUNG_BELOW)
        labels[lung] = np.where(values[lung] < EMPHYSEMA_BELOW, EMPHYSEMA, LUNG)
        labels[(labels == BODY) & (values > BONE_ABOVE)] = BONE
        return labels


def _largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected component."""
    components, count = ndimage.label(mask)
    return components == np.bincount(components.ravel())[1:].argmax() + 1 if count else mask


def _filled(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Fill holes in every axial slice, where the body wall is closed."""
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    slices = np.moveaxis(mask, axis, 0)
    return np.moveaxis(np.stack([ndimage.binary_fill_holes(one) for one in slices]), 0, axis)


def label_measure(name: str, labels: Mapping[str, int]) -> Measure | None:
    """Parse the name of a label measure: label_1_ml, label_1+2_ml, label_tumour_percent (of all labels).

    Args:
        name: The name, with one or several names of labels.
        labels: Values of the labels above 0 by their names.

    Returns:
        None for another name.

    Raises:
        InputError: If a label is not one of the ``labels`` of the label maps.
    """
    match = NAMED.fullmatch(name)
    if match is None:
        return None
    chosen = [match[1]] if match[1] in labels else match[1].split("+")
    missing = [label for label in chosen if label not in labels]
    if missing:
        raise InputError(f"{name}: no label {', '.join(missing)}; the label maps hold {', '.join(labels)}")
    return Measure(name, tuple(labels[one] for one in chosen), tuple(labels.values()) if match[2] == "percent" else ())


def millilitres(affine: np.ndarray) -> float:
    """Return the volume of a voxel."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class LinearCalibration:
    """Linear calibration of a measure to the ground truth, and its accuracy.

    Partial volume biases measures of coarse volumes by a factor; the line is fitted on real training volumes and
    evaluated on held-out ones.
    """

    slope: float
    offset: float
    correlation: float
    """Correlation of measure and ground truth on real volumes."""
    error: float
    """Root mean square error there, after calibration, in the unit of the attribute."""
    volumes: int
    """Number of these volumes."""
    is_held_out: bool
    """Whether the line was fitted on others."""

    def __call__(self, measured: float) -> float:
        """Return the calibrated value."""
        return self.slope * measured + self.offset


def calibrate(measured: np.ndarray, truth: np.ndarray, held_out: np.ndarray) -> LinearCalibration:
    """Fit the line where not ``held_out`` [N] and evaluate it where it is; on all volumes if nothing is held out.

    A constant measure is not calibrated.
    """
    inside = ~held_out if held_out.any() and (~held_out).sum() > 1 else np.ones(len(truth), bool)
    tested = held_out if held_out.sum() > 2 else inside
    slope, offset = 1.0, 0.0
    if measured[inside].std() > 0:
        slope, offset = (float(value) for value in np.polyfit(measured[inside], truth[inside], 1))
    error = float(np.sqrt(np.mean((slope * measured[tested] + offset - truth[tested]) ** 2)))
    varies = measured[tested].std() > 0 and truth[tested].std() > 0
    r = float(np.corrcoef(measured[tested], truth[tested])[0, 1]) if varies else 0.0
    return LinearCalibration(slope, offset, r, error, int(tested.sum()), not (tested & inside).any())
