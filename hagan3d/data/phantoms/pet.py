"""PET/CT phantoms: synthetic chests with lesions, as pairs of an FDG-PET in SUV and a CT in Hounsfield units."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from hagan3d.config import Size
from hagan3d.data.io.geometry import to_output_axes
from hagan3d.data.io.writer import write_nifti
from hagan3d.data.phantoms import anatomy
from hagan3d.data.phantoms.anatomy import Scene
from hagan3d.data.phantoms.canvas import common, smooth_field
from hagan3d.data.phantoms.files import Row, Task, write_all, write_attributes
from hagan3d.data.phantoms.thorax import Painted, blocks, finished, paint_thorax

LESION = len(anatomy.LABEL_NAMES)
LABEL_NAMES = (*anatomy.LABEL_NAMES, "lesion")
UPTAKE = (0.0, 0.6, 0.45, 0.45, 0.05, 1.1, 1.6, 1.2, 0.3, 0.0)
"""Standardised uptake value (SUV) of each label, about that of FDG an hour after injection; a lesion has its own."""
FAT_UPTAKE, LIVER_UPTAKE = 0.25, 2.2
HEART_WALL = 9.0  # mm
RESOLUTION = 6.0  # mm: full width at half maximum of the scanner's point spread
NOISE = 0.12  # standard deviation of the noise where the uptake is 1; it grows as the root of the uptake
MOST_LESIONS = 4


@dataclass(frozen=True)
class PetPhantom:
    """A synthetic PET/CT with its ground truth."""

    pet: np.ndarray
    """Standardised uptake values [D, H, W], float32; D to the head, H to the front, W to the right."""
    hu: np.ndarray
    """Voxels of the CT in HU, float32."""
    labels: np.ndarray
    """Label map, uint8; see `LABEL_NAMES`."""
    attributes: dict[str, float]
    """Number, volume and largest uptake of lesions, and the ground truth of the chest."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""


def make_pet_phantom(seed: int, size: tuple[int, int, int] = (64, 64, 64)) -> PetPhantom:
    """Make the PET/CT of the synthetic patient of a seed: the chest of `make_phantom`, with up to four lesions.

    Args:
        seed: Random seed, at least 0.
        size: Voxels D, H, W, multiples of 8.

    Raises:
        InputError: If a side is not a multiple of 8.
    """
    painted = paint_thorax(seed, size)
    rng = np.random.default_rng([seed, 5])
    uptake = _uptake(painted, rng)
    peaks = _paint_lesions(painted.scene, uptake, rng)
    chest = finished(painted, len(LABEL_NAMES))
    pet = _scanned(blocks(uptake, painted.samples).mean(axis=(1, 3, 5)), painted.scene.canvas.spacing, painted, rng)
    voxels = int((painted.scene.canvas.labels == LESION).sum())
    millilitres = float(np.prod(painted.scene.canvas.spacing)) / 1000
    own = {"lesions": float(len(peaks)), "lesion_ml": round(voxels * millilitres, 2)}
    own["lesion_suv_max"] = round(max(peaks, default=0.0), 2)
    return PetPhantom(pet, chest.hu, chest.labels, own | chest.attributes, chest.affine)


def write_pet_phantoms(out: Path | str, num: int = 96, size: Size = (64, 64, 64), seed: int = 0, **how: Any) -> Path:
    """Write PET/CT phantoms (NIfTI, RAS), their label maps, attributes.csv and tables of pairs.

    Args:
        out: Folder; volumes go to pet/ and ct/, label maps to labels/. For `prepare`, pairs.csv names the volumes and
            labelled_pairs.csv the label maps too.
        num: Number of phantoms.
        size: Voxels D, H, W.
        seed: Seed of the first patient; the next ones have seed + 1, ...
        how: ``workers`` (processes) and ``progress`` (whether to show a bar), see `write_all`.

    Returns:
        The folder.
    """
    out = Path(out)
    rows = write_all(_write_one, out, num, size, seed, title="PET/CT", **how)
    columns = {"source": "pet", "target": "ct", "seg": "labels"}
    names = [str(row["id"]) for row in rows]
    pairs = [{"id": name} | {key: f"{folder}/{name}.nii.gz" for key, folder in columns.items()} for name in names]
    write_attributes(out / "labelled_pairs.csv", pairs)
    write_attributes(out / "pairs.csv", [{key: pair[key] for key in ("id", "source", "target")} for pair in pairs])
    return out


