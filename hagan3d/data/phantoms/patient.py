"""A synthetic patient: the parameters of a phantom's anatomy."""

from dataclasses import dataclass

import numpy as np

SEVERITIES = 5
EMPHYSEMA = ((0.0, 0.01), (0.03, 0.07), (0.10, 0.16), (0.20, 0.28), (0.34, 0.46))
"""Fraction of the lungs below -950 HU, lowest and highest, by severity."""


@dataclass(frozen=True)
class Patient:
    """Sizes in mm unless stated otherwise; x to the right, y to the front, z to the head, 0 in the middle."""

    severity: int
    """Grade of emphysema, 0 to 4."""
    emphysema: float
    """Fraction of the lungs destroyed by emphysema."""
    female: bool
    cage: tuple[float, float]
    """Half width and half depth of the rib cage."""
    middle: tuple[float, float]
    """Shift of the patient in the scanner along y, x."""
    fat: float
    """Thickness of fat under the skin."""
    muscle: float
    """Thickness of muscle outside the ribs."""
    apex: float
    """Height of the lung apices."""
    dome: float
    """Height of the right diaphragm."""
    dome_depth: float
    """Descent of the diaphragm from its dome to the chest wall."""
    heart: float
    """Size of the heart relative to the average."""
    heart_turn: float
    """Rotation of the long axis of the heart, radians."""
    spine_bow: float
    """Posterior displacement of the spine (kyphosis)."""
    spine_side: float
    """Lateral displacement of the spine (scoliosis)."""
    pitch: float
    """Distance between vertebrae, and between ribs."""
    rib_drop: float
    """Descent of a rib from back to front."""
    phase: float
    """Offset of the first vertebra, fraction of the pitch."""
    bone: float
    """Density of bone relative to the average."""
    carina: float
    """Height of the bifurcation of the trachea."""
    aorta: float
    """Radius of the aorta."""
    parenchyma: float
    """HU of healthy lung."""
    gas: bool
    """Whether there is gas in the stomach."""
    noise: float
    """Standard deviation of the scanner's noise at 5 mm voxels, HU."""


def sample_patient(rng: np.random.Generator, severity: int | None) -> Patient:
    """Sample a patient; with `severity` None, also the grade of emphysema."""
    stage = int(rng.integers(SEVERITIES)) if severity is None else severity
    female = bool(rng.random() < 0.5)
    height = float(np.clip(rng.normal(0.96 if female else 1.03, 0.04), 0.86, 1.14))
    build = float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.11))
    inflated = stage / (SEVERITIES - 1)  # emphysema inflates the lungs and flattens the diaphragm
    low, high = EMPHYSEMA[stage]
    return Patient(
        severity=stage,
        emphysema=float(rng.uniform(low, high)),
        female=female,
        cage=(124 * height * build, (88 + 6 * inflated) * height * float(rng.normal(1, 0.035)) * build),
        middle=(float(rng.normal(0, 4)), float(rng.normal(0, 4))),
        fat=float(np.clip(rng.lognormal(np.log(13 if female else 10), 0.45), 4, 34)),
        muscle=float(rng.uniform(9, 16)) * (0.85 if female else 1.1),
        apex=122 * height + float(rng.normal(0, 4)),
        dome=-66 * height - 24 * inflated + float(rng.normal(0, 8)),
        dome_depth=52 * (1 - 0.55 * inflated) * float(rng.uniform(0.85, 1.15)),
        heart=float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.25)) * (0.95 if female else 1.02),
        heart_turn=float(rng.normal(0.0, 0.15)) - 0.25 * inflated,
        spine_bow=float(rng.uniform(4, 16)),
        spine_side=float(rng.normal(0, 3)),
        pitch=24.5 * height * float(rng.uniform(0.96, 1.04)),
        rib_drop=float(rng.uniform(100, 128)) * (1 - 0.2 * inflated),
        phase=float(rng.random()),
        bone=float(rng.uniform(0.75, 1.2)),
        carina=36 + float(rng.normal(0, 6)),
        aorta=float(rng.uniform(11, 15.5)),
        parenchyma=float(rng.normal(-845, 18)) - 30 * inflated,
        gas=bool(rng.random() < 0.6),
        noise=float(rng.uniform(7, 20)),
    )
