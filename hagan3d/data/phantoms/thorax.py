"""Phantoms: synthetic chest CTs in Hounsfield units with known anatomy, for demos, tests and ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.config import Size
from hagan3d.data.io.geometry import to_output_axes
from hagan3d.data.io.writer import write_nifti
from hagan3d.data.phantoms import anatomy
from hagan3d.data.phantoms.canvas import Canvas, canvas_affine, check_sides, smooth_field
from hagan3d.data.phantoms.files import Row, Task, write_all, write_attributes
from hagan3d.data.phantoms.patient import SEVERITIES, Patient, sample_patient
from hagan3d.data.phantoms.skeleton import paint_skeleton

EXTENT = (320.0, 288.0, 384.0)  # mm along D (head), H (front), W (right): the stored axes of axial volumes in RAS
MAX_SUPERSAMPLED = 64  # voxels of the longest side up to which every voxel is the mean of 2^3 samples
REFERENCE_VOXEL = 135.0  # mm^3: voxel volume to which `Patient.noise` refers


@dataclass(frozen=True)
class Phantom:
    """A synthetic chest CT with its ground truth."""

    hu: np.ndarray
    """Voxels [D, H, W] in HU, float32; D to the head, H to the front, W to the right."""
    labels: np.ndarray
    """Label map, uint8 [D, H, W]; `anatomy.LABEL_NAMES` names the labels."""
    attributes: dict[str, float]
    """Ground-truth volumes and fractions, without noise."""
    severity: int
    """Grade of emphysema, 0 to 4."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""


@dataclass(frozen=True)
class Painted:
    """A chest on its canvas, before it is sampled and scanned."""

    scene: anatomy.Scene
    heart: np.ndarray
    """Signed distance to the heart, mm."""
    samples: int
    """Samples of a voxel along each axis."""
    seed: int


def make_phantom(seed: int, size: tuple[int, int, int] = (64, 64, 64), severity: int | None = None) -> Phantom:
    """Make the chest CT of a synthetic patient; the seed determines the patient, independently of the size.

    Args:
        seed: Random seed, at least 0.
        size: Voxels D, H, W, multiples of 8.
        severity: Grade of emphysema, 0 (none) to 4; None: sampled.

    Raises:
        InputError: If a side is not a multiple of 8.
    """
    return finished(paint_thorax(seed, size, severity))


def paint_thorax(seed: int, size: tuple[int, int, int], severity: int | None = None) -> Painted:
    """Paint the chest of `make_phantom`, whose arguments it takes."""
    check_sides(size)
    rng = np.random.default_rng([seed, 1])
    patient = sample_patient(rng, severity)
    samples = 2 if max(size) <= MAX_SUPERSAMPLED else 1
    scene = anatomy.make_scene(Canvas(EXTENT, [side * samples for side in size]), patient, rng)
    return Painted(scene, _paint(scene), samples, seed)


def finished(painted: Painted, labels: int = len(anatomy.LABEL_NAMES)) -> Phantom:
    """Sample a painted chest on its grid and add the scanner's noise; its label map has so many labels."""
    canvas, patient = painted.scene.canvas, painted.scene.patient
    hu = blocks(canvas.hu, painted.samples).mean(axis=(1, 3, 5))
    size = hu.shape
    hu += _noise(np.random.default_rng([painted.seed, 2]), patient, hu)
    return Phantom(
        np.clip(hu, -1024, 3071),
        _majority(canvas.labels, painted.samples, labels),
        _attributes(canvas, patient),
        patient.severity,
        canvas_affine(EXTENT, size),
    )


