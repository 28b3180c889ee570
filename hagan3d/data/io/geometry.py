"""Geometry: from a file's voxel grid to the grid of a store and back, with one interpolation at most.

A target grid is the file's grid with axes swapped or mirrored, another step and another first voxel along each axis,
so one interpolation per axis with its own weights is all it takes. An oblique volume stays oblique: its affine says so.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from hagan3d.config import Size
from hagan3d.errors import InputError

Axis = Literal["axial", "coronal", "sagittal"]
Fit = Literal["resize", "crop-pad"]

ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}  # the anatomical axis that runs across the slices
PARALLEL = 0.05  # voxels that axes may drift apart over a volume and still be taken as parallel
BLANK_LEVEL = 0.1  # of the range from the 0.5th to the 99.5th percentile: voxels below are background
BLANK_SHARE = 1e-3  # a slice with a smaller share of foreground is blank


@dataclass(frozen=True)
class GridRule:
    """How the grid of a stored volume follows from that of a file."""

    size: Size
    """Voxels D, H, W."""
    orientation: str
    """Three letters, as nibabel has them."""
    axis: Axis
    """Slices that D runs across."""
    spacing: tuple[float, float, float] | None
    """Millimetres along D, H, W; None: the file's own, or whatever fills `size`."""
    fit: Fit
    trim: bool
    """Cut off blank slices first."""


def check_orientation(code: str) -> None:
    """Raise InputError unless `code` names each anatomical axis once, such as RAS or PSR."""
    if len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in ACROSS.values()):
        raise InputError(
            f"orientation {code!r}: want three letters, one each of R/L, A/P and S/I, such as RAS, LPS or PSR"
        )


def stored_code(orientation: str, axis: Axis) -> str:
    """Orientation of a stored array [D, H, W]: first the axis across the slices, then the others in reverse order.

    RAS is stored as SAR for axial, ASR for coronal and RSA for sagittal sub-volumes.
    """
    across = next(letter for letter in orientation if letter in ACROSS[axis])
    return across + "".join(letter for letter in reversed(orientation) if letter != across)


def reorient(array: np.ndarray, affine: np.ndarray, code: str) -> tuple[np.ndarray, np.ndarray]:
    """Swap and mirror axes so that they run as `code` says; the affine follows, no voxel changes its place in mm.

    Args:
        array: Volume with three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        code: Three letters, e.g. RAS.
    """
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(code))
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def to_output_axes(array: np.ndarray, affine: np.ndarray, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring a stored volume into the voxel order of `orientation` for writing (RAS: axes x, y, z).

    Args:
        array: Stored volume [D, H, W]; sides may differ.
        affine: Its affine [4, 4].
        orientation: Three letters.

    Returns:
        The volume in that order, contiguous, and its affine.
    """
    turned, turned_affine = reorient(array, affine, orientation)
    return np.ascontiguousarray(turned), turned_affine


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Millimetres per voxel along each axis [3]."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def to_grid(
    array: np.ndarray, affine: np.ndarray, rule: GridRule, nearest: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a volume as read to the grid of a store.

    Args:
        array: Voxels in file units, three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        rule: The wanted grid.
        nearest: Take the value of the nearest voxel, for label maps; 0 then stands beyond the file.

    Returns:
        Voxels [D, H, W], float32, and their affine. Where the grid reaches beyond the file, the smallest value stands.
    """
    array, affine = reorient(array, affine, stored_code(rule.orientation, rule.axis))
    begin, end = _content(array) if rule.trim else (np.zeros(3, int), np.array(array.shape))
    box = np.ascontiguousarray(array[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))])
    first, step = _placement(box.shape, spacing_of(affine), rule)
    background = 0.0 if nearest else float(box.min())
    for axis in range(3):
        index, weights, outside = _taps(box.shape[axis], rule.size[axis], first[axis], step[axis], nearest)
        box = _along(box, axis, index, weights, outside, background)
    shift = np.eye(4)
    shift[:3, :3] = np.diag(step)
    shift[:3, 3] = begin + first
    return np.ascontiguousarray(box, dtype=np.float32), affine @ shift


def resample_onto(
    array: np.ndarray, affine: np.ndarray, grid: np.ndarray, size: Size, nearest: bool = False
) -> np.ndarray:
    """Bring a volume to a grid that another volume already has, with one interpolation.

    Where both grids have parallel axes this is what `to_grid` does; else the volume is smoothed along the axes that get
    coarser, as much as there, and interpolated linearly.

    Args:
        array: Voxels in file units, three axes of any lengths.
        affine: Voxel index to RAS mm [4, 4].
        grid: Index (d, h, w) of the wanted grid to RAS mm [4, 4].
        size: Voxels D, H, W of the wanted grid.
        nearest: Take the value of the nearest voxel, for label maps; 0 then stands beyond the volume.

    Returns:
        Voxels [D, H, W], float32. Where the grid reaches beyond the volume, its smallest value stands.
    """
    turn = ornt_transform(io_orientation(affine), io_orientation(grid))
    box, affine = apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)
    way = np.linalg.solve(affine, grid)  # index of the grid to index of the box
    step, first, background = np.diag(way)[:3], way[:3, 3], 0.0 if nearest else float(array.min())
    if np.abs(way[:3, :3] - np.diag(step)).max() * max(size) > PARALLEL:
        return _turned(box, way, size, background, nearest)
    box = np.ascontiguousarray(box)
    for axis in range(3):
        box = _along(box, axis, *_taps(box.shape[axis], size[axis], first[axis], step[axis], nearest), background)
    return np.ascontiguousarray(box, dtype=np.float32)


