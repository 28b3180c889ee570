"""Head phantoms: four MR contrasts of a synthetic head with a brain tumour, and its label map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.config import Size
from hagan3d.data.io.geometry import to_output_axes
from hagan3d.data.io.nnunet import image_path, label_path, write_dataset_json
from hagan3d.data.io.writer import write_nifti
from hagan3d.data.phantoms.canvas import Canvas, Point, canvas_affine, check_sides, smooth_field
from hagan3d.data.phantoms.files import Row, Task, write_all

EXTENT = (208.0, 224.0, 176.0)  # mm along D (head), H (front), W (right)
CHANNELS = ("T1", "T1c", "T2", "FLAIR")
LABEL_NAMES = ("background", "edema", "core", "enhancing")

TISSUES = {
    "scalp": (160, 170, 120, 110),
    "skull": (20, 25, 20, 20),
    "fluid": (30, 30, 230, 35),
    "grey": (95, 100, 130, 125),
    "white": (130, 135, 100, 95),
    "edema": (85, 90, 190, 210),
    "enhancing": (90, 220, 150, 150),
    "core": (45, 50, 200, 90),
}
"""Intensity of each tissue in each channel, arbitrary units."""
NOISE = 5.0  # standard deviation of the noise, in the same units
BIAS = 0.08  # standard deviation of the receive field, relative


@dataclass(frozen=True)
class HeadPhantom:
    """A synthetic head with its ground truth."""

    images: np.ndarray
    """Voxels of T1, T1c, T2, FLAIR [4, D, H, W], float32; D to the head, H to the front, W to the right."""
    labels: np.ndarray
    """Label map of the tumour, uint8 [D, H, W]; see `LABEL_NAMES`."""
    attributes: dict[str, float]
    """Volumes of the tumour and its parts, ml."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""


