"""Geometry: resampling from the voxel grid of a file to the grid of a store and back, with at most one interpolation.

A target grid is the grid of the file with axes permuted or flipped, another step and another first voxel along each
axis, so that resampling is separable: one 1D interpolation per axis. An oblique volume stays oblique, in its affine.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from hagan3d.config import Size
from hagan3d.errors import InputError

Axis = Literal["axial", "coronal", "sagittal"]
Fit = Literal["resize", "crop-pad"]

# A file that does not say which sides its axes point to, or where it lies, is read by one rule, whatever its format.
NO_SIDES = "does not say which sides its axes point to: they are taken as those of RAS"
NO_PLACE = "does not say where it lies: its first voxel is placed at 0"

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM and ITK use LPS coordinates, NIfTI and this package RAS
ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}  # the anatomical axis perpendicular to the slices
PARALLEL_VOXELS = 0.05  # largest drift over a volume of axes that are treated as parallel
FOREGROUND_LEVEL = 0.1  # threshold, as a fraction of the range from the 0.5th to the 99.5th percentile
FOREGROUND_FRACTION = 1e-3  # a slice with a smaller fraction of foreground voxels is blank
INSIDE_TOLERANCE = 1e-6  # voxels: rounding at the outer faces of a volume
STEP_TOLERANCE = 1e-3  # voxels: a step that is no coarser than one voxel
SHARE_TOLERANCE = 1e-6  # a label and the background of equal shares: the label
WIDE = 16  # voxels: a Gaussian up to this standard deviation is never narrowed
OVERLAP_POINTS = 17  # per axis


@dataclass(frozen=True)
class GridRule:
    """The target grid of resampling, given relative to the grid of a file."""

    size: Size
    """Voxels D, H, W."""
    orientation: str
    """Three-letter axis codes as in nibabel, such as RAS."""
    axis: Axis
    """Slice plane perpendicular to D."""
    spacing: tuple[float, float, float] | None
    """Millimetres along D, H, W; None: that of the file (crop-pad), or the one that fits `size` (resize)."""
    fit: Fit
    trim: bool
    """Whether to crop blank slices first."""

    def __str__(self) -> str:
        """Describe it in words."""
        sides = " x ".join(map(str, self.size))
        if self.fit == "resize":
            return f"{sides} voxels, each volume stretched to them"
        steps = (
            "the spacing of each file" if self.spacing is None else " x ".join(f"{mm:g}" for mm in self.spacing) + " mm"
        )
        return f"{sides} voxels of {steps}, cropped or padded"


def check_orientation(code: str) -> None:
    """Raise InputError unless `code` names each anatomical axis once, such as RAS or PSR."""
    if len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in ACROSS.values()):
        raise InputError(
            f"orientation: must be three letters, one each of R/L, A/P and S/I, such as RAS, LPS or PSR, got {code!r}"
        )


def stored_code(orientation: str, axis: Axis) -> str:
    """Return the axis codes of a stored array [D, H, W]: the slice axis first, then the others in reverse order.

    RAS is stored as SAR for axial, ASR for coronal and RSA for sagittal sub-volumes.
    """
    across = next(letter for letter in orientation if letter in ACROSS[axis])
    return across + "".join(letter for letter in reversed(orientation) if letter != across)


def slice_axis(plane: Axis, orientation: str, axis: Axis) -> int:
    """Return the axis of a stored array, 0 to 2 for D, H, W, that slices of a plane are perpendicular to."""
    return next(i for i, letter in enumerate(stored_code(orientation, axis)) if letter in ACROSS[plane])


def slice_affine(affine: np.ndarray, size: Size, axis: int) -> np.ndarray:
    """Return the affine [4, 4] of the middle slice of a volume as a volume [1, rows, columns]."""
    order = [axis, *(other for other in range(3) if other != axis)]
    moved = affine[:, [*order, 3]].copy()
    moved[:3, 3] += affine[:3, axis] * (size[axis] // 2)
    return moved


def reorient(array: np.ndarray, affine: np.ndarray, code: str) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip axes to the orientation `code`; the affine follows, so that no voxel moves in mm.

    Args:
        array: Volume with three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        code: Three-letter axis codes, e.g. RAS.
    """
    permutation = ornt_transform(io_orientation(affine), axcodes2ornt(code))
    return apply_orientation(array, permutation), affine @ inv_ornt_aff(permutation, array.shape)