def _turned(box: np.ndarray, way: np.ndarray, size: Size, background: float, nearest: bool) -> np.ndarray:
    """Interpolate where the axes of two grids are not parallel; the triangle of variance step^2 / 6 goes before."""
    from scipy.ndimage import affine_transform, gaussian_filter  # nothing else here needs it

    step = np.linalg.norm(way[:3, :3], axis=1)
    widths = np.sqrt(np.clip(step**2 - 1, 0, None) / 6)
    smooth = box.astype(np.float32) if nearest else gaussian_filter(box.astype(np.float32), widths, mode="nearest")
    made = affine_transform(smooth, way[:3, :3], way[:3, 3], size, order=0 if nearest else 1, mode="nearest")
    inside = np.ones(size, bool)
    for axis, length in enumerate(box.shape):
        d, h, w = (np.arange(side) for side in size)
        row = way[axis]
        at = row[0] * d[:, None, None] + row[1] * h[:, None] + row[2] * w + row[3]
        inside &= (at >= -0.5 - 1e-6) & (at <= length - 0.5 + 1e-6)
    return np.where(inside, made, np.float32(background))


def overlap(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray, size: tuple[int, ...]) -> float:
    """Fraction of a grid (affine ``other``, ``size`` voxels) that lies within a volume, from 17^3 points of it."""
    corners = np.meshgrid(*(np.linspace(0, side - 1, 17) for side in size), indexing="ij")
    at = apply_affine(np.linalg.solve(affine, other), np.stack(corners, -1).reshape(-1, 3))
    return float(((at >= -0.5) & (at <= np.array(shape) - 0.5)).all(1).mean())


def _placement(shape: tuple[int, ...], spacing: np.ndarray, rule: GridRule) -> tuple[np.ndarray, np.ndarray]:
    """First voxel centre and step of the target grid, in voxels of the source; both grids share their centre."""
    size, source = np.array(rule.size), np.array(shape)
    if rule.fit == "resize":
        step = source / size
    else:
        step = np.ones(3) if rule.spacing is None else np.array(rule.spacing) / spacing
    return (source - 1) / 2 - step * (size - 1) / 2, step


def _taps(
    source: int, target: int, first: float, step: float, nearest: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source voxels that each target voxel is made of [target, taps], their weights, and which targets lie outside.

    Linear interpolation; where the grid gets coarser the triangle widens with the step, which removes what the coarser
    grid cannot hold (antialiasing). ``nearest``: one source voxel each.
    """
    centre = first + step * np.arange(target)  # [target], in source voxels
    outside = (centre < -0.5 - 1e-6) | (centre > source - 0.5 + 1e-6)
    inside, reach = np.clip(centre, 0, source - 1), max(step, 1.0)
    if nearest:
        return np.floor(inside + 0.5 - 1e-6).astype(int)[:, None], np.ones((target, 1), np.float32), outside
    index = np.floor(inside - reach).astype(int)[:, None] + 1 + np.arange(math.ceil(2 * reach))
    weights = np.clip(1 - np.abs(inside[:, None] - index) / reach, 0, None)
    weights[(index < 0) | (index >= source)] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return np.clip(index, 0, source - 1), weights, outside


def _along(
    box: np.ndarray, axis: int, index: np.ndarray, weights: np.ndarray, outside: np.ndarray, background: float
) -> np.ndarray:
    """Apply the weights along one axis, tap by tap: no matrix product, whose threads would fight over the cores."""
    shape = [-1 if other == axis else 1 for other in range(3)]
    made = np.zeros([len(index) if other == axis else side for other, side in enumerate(box.shape)], np.float32)
    for tap in range(index.shape[1]):
        if weights[:, tap].any():
            made += np.take(box, index[:, tap], axis) * weights[:, tap].reshape(shape)
    if outside.any():
        np.moveaxis(made, axis, 0)[outside] = background
    return made


def _content(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last slice along each axis that shows more than background."""
    low, high = np.percentile(array, (0.5, 99.5))
    foreground = array > low + BLANK_LEVEL * (high - low)
    begin, end = np.zeros(3, int), np.array(array.shape)
    for axis in range(3):
        share = foreground.mean(axis=tuple(other for other in range(3) if other != axis))
        shown = np.flatnonzero(share > BLANK_SHARE)
        if shown.size:
            begin[axis], end[axis] = shown[0], shown[-1] + 1
    return begin, end


def typical_affine(affines: np.ndarray, size: Size) -> np.ndarray:
    """One affine for many volumes [N, 4, 4] of one orientation: median spacing and centre, mean direction."""
    spacing = np.median([spacing_of(affine) for affine in affines], axis=0)
    mean = np.mean([affine[:3, :3] / spacing_of(affine) for affine in affines], axis=0)
    left, _, right = np.linalg.svd(mean)
    middle = (np.array(size) - 1) / 2
    centre = np.median([apply_affine(affine, middle) for affine in affines], axis=0)
    typical = np.eye(4)
    typical[:3, :3] = (left @ right) * spacing
    typical[:3, 3] = centre - typical[:3, :3] @ middle
    return typical


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two vectors, degrees."""
    cosine = float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