class _Head:
    """The surfaces of one head on a canvas (signed distances in mm), and its images while they are painted."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator) -> None:
        self.canvas, self.rng = canvas, rng
        shape = canvas.hu.shape
        self.images = np.zeros((len(CHANNELS), *shape), np.float32)
        self.labels = np.zeros(shape, np.uint8)
        self.radii = np.array([88, 98, 76]) * rng.normal(1, 0.04, 3)
        scaled = sum(
            (axis / radius) ** 2 for axis, radius in zip((canvas.z, canvas.y, canvas.x), self.radii, strict=True)
        )
        self.skin = (np.sqrt(scaled) - 1) * np.float32(self.radii.min()) + smooth_field(rng, shape, (5, 5, 5))

    def paint(self, distance: np.ndarray, tissue: str, label: int | None = None) -> None:
        """Paint the inside of a surface with a tissue; voxels more than half inside get the label."""
        cover = np.clip(0.5 - distance / self.canvas.edge, 0, 1)
        for image, value in zip(self.images, TISSUES[tissue], strict=True):
            image += cover * (value - image)
        if label is not None:
            self.labels[cover > 0.5] = label

    def ellipsoid(self, centre: Point, radii: Point) -> np.ndarray:
        """Return the signed distance (near the surface) of an ellipsoid; arguments are (z, y, x)."""
        axes = (self.canvas.z, self.canvas.y, self.canvas.x)
        scaled = sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(axes, centre, radii, strict=True))
        return (np.sqrt(scaled) - 1) * np.float32(min(radii))


def make_head(seed: int, size: tuple[int, int, int] = (64, 64, 64)) -> HeadPhantom:
    """Make the head of a synthetic patient; the seed determines the patient, independently of the size.

    Args:
        seed: Random seed, at least 0.
        size: Voxels D, H, W, multiples of 8.

    Raises:
        InputError: If a side is not a multiple of 8.
    """
    check_sides(size)
    head = _Head(Canvas(EXTENT, size), np.random.default_rng([seed, 3]))
    brain = _paint_head(head)
    _paint_tumour(head, brain)
    millilitres = float(np.prod(head.canvas.spacing)) / 1000
    counts = np.bincount(head.labels.ravel(), minlength=len(LABEL_NAMES)) * millilitres
    attributes = {f"{name}_ml": round(float(ml), 2) for name, ml in zip(LABEL_NAMES[1:], counts[1:], strict=True)}
    attributes |= {"tumour_ml": round(float(counts[1:].sum()), 2)}
    attributes |= {"brain_ml": round(float((brain < 0).sum() * millilitres), 1)}
    return HeadPhantom(_scanned(head.images, seed), head.labels, attributes, canvas_affine(EXTENT, size))


def write_heads(out: Path | str, num: int = 96, size: Size = (64, 64, 64), seed: int = 0, **how: Any) -> Path:
    """Write heads as an nnU-Net data set of four channels, with attributes.csv.

    Args:
        out: Folder; see `hagan3d.data.io.nnunet`.
        num: Number of heads.
        size: Voxels D, H, W.
        seed: Seed of the first patient; the next ones have seed + 1, ...
        how: ``workers`` (processes) and ``progress`` (whether to show a bar), see `write_all`.

    Returns:
        The folder.
    """
    out = Path(out)
    write_all(_write_one, out, num, size, seed, title="Heads", **how)
    write_dataset_json(out, CHANNELS, LABEL_NAMES, num)
    return out


def _write_one(task: Task) -> Row:
    """Write one head and its label map; return its row of the table."""
    out, seed, size, _ = task
    head, case = make_head(seed, size), f"head_{seed:05d}"
    for channel, image in enumerate(head.images):
        write_nifti(image_path(out, case, channel), *to_output_axes(image, head.affine, "RAS"), dtype="int16")
    write_nifti(label_path(out, case), *to_output_axes(head.labels, head.affine, "RAS"), dtype="int16")
    return {"id": case, **head.attributes}


def _paint_head(head: _Head) -> np.ndarray:
    """Paint scalp, skull, fluid, grey and white matter and ventricles; return the signed distance of the brain."""
    rng, shape = head.rng, head.canvas.hu.shape
    head.paint(head.skin, "scalp")
    head.paint(head.skin + 5, "skull")
    head.paint(head.skin + 11, "fluid")
    brain = head.skin + 13
    folds = np.abs(smooth_field(rng, shape, (11, 11, 9)))
    sulci = 12 * np.clip(1 - folds / 0.5, 0, 1)  # mm that the surface dips where the field passes through zero
    cortex = brain + sulci * np.clip(1 + (brain + 6) / 25, 0, 1)
    head.paint(cortex, "grey")
    head.paint(cortex + 6, "white")
    wide = float(rng.uniform(0.7, 1.5))
    for side in (-1, 1):
        head.paint(head.ellipsoid((0, 0, 20 * side), (12, 16, 8)), "grey")  # basal ganglia
        head.paint(head.ellipsoid((14, 4, 9 * side), (9 * wide, 32, 5 * wide)), "fluid")
    return brain


def _paint_tumour(head: _Head, brain: np.ndarray) -> None:
    """Paint a tumour in one hemisphere: edema around an enhancing rim around a core."""
    rng = head.rng
    direction = rng.normal(size=3) * (1, 1, 0.7)
    direction[2] += np.sign(direction[2]) * 0.8  # away from the middle
    centre = direction / np.linalg.norm(direction) * rng.uniform(28, 46)
    radius = float(rng.uniform(10, 19))
    wobble = smooth_field(rng, brain.shape, (9, 9, 9))
    ball = head.ellipsoid(centre, np.array([1.0, rng.uniform(0.8, 1.3), rng.uniform(0.8, 1.2)]) * radius)
    edge = ball + 2 * wobble
    inside = brain + 3
    for grown, tissue, label in (
        (float(rng.uniform(5, 12)), "edema", 1),
        (0.0, "enhancing", 3),
        (-float(rng.uniform(3, 5)), "core", 2),
    ):
        head.paint(np.maximum(edge - grown, inside), tissue, label)


def _scanned(images: np.ndarray, seed: int) -> np.ndarray:
    """Multiply by a receive field, add texture and Rician noise."""
    rng = np.random.default_rng([seed, 4])
    shape = images.shape[1:]
    texture = 1 + 0.03 * smooth_field(rng, shape, (24, 24, 24))
    bias = np.exp(BIAS * smooth_field(rng, shape, (2, 2, 2)))
    parts = [images * texture * bias + NOISE * rng.standard_normal(images.shape, dtype=np.float32)]
    parts.append(NOISE * rng.standard_normal(images.shape, dtype=np.float32))
    return np.hypot(*parts).astype(np.float32)
