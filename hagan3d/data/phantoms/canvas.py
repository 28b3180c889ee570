"""A canvas in patient coordinates: shapes are rendered from signed distances with antialiased edges."""

from collections.abc import Sequence

import numpy as np

from hagan3d.errors import InputError

SIDE_STEP = 8  # voxels: every side of a phantom is a multiple of it
Box = tuple[slice, slice, slice]
Point = Sequence[float] | np.ndarray
WHOLE: Box = (slice(None), slice(None), slice(None))


class Canvas:
    """Hounsfield units and labels on a grid [z, y, x] of patient millimetres.

    Args:
        extent: Millimetres covered along z, y, x; the middle is 0.
        shape: Voxels along z, y, x.
    """

    def __init__(self, extent: Sequence[float], shape: Sequence[int]) -> None:
        axes = [
            ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32) * np.float32(mm)
            for n, mm in zip(shape, extent, strict=True)
        ]
        self.axes = axes
        self.z, self.y, self.x = np.ix_(*axes)  # [D, 1, 1], [1, H, 1], [1, 1, W]
        self.spacing = np.array(extent) / np.array(shape)
        self.edge = float(self.spacing.mean())
        """Width of a soft edge, mm."""
        self.hu = np.full(shape, -1000, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def paint(
        self,
        distance: np.ndarray,
        value: float | np.ndarray,
        label: int | None = None,
        box: Box = WHOLE,
        strength: float = 1.0,
    ) -> None:
        """Paint the inside of a shape.

        Args:
            distance: Signed distance to its surface in mm, negative inside; shape of the box, or broadcast to it.
            value: HU, one or per voxel of the box.
            label: Label of voxels more than half inside; None: labels are unchanged.
            box: Part of the canvas.
            strength: Largest voxel fraction of the shape, for shapes thinner than a voxel.
        """
        cover = np.clip(0.5 - distance / self.edge, 0, 1) * np.float32(strength)
        hu = self.hu[box]
        hu += cover * (value - hu)
        if label is not None:
            self.labels[box][np.broadcast_to(cover > 0.5, hu.shape)] = label

    def rod_strength(self, radius: float) -> float:
        """Return the strength that preserves the volume of a thin rod, by compensating for its soft edge."""
        if radius >= self.edge / 2:
            return radius**2 / (radius**2 + self.edge**2 / 12)
        return 3 * radius**2 * self.edge / (radius + self.edge / 2) ** 3

    def box_round(self, low: Point, high: Point) -> Box:
        """Return the part of the canvas between two corners (z, y, x), mm, plus a margin of one voxel."""
        begins = [
            int(np.searchsorted(axis, corner - step))
            for axis, corner, step in zip(self.axes, low, self.spacing, strict=True)
        ]
        ends = [
            int(np.searchsorted(axis, corner + step))
            for axis, corner, step in zip(self.axes, high, self.spacing, strict=True)
        ]
        return slice(begins[0], ends[0]), slice(begins[1], ends[1]), slice(begins[2], ends[2])

    def inside(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the coordinates z, y, x of a part of the canvas."""
        return self.z[box[0]], self.y[:, box[1]], self.x[:, :, box[2]]

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float]) -> tuple[Box, np.ndarray]:
        """Return box and signed distance (near the surface) of an ellipsoid; arguments are (z, y, x)."""
        low, high = np.subtract(centre, radii), np.add(centre, radii)
        box = self.box_round(low, high)
        z, y, x = self.inside(box)
        scaled = (
            ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2
        )
        return box, (np.sqrt(scaled) - 1) * np.float32(min(radii))

    def capsule(self, a: np.ndarray, b: np.ndarray, radius: float, radius_b: float) -> tuple[Box, np.ndarray]:
        """Return box and signed distance of a rod from `a` to `b` (z, y, x) of linearly varying radius."""
        wide = max(radius, radius_b) + self.edge
        box = self.box_round(np.minimum(a, b) - wide, np.maximum(a, b) + wide)
        z, y, x = self.inside(box)
        along = (b - a).astype(np.float32)
        length = float(along @ along) + 1e-6
        dz, dy, dx = z - np.float32(a[0]), y - np.float32(a[1]), x - np.float32(a[2])
        t = np.clip((dz * along[0] + dy * along[1] + dx * along[2]) / length, 0, 1)
        off = (dz - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dx - t * along[2]) ** 2
        return box, np.sqrt(off) - (radius + t * (radius_b - radius))

    def tube(self, points: np.ndarray, radii: np.ndarray, value: float, label: int | None) -> None:
        """Paint a tube through points (z, y, x) [N, 3] with radii [N]."""
        for a, b, radius, radius_b in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            box, distance = self.capsule(a, b, float(radius), float(radius_b))
            self.paint(distance, value, label, box)


def smooth_field(rng: np.random.Generator, shape: Sequence[int], cells: Sequence[int]) -> np.ndarray:
    """Sample a smooth random field of about unit deviation: lattice noise, interpolated; independent of the shape.

    Args:
        rng: Random generator of the lattice.
        shape: Voxels [D, H, W] of the field.
        cells: Lattice cells along each axis.
    """
    field = rng.standard_normal([count + 1 for count in cells]).astype(np.float32)
    for axis, (n, count) in enumerate(zip(shape, cells, strict=True)):
        place = (np.arange(n) + 0.5) / n * count
        left = np.minimum(place.astype(int), count - 1)
        t = (place - left).astype(np.float32)
        t = (t * t * (3 - 2 * t)).reshape(
            [-1 if other == axis else 1 for other in range(3)]
        )  # smoothstep: no kinks at the lattice
        field = np.take(field, left, axis) * (1 - t) + np.take(field, left + 1, axis) * t
    return field * np.float32(1.6)  # interpolation reduces the deviation


def union(*distances: np.ndarray) -> np.ndarray:
    """Return the signed distance of the union of shapes."""
    joined = distances[0]
    for distance in distances[1:]:
        joined = np.minimum(joined, distance)
    return joined


def common(*distances: np.ndarray) -> np.ndarray:
    """Return the signed distance of the intersection of shapes."""
    joined = distances[0]
    for distance in distances[1:]:
        joined = np.maximum(joined, distance)
    return joined


def check_sides(size: Sequence[int]) -> None:
    """Raise InputError unless the sides of a phantom are multiples of 8."""
    if any(side < SIDE_STEP or side % SIDE_STEP for side in size):
        raise InputError(f"size: must be multiples of {SIDE_STEP}, got {list(size)}")


def canvas_affine(extent: Sequence[float], size: Sequence[int]) -> np.ndarray:
    """Return the affine from index (d, h, w) to RAS mm [4, 4]: D to the head, H to the front, W to the right.

    Args:
        extent: Millimetres along D, H, W; the origin is in the centre.
        size: Voxels along D, H, W.
    """
    spacing = np.array(extent) / np.array(size)
    affine = np.zeros((4, 4))
    for axis, row in enumerate((2, 1, 0)):
        affine[row, axis] = spacing[axis]
        affine[row, 3] = -spacing[axis] * (size[axis] - 1) / 2
    affine[3, 3] = 1
    return affine