def to_output_axes(array: np.ndarray, affine: np.ndarray, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """Reorient a stored volume to `orientation` for writing (RAS: axes x, y, z).

    Args:
        array: Stored volume [D, H, W]; sides may differ.
        affine: Its affine [4, 4].
        orientation: Three-letter axis codes.

    Returns:
        The reoriented volume, contiguous, and its affine.
    """
    reoriented, new_affine = reorient(array, affine, orientation)
    return np.ascontiguousarray(reoriented), new_affine


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the voxel spacing along each axis [3], mm."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def to_grid(
    array: np.ndarray, affine: np.ndarray, rule: GridRule, labels: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a volume as read onto the grid of a store.

    Args:
        array: Voxels in file units, three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        rule: The target grid.
        labels: Whether it is a label map, see `resample_labels`.

    Returns:
        Voxels [D, H, W], float32, and their affine. Outside the file, voxels have its smallest value, of label maps 0.
    """
    box, affine, first, step = _box(array, affine, rule)
    box, grid = np.ascontiguousarray(box), _moved(affine, first, step)
    if labels:
        return resample_labels(box, affine, grid, rule.size), grid
    background = float(box.min())
    for axis in range(3):
        taps = _taps(box.shape[axis], rule.size[axis], first[axis], step[axis])
        box = _resample_axis(box, axis, taps, background)
    return np.ascontiguousarray(box, dtype=np.float32), grid


def grid_of(array: np.ndarray, affine: np.ndarray, rule: GridRule) -> np.ndarray:
    """Return the affine of the grid onto which `to_grid` resamples a volume."""
    _, affine, first, step = _box(array, affine, rule)
    return _moved(affine, first, step)


def coverage(array: np.ndarray, affine: np.ndarray, rule: GridRule) -> tuple[float, float]:
    """Return the share of a volume, without trimmed margins, that is on the grid of a store, and how much it fills."""
    box, _, _, step = _box(array, affine, rule)
    extent = step * np.array(rule.size)  # in voxels of the volume; both have one centre
    both = np.minimum(extent, box.shape)
    return float(np.prod(both / box.shape)), float(np.prod(both / extent))


def _box(
    array: np.ndarray, affine: np.ndarray, rule: GridRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a volume with the axes of a grid, without its margins if they are trimmed, its affine, and the grid on it.

    The grid is the index of its first voxel in the box, and its step.
    """
    array, affine = reorient(array, affine, stored_code(rule.orientation, rule.axis))
    begin, end = _foreground_box(array) if rule.trim else (np.zeros(3, int), np.array(array.shape))
    box = array[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
    first, step = _placement(box.shape, spacing_of(affine), rule)
    return box, _moved(affine, begin), first, step


def resample_labels(array: np.ndarray, affine: np.ndarray, grid: np.ndarray, size: Size) -> np.ndarray:
    """Resample a label map onto the grid of another volume: the label with the largest share of each voxel.

    Shares are those by which `resample_onto` weighs voxels, so that a label stays where its image is: the nearest
    neighbour of a voxel that replaces 2^3 is one at its corner. Where no axis gets coarser, nearest neighbours.

    Args:
        array: Labels, integers from 0, three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        grid: Index (d, h, w) of the target grid to RAS mm [4, 4].
        size: Voxels D, H, W of the target grid.

    Returns:
        Labels [D, H, W], float32; 0 outside of the volume.
    """
    from scipy.ndimage import find_objects  # slow to import

    transform = np.linalg.solve(affine, grid)  # index of the grid to index of the array
    steps = np.linalg.norm(transform[:3, :3], axis=1)
    if steps.max() < 1 + STEP_TOLERANCE:
        return resample_onto(array, affine, grid, size, nearest=True)
    to_part = np.linalg.inv(transform)
    margin = np.ceil(2 * steps).astype(int) + 1  # beyond, no voxel of the label has a weight
    largest, total, labels = (np.zeros(size, np.float32) for _ in range(3))
    for value, box in enumerate(find_objects(array.astype(np.int32)), 1):
        if box is None:
            continue
        low = np.maximum([side.start for side in box] - margin, 0)
        high = np.minimum([side.stop for side in box] + margin, array.shape)
        part = _region(to_part, low, high, size)
        crop = (array[tuple(slice(b, e) for b, e in zip(low, high, strict=True))] == value).astype(np.float32)
        at = [side.start for side in part]
        sides = tuple(side.stop - side.start for side in part)
        if min(sides) < 1:
            continue
        share = resample_onto(crop, _moved(affine, low), _moved(grid, at), sides, background=0.0)
        is_larger = share > largest[part]
        labels[part][is_larger], largest[part][is_larger] = value, share[is_larger]
        total[part] += share
    labels[largest < 1 - total - SHARE_TOLERANCE] = 0  # the rest is background, or outside
    return labels


def _moved(affine: np.ndarray, index: Sequence[int] | np.ndarray, step: float | np.ndarray = 1.0) -> np.ndarray:
    """Return the affine of a volume that begins at a voxel of another, and whose voxels are ``step`` of its voxels."""
    moved = affine.copy()
    moved[:3, :3] = affine[:3, :3] * step
    moved[:3, 3] = apply_affine(affine, np.array(index))
    return moved


def _region(transform: np.ndarray, low: np.ndarray, high: np.ndarray, size: Size) -> tuple[slice, ...]:
    """Return the voxels of a grid around a box of another, by the map of indices to those of the grid."""
    corners = apply_affine(transform, np.array(list(itertools.product(*zip(low, high, strict=True)))))
    first, last = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    return tuple(slice(max(0, b), max(0, min(e, side))) for b, e, side in zip(first, last, size, strict=True))


def resample_onto(
    array: np.ndarray,
    affine: np.ndarray,
    grid: np.ndarray,
    size: Size,
    nearest: bool = False,
    background: float | None = None,
) -> np.ndarray:
    """Resample a volume onto the grid of another volume, with one interpolation.

    If both grids have parallel axes, resampling is separable as in `to_grid`; otherwise the volume is smoothed with a
    Gaussian along the axes that get coarser and interpolated linearly.

    Args:
        array: Voxels in file units, three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        grid: Index (d, h, w) of the target grid to RAS mm [4, 4].
        size: Voxels D, H, W of the target grid.
        nearest: Nearest-neighbour interpolation, for label maps that do not get coarser.
        background: Value outside the volume. Default: its smallest value, of label maps 0.

    Returns:
        Voxels [D, H, W], float32.
    """
    if background is None:
        background = 0.0 if nearest else float(array.min())
    permutation = ornt_transform(io_orientation(affine), io_orientation(grid))
    box, affine = apply_orientation(array, permutation), affine @ inv_ornt_aff(permutation, array.shape)
    transform = np.linalg.solve(affine, grid)  # index of the grid to index of the box
    step, first = np.diag(transform)[:3], transform[:3, 3]
    if np.abs(transform[:3, :3] - np.diag(step)).max() * max(size) > PARALLEL_VOXELS:
        return _resample_oblique(box, transform, size, background, nearest)
    box = np.ascontiguousarray(box)
    for axis in range(3):
        taps = _taps(box.shape[axis], size[axis], first[axis], step[axis], nearest)
        box = _resample_axis(box, axis, taps, background)
    return np.ascontiguousarray(box, dtype=np.float32)


def _resample_oblique(
    box: np.ndarray, transform: np.ndarray, size: Size, background: float, nearest: bool
) -> np.ndarray:
    """Resample between grids whose axes are not parallel."""
    from scipy.ndimage import affine_transform, gaussian_filter  # nothing else here needs it

    step = np.linalg.norm(transform[:3, :3], axis=1)
    # A triangle filter of half-width `step` has the variance step^2 / 6; linear interpolation contributes 1 / 6 of it.
    sigmas = np.sqrt(np.clip(step**2 - 1, 0, None) / 6)
    sigmas = np.minimum(sigmas, np.maximum(box.shape, WIDE))  # wider, it would see the replicated borders alone
    smooth = box.astype(np.float32) if nearest else gaussian_filter(box.astype(np.float32), sigmas, mode="nearest")
    order = 0 if nearest else 1
    resampled = affine_transform(smooth, transform[:3, :3], transform[:3, 3], size, order=order, mode="nearest")
    inside = np.ones(size, bool)
    for axis, length in enumerate(box.shape):
        d, h, w = (np.arange(side) for side in size)
        row = transform[axis]
        at = row[0] * d[:, None, None] + row[1] * h[:, None] + row[2] * w + row[3]
        inside &= (at >= -0.5 - INSIDE_TOLERANCE) & (at <= length - 0.5 + INSIDE_TOLERANCE)
    return np.where(inside, resampled, np.float32(background))


def overlap(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray, size: tuple[int, ...]) -> float:
    """Return the fraction of a grid (affine ``other``, ``size`` voxels) inside a volume, estimated from 17^3 points."""
    points = np.meshgrid(*(np.linspace(0, side - 1, OVERLAP_POINTS) for side in size), indexing="ij")
    at = apply_affine(np.linalg.solve(affine, other), np.stack(points, -1).reshape(-1, 3))
    return float(((at >= -0.5) & (at <= np.array(shape) - 0.5)).all(1).mean())


def _placement(shape: tuple[int, ...], spacing: np.ndarray, rule: GridRule) -> tuple[np.ndarray, np.ndarray]:
    """Return first voxel centre and step of the target grid, in source voxels; both grids share their centre."""
    size, source = np.array(rule.size), np.array(shape)
    if rule.fit == "resize":
        step = source / size
    else:
        step = np.ones(3) if rule.spacing is None else np.array(rule.spacing) / spacing
    return (source - 1) / 2 - step * (size - 1) / 2, step


def _taps(
    source: int, target: int, first: float, step: float, nearest: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the source indices of each target voxel [target, taps], their weights, and which targets lie outside.

    Linear interpolation; for a step above 1 the triangle filter widens with the step, against aliasing. ``nearest``:
    one tap of weight 1.
    """
    centre = first + step * np.arange(target)  # [target], in source voxels
    outside = (centre < -0.5 - INSIDE_TOLERANCE) | (centre > source - 0.5 + INSIDE_TOLERANCE)
    inside, reach = np.clip(centre, 0, source - 1), max(step, 1.0)
    if nearest:
        return np.floor(inside + 0.5 - INSIDE_TOLERANCE).astype(int)[:, None], np.ones((target, 1), np.float32), outside
    if 2 * reach > source:  # no more taps than the source has, however large the step
        index = np.tile(np.arange(source), (target, 1))
    else:
        index = np.floor(inside - reach).astype(int)[:, None] + 1 + np.arange(math.ceil(2 * reach))
    weights = np.clip(1 - np.abs(inside[:, None] - index) / reach, 0, None)
    weights[(index < 0) | (index >= source)] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return np.clip(index, 0, source - 1), weights, outside


def _resample_axis(
    box: np.ndarray, axis: int, taps: tuple[np.ndarray, np.ndarray, np.ndarray], background: float
) -> np.ndarray:
    """Interpolate along one axis with the result of `_taps`."""
    index, weights, outside = taps
    shape = [-1 if other == axis else 1 for other in range(3)]
    resampled = np.zeros([len(index) if other == axis else side for other, side in enumerate(box.shape)], np.float32)
    # Tap by tap, not as a matrix product: the threads of a BLAS would compete with the worker processes for the cores.
    for tap in range(index.shape[1]):
        if weights[:, tap].any():
            resampled += np.take(box, index[:, tap], axis) * weights[:, tap].reshape(shape)
    if outside.any():
        np.moveaxis(resampled, axis, 0)[outside] = background
    return resampled


def _foreground_box(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the past-the-last slice with foreground along each axis."""
    low, high = np.percentile(array, (0.5, 99.5))
    foreground = array > low + FOREGROUND_LEVEL * (high - low)
    begin, end = np.zeros(3, int), np.array(array.shape)
    for axis in range(3):
        fraction = foreground.mean(axis=tuple(other for other in range(3) if other != axis))
        used = np.flatnonzero(fraction > FOREGROUND_FRACTION)
        if used.size:
            begin[axis], end[axis] = used[0], used[-1] + 1
    return begin, end


def typical_affine(affines: np.ndarray, size: Size) -> np.ndarray:
    """Return one affine for volumes [N, 4, 4] of one orientation: median spacing and centre, mean directions."""
    spacing = np.median([spacing_of(affine) for affine in affines], axis=0)
    mean = np.mean([affine[:3, :3] / spacing_of(affine) for affine in affines], axis=0)
    left, _, right = np.linalg.svd(mean)  # left @ right: the orthogonal matrix nearest to the mean
    middle = (np.array(size) - 1) / 2
    centre = np.median([apply_affine(affine, middle) for affine in affines], axis=0)
    typical = np.eye(4)
    typical[:3, :3] = (left @ right) * spacing
    typical[:3, 3] = centre - typical[:3, :3] @ middle
    return typical


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle between two vectors, degrees."""
    cosine = float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
