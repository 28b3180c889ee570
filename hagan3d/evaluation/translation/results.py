"""Results of the evaluation of a translation, as written to metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hagan3d.evaluation.translation.calibration import Calibration

TRANSLATED, SOURCE = "translated", "source as it is"
"""What is compared with the target; the source itself only where it is the degraded target."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over volumes."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float], ddof: int = 1) -> "Spread":
        """Return mean and standard deviation of values; the deviation of a single value is 0."""
        array = np.array(values)
        return cls(float(array.mean()), float(array.std(ddof=ddof)) if len(array) > ddof else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.deviation:.2g}"


@dataclass(frozen=True)
class LabelDice:
    """Dice coefficient of one label over the volumes that have it."""

    mean: float
    deviation: float
    least: float
    volumes: int


RegionErrors = dict[str, dict[str, float]]
"""Values by region (whole, mask) and by metric."""


@dataclass(frozen=True)
class VolumeErrors:
    """Errors of one held-out volume."""

    id: str
    index: int
    """In the store."""
    subject: str
    errors: dict[str, RegionErrors]
    """Of the translation, and of the source where it is the degraded target."""
    dice: dict[str, float | None] | None
    """By label; None without label maps."""
    misalignment: dict[str, dict[str, float]] | None
    """Before and after registration, by metric; None without simulated misalignment."""
    seam_ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values: dict[str, Any] = {"id": self.id, "index": self.index, "subject": self.subject, **self.errors}
        for name in ("dice", "misalignment"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values | {"seam_ratio": self.seam_ratio}


@dataclass(frozen=True)
class PairEvaluation:
    """All results of a translating run."""

    origin: dict[str, Any]
    """Run, step, store, versions, protocol and its key."""
    units: str
    mask: str
    """Which voxels the mask holds, in words."""
    summary: dict[str, dict[str, dict[str, Spread]]]
    """Over volumes: by compared volume, region and metric."""
    rows: tuple[VolumeErrors, ...]
    seam_ratio: float | None
    dice: dict[str, LabelDice] | None
    """By label."""
    misalignment: dict[str, dict[str, Spread]] | None
    """Before and after registration, by metric."""
    calibration: dict[str, Any] | None
    """`Calibration.result` by name; fitted ``scale`` and ``scales`` of sigma. None for a model without uncertainty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values: dict[str, Any] = {
            **self.origin,
            "units": self.units,
            "mask": self.mask,
            "volumes": len(self.rows),
            "summary": _plain(self.summary),
            "seam_ratio": self.seam_ratio,
            "dice": self.dice and _plain(self.dice),
            "misalignment": self.misalignment and _plain(self.misalignment),
            "rows": [row.to_dict() for row in self.rows],
        }
        return values if self.calibration is None else values | {"calibration": self.calibration}


def _plain(values: Any) -> Any:
    """Return nested dicts of dataclasses as nested dicts of values."""
    return {key: _plain(value) for key, value in values.items()} if isinstance(values, Mapping) else asdict(values)


@dataclass(frozen=True)
class ShownCase:
    """One volume as shown in the report."""

    id: str
    volumes: dict[str, np.ndarray]
    """``[D, H, W]`` in [-1, 1] by title."""


@dataclass(frozen=True)
class EvaluatedPairs:
    """Results of a translating run and what the pictures of the report need."""

    results: PairEvaluation
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """Of held-out volumes, as predicted and after scaling."""
    worst: tuple[ShownCase, ...] = ()
    """Volumes with the largest errors, the worst first."""