def _write_one(task: Task) -> Row:
    """Write one phantom; return its row of the table."""
    out, seed, size, _ = task
    made, name = make_pet_phantom(seed, size), f"petct-{seed:05d}"
    write_nifti(out / "pet" / f"{name}.nii.gz", *to_output_axes(made.pet, made.affine, "RAS"), dtype="float32")
    for folder, array in (("ct", made.hu), ("labels", made.labels)):
        write_nifti(out / folder / f"{name}.nii.gz", *to_output_axes(array, made.affine, "RAS"), dtype="int16")
    return {"id": name, **made.attributes}


def _uptake(painted: Painted, rng: np.random.Generator) -> np.ndarray:
    """Return the uptake of a chest without lesions on its canvas: by tissue, liver and wall of the heart apart."""
    scene, canvas = painted.scene, painted.scene.canvas
    uptake = np.array(UPTAKE, np.float32)[canvas.labels]
    uptake[(canvas.labels == anatomy.BODY) & (canvas.hu < -20)] = FAT_UPTAKE
    liver = anatomy.liver_shape(scene) < 0
    uptake[liver & (canvas.labels == anatomy.BODY)] = LIVER_UPTAKE
    wall = (painted.heart < 0) & (painted.heart > -HEART_WALL)
    uptake[wall & (canvas.labels == anatomy.HEART)] = rng.uniform(1.5, 8)  # it depends on the patient's last meal
    return uptake * (1 + 0.08 * smooth_field(rng, uptake.shape, (9, 9, 9)))


def _paint_lesions(scene: Scene, uptake: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Paint lesions into the CT, the label map and the uptake; return the uptake of each."""
    canvas, patient, peaks = scene.canvas, scene.patient, list[float]()
    for _ in range(int(rng.integers(MOST_LESIONS + 1))):
        side, radius, peak = rng.choice((-1, 1)), rng.uniform(6, 16), float(rng.uniform(4, 14))
        height = rng.uniform(patient.dome + 20, patient.apex - 30)
        forward = rng.uniform(-0.45, 0.45) * patient.cage[1] + patient.middle[0]
        across = side * rng.uniform(0.35, 0.7) * patient.cage[0] + patient.middle[1]
        box, ball = canvas.ellipsoid((height, forward, across), list(radius * rng.uniform(0.8, 1.2, 3)))
        inside = common(ball + 1.5 * scene.wobble[box], scene.cage[box] + 3)
        canvas.paint(inside, 40.0, LESION, box)
        cover = np.clip(0.5 - inside / canvas.edge, 0, 1)
        uptake[box] += cover * (peak - uptake[box])
        peaks.append(peak)
    return peaks


def _scanned(uptake: np.ndarray, spacing: np.ndarray, painted: Painted, rng: np.random.Generator) -> np.ndarray:
    """Blur by the point spread of the scanner and add noise, whose variance grows with the uptake."""
    sigma = RESOLUTION / np.sqrt(8 * np.log(2)) / (spacing * painted.samples)
    blurred = gaussian_filter(uptake, sigma)
    noise = gaussian_filter(rng.standard_normal(uptake.shape, dtype=np.float32), 0.6)
    noise *= NOISE / max(float(noise.std()), 1e-6)
    return np.maximum(blurred + noise * np.sqrt(blurred), 0).astype(np.float32)
