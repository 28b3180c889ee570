"""Measures of a volume: a segmenter gives every voxel a label, and a measure counts labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from nibabel.orientations import io_orientation
from scipy import ndimage

from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.errors import InputError

OUTSIDE, BODY, LUNG, EMPHYSEMA, BONE = range(5)
BODY_ABOVE, LUNG_BELOW, EMPHYSEMA_BELOW, BONE_ABOVE = -400.0, -500.0, -950.0, 200.0  # HU
NAMED = re.compile(r"label_(\d+(?:\+\d+)*)_(ml|percent)")


class Segmenter(Protocol):
    """What gives every voxel a label."""

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        ...

    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Label a volume ``[D, H, W]`` in [-1, 1]: uint8 ``[D, H, W]``, 0 is nothing.

        ``interval`` is that of -1 and 1 in file units, ``affine`` index to RAS mm ``[4, 4]``.
        """
        ...


@dataclass(frozen=True)
class Measure:
    """A volume or a share, counted on a label map."""

    name: str
    labels: tuple[int, ...]
    """What is counted, and shown."""
    of: tuple[int, ...] = ()
    """Labels that it is a percentage of; empty: millilitres."""

    @property
    def unit(self) -> str:
        """Unit of the value."""
        return "%" if self.of else "ml"

    def __call__(self, labels: np.ndarray, affine: np.ndarray) -> float:
        """Count a label map ``[D, H, W]`` of voxels placed by ``affine``; a share of nothing is 0."""
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
"""What `ChestCT` can measure, named as the columns of phantoms are."""


class ChestCT:
    """Lungs, emphysema, bone and body in chest CT by thresholds in Hounsfield units.

    The body is the largest piece above -400 HU, filled slice by slice; in it lungs (and airways) are below -500 HU,
    emphysema of the lungs below -950 HU (Gevenois et al., Am J Respir Crit Care Med 154, 1996) and bone above 200 HU.
    """

    name = "thresholds in HU"

    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Label a volume; see `Segmenter`."""
        values = denormalize(x, *interval)  # HU
        made = np.zeros(values.shape, np.uint8)
        made[_filled(_largest(values > BODY_ABOVE), affine)] = BODY
        lung = (made == BODY) & (values < LUNG_BELOW)
        made[lung] = np.where(values[lung] < EMPHYSEMA_BELOW, EMPHYSEMA, LUNG)
        made[(made == BODY) & (values > BONE_ABOVE)] = BONE
        return made


def _largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected piece."""
    pieces, count = ndimage.label(mask)
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1 if count else mask


def _filled(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Fill holes in every axial slice, where the body wall goes all the way round."""
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    slices = np.moveaxis(mask, axis, 0)
    return np.moveaxis(np.stack([ndimage.binary_fill_holes(one) for one in slices]), 0, axis)


def label_measure(name: str, known: Sequence[int]) -> Measure | None:
    """Read a measure of label maps off its name: label_1_ml, label_1+2_ml, label_2_percent (of all labels).

    Returns:
        None if it is no such name.

    Raises:
        InputError: If there is no such label among those ``known``.
    """
    found = NAMED.fullmatch(name)
    if found is None:
        return None
    labels = tuple(int(number) for number in found[1].split("+"))
    odd = [str(label) for label in labels if label not in known]
    if odd:
        raise InputError(f"{name}: no label {', '.join(odd)}; the label maps hold {', '.join(map(str, known))}")
    return Measure(name, labels, tuple(known) if found[2] == "percent" else ())


def millilitres(affine: np.ndarray) -> float:
    """Volume of a voxel."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class Calibration:
    """A straight line from what is measured to what is true, and how well the measure knows the truth.

    A voxel that lies half in an organ counts whole or not at all, so that measures of coarse volumes are off by a
    factor; the line is fitted on real training volumes and judged on held-out ones.
    """

    slope: float
    offset: float
    correlation: float
    """Of measure and truth on real held-out volumes."""
    error: float
    """Root mean square difference there, after calibration, in the unit of the attribute."""
    volumes: int
    """How many those were."""

    def __call__(self, measured: float) -> float:
        """Give the calibrated value."""
        return self.slope * measured + self.offset


def calibrate(measured: np.ndarray, truth: np.ndarray, held_out: np.ndarray) -> Calibration:
    """Fit the line where not ``held_out`` [N], judge it where it is; everywhere if nothing is held out.

    A measure that says the same of every volume is left as it is.
    """
    inside = ~held_out if held_out.any() and (~held_out).sum() > 1 else np.ones(len(truth), bool)
    judged = held_out if held_out.sum() > 2 else inside
    slope, offset = 1.0, 0.0
    if measured[inside].std() > 0:
        slope, offset = (float(value) for value in np.polyfit(measured[inside], truth[inside], 1))
    error = float(np.sqrt(np.mean((slope * measured[judged] + offset - truth[judged]) ** 2)))
    varies = measured[judged].std() > 0 and truth[judged].std() > 0
    r = float(np.corrcoef(measured[judged], truth[judged])[0, 1]) if varies else 0.0
    return Calibration(slope, offset, r, error, int(judged.sum()))
