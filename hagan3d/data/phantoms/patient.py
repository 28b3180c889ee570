"""One made-up patient: the numbers that a phantom's anatomy follows from."""

from dataclasses import dataclass

import numpy as np

SEVERITIES = 5
EMPHYSEMA = ((0.0, 0.01), (0.03, 0.07), (0.10, 0.16), (0.20, 0.28), (0.34, 0.46))
"""Share of the lungs below -950 HU, lowest and highest, by severity."""


@dataclass(frozen=True)
class Patient:
    """Sizes in mm unless said otherwise; x to the right, y to the front, z to the head, 0 in the middle."""

    severity: int
    """Of emphysema, 0 to 4."""
    emphysema: float
    """Share of the lungs that is destroyed."""
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
    """Height of the lungs' tips."""
    dome: float
    """Height of the right diaphragm."""
    dome_depth: float
    """How far the diaphragm falls from its top to the wall."""
    heart: float
    """Size of the heart relative to the usual."""
    heart_turn: float
    """Turn of its long axis, radians."""
    spine_bow: float
    """How far the spine bows back (kyphosis)."""
    spine_side: float
    """How far it bows to the side (scoliosis)."""
    pitch: float
    """From one vertebra, or rib, to the next."""
    rib_drop: float
    """How far a rib falls from back to front."""
    phase: float
    """Where the first vertebra is, share of the pitch."""
    bone: float
    """Density of bone relative to the usual."""
    carina: float
    """Height where the windpipe parts."""
    aorta: float
    """Radius of the aorta."""
    parenchyma: float
    """HU of healthy lung."""
    gas: bool
    """Whether the stomach holds gas."""
    noise: float
    """Standard deviation of the scanner's noise at 5 mm voxels, HU."""


def draw_patient(rng: np.random.Generator, severity: int | None) -> Patient:
    """Draw a patient; `severity` None draws that too."""
    stage = int(rng.integers(SEVERITIES)) if severity is None else severity
    female = bool(rng.random() < 0.5)
    height = float(np.clip(rng.normal(0.96 if female else 1.03, 0.04), 0.86, 1.14))
    build = float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.11))
    inflated = stage / (SEVERITIES - 1)  # emphysema blows lungs up and flattens the diaphragm
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