def write_phantoms(out: Path | str, num: int = 96, size: Size = (64, 64, 64), seed: int = 0, **how: Any) -> Path:
    """Write phantoms (NIfTI, RAS, int16 HU), their label maps, attributes.csv and cases.csv.

    Args:
        out: Folder; volumes go to volumes/, label maps to labels/; cases.csv names both for `prepare`.
        num: Number of phantoms; they cycle through the severities.
        size: Voxels D, H, W.
        seed: Seed of the first patient; the next ones have seed + 1, ...
        how: ``workers`` (processes) and ``progress`` (whether to show a bar), see `write_all`.

    Returns:
        The folder.
    """
    out = Path(out)
    rows = write_all(_write_one, out, num, size, seed, **how)
    names = [str(row["id"]) for row in rows]
    cases = [{"id": name, "ct": f"volumes/{name}.nii.gz", "seg": f"labels/{name}.nii.gz"} for name in names]
    write_attributes(out / "cases.csv", cases)
    return out


def _write_one(task: Task) -> Row:
    """Write one phantom and its label map; return its row of the table."""
    out, seed, size, index = task
    severity = index % SEVERITIES
    phantom, name = make_phantom(seed, size, severity), f"phantom-{seed:05d}"
    for folder, array in (("volumes", phantom.hu), ("labels", phantom.labels)):
        write_nifti(out / folder / f"{name}.nii.gz", *to_output_axes(array, phantom.affine, "RAS"), dtype="int16")
    return {"id": name, "class": severity, **phantom.attributes}


def _paint(scene: anatomy.Scene) -> np.ndarray:
    """Paint all organs, from the outside in; return the signed distance to the heart."""
    heart = anatomy.heart_shape(scene)
    anatomy.paint_body(scene)
    lungs = anatomy.paint_lungs(scene, anatomy.solid_middle(scene, heart))
    anatomy.paint_emphysema(scene, lungs)
    anatomy.paint_abdomen(scene)
    anatomy.paint_vessels_and_heart(scene, heart)
    anatomy.paint_lung_vessels(scene, lungs)
    anatomy.paint_airway(scene)
    paint_skeleton(scene)
    return heart


def _attributes(canvas: Canvas, patient: Patient) -> dict[str, float]:
    """Compute the ground truth of a patient from the label map."""
    millilitres = float(np.prod(canvas.spacing)) / 1000
    counts = np.bincount(canvas.labels.ravel(), minlength=len(anatomy.LABEL_NAMES)) * millilitres
    lungs = sum(counts[label] for label in (anatomy.RIGHT_LUNG, anatomy.LEFT_LUNG, anatomy.EMPHYSEMA))
    return {
        "lung_volume_ml": round(float(lungs), 1),
        "emphysema_percent": round(100 * float(counts[anatomy.EMPHYSEMA] / lungs), 2),
        "bone_volume_ml": round(float(counts[anatomy.BONE]), 1),
        "heart_volume_ml": round(float(counts[anatomy.HEART]), 1),
        "body_volume_ml": round(float(counts[1:].sum()), 1),
        "female": float(patient.female),
        "fat_mm": round(patient.fat, 1),
    }


def _noise(rng: np.random.Generator, patient: Patient, hu: np.ndarray) -> np.ndarray:
    """Sample scanner noise: a fine-grained part, stronger for smaller voxels, and a low-frequency part."""
    voxel = float(np.prod(np.array(EXTENT) / np.array(hu.shape)))
    deviation = patient.noise * min((REFERENCE_VOXEL / voxel) ** 0.25, 3.0)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = 0.6 * grain + 0.2 * (np.roll(grain, 1, 1) + np.roll(grain, -1, 1))
    broad = smooth_field(rng, hu.shape, (10, 10, 10))
    return deviation * (1.2 * grain + 0.25 * broad)


def blocks(array: np.ndarray, samples: int) -> np.ndarray:
    """Return a view [D, s, H, s, W, s] of an array."""
    d, h, w = (side // samples for side in array.shape)
    return array.reshape(d, samples, h, samples, w, samples)


def _majority(labels: np.ndarray, samples: int, count: int) -> np.ndarray:
    """Return the most frequent of ``count`` labels of the samples of each voxel."""
    if samples == 1:
        return labels
    votes = [blocks(labels == label, samples).sum(axis=(1, 3, 5)) for label in range(count)]
    return np.argmax(votes, axis=0).astype(np.uint8)
