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
class ChannelErrors:
    """Errors of one channel of a held-out volume."""

    errors: dict[str, RegionErrors]
    """Of the translation, and of the source where it is the degraded target."""
    seam_ratio: float | None


@dataclass(frozen=True)
class VolumeErrors:
    """Errors of one held-out volume."""

    id: str
    index: int
    """In the store."""
    subject: str
    channels: dict[str, ChannelErrors]
    """By name of the target channel."""
    dice: dict[str, float | None] | None
    """By label; None without label maps."""
    misalignment: dict[str, dict[str, float]] | None
    """Before and after registration, by metric; None without simulated misalignment."""

    @property
    def psnr_db(self) -> float:
        """PSNR in the mask, the mean over channels."""
        return float(np.mean([one.errors[TRANSLATED]["mask"]["psnr_db"] for one in self.channels.values()]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values: dict[str, Any] = {"id": self.id, "index": self.index, "subject": self.subject}
        for name in ("dice", "misalignment"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        each = {name: {**one.errors, "seam_ratio": one.seam_ratio} for name, one in self.channels.items()}
        return values | _by_channel(each)


@dataclass(frozen=True)
class ChannelEvaluation:
    """Results of one target channel over all held-out volumes."""

    units: str
    summary: dict[str, dict[str, dict[str, Spread]]]
    """Over volumes: by compared volume, region and metric."""
    seam_ratio: float | None
    calibration: dict[str, Any] | None
    """`Calibration.result` by name; fitted ``scale`` and ``scales`` of sigma. None for a model without uncertainty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values = {"units": self.units, "summary": _plain(self.summary), "seam_ratio": self.seam_ratio}
        return values if self.calibration is None else values | {"calibration": self.calibration}


@dataclass(frozen=True)
class PairEvaluation:
    """All results of a translating run."""

    origin: dict[str, Any]
    """Run, step, store, versions, protocol and its key."""
    mask: str
    """Which voxels the mask holds, in words."""
    channels: dict[str, ChannelEvaluation]
    """By name of the target channel."""
    rows: tuple[VolumeErrors, ...]
    dice: dict[str, LabelDice] | None
    """By label."""
    is_label_map: bool
    """Whether the target is a label map alone, without images."""
    misalignment: dict[str, dict[str, Spread]] | None
    """Before and after registration, by metric."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json; several target channels are below ``channels``, by name."""
        return {
            **self.origin,
            **_by_channel({name: one.to_dict() for name, one in self.channels.items()}),
            "mask": self.mask,
            "volumes": len(self.rows),
            "is_label_map": self.is_label_map,
            "dice": self.dice and _plain(self.dice),
            "misalignment": self.misalignment and _plain(self.misalignment),
            "rows": [row.to_dict() for row in self.rows],
        }


def _by_channel(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a single channel as they are, those of several below ``channels``."""
    return next(iter(values.values())) if len(values) == 1 else {"channels": values}


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
    calibration: dict[str, dict[str, Calibration]] = field(default_factory=dict)
    """Of held-out volumes by target channel, as predicted and after scaling; empty without uncertainty."""
    worst: tuple[ShownCase, ...] = ()
    """Volumes with the largest errors, the worst first."""
