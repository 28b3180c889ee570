"""Results of the evaluation of a translation, as written to metrics.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np

from hagan3d.evaluation.translation.calibration import Calibration

TRANSLATED, SOURCE = "translated", "source as it is"
"""What is compared with the target; the source itself only where it is the degraded target."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the volumes with a finite value: a mask near the border has no SSIM."""

    mean: float
    """NaN without any."""
    deviation: float
    volumes: int

    @classmethod
    def of(cls, values: Sequence[float], ddof: int = 1) -> "Spread":
        """Return mean and standard deviation of finite values; the deviation of a single value is 0."""
        array = np.array(values)[np.isfinite(values)]
        mean = float(array.mean()) if len(array) else math.nan
        return cls(mean, float(array.std(ddof=ddof)) if len(array) > ddof else 0.0, len(array))

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.deviation:.2g}" if self.volumes else "none"


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
        each = {name: {**plain(one.errors), "seam_ratio": one.seam_ratio} for name, one in self.channels.items()}
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
        values = {"units": self.units, "summary": plain(self.summary), "seam_ratio": self.seam_ratio}
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
            "dice": self.dice and plain(self.dice),
            "misalignment": self.misalignment and plain(self.misalignment),
            "rows": [row.to_dict() for row in self.rows],
        }


def _by_channel(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a single channel as they are, those of several below ``channels``."""
    return next(iter(values.values())) if len(values) == 1 else {"channels": values}


def plain(values: Any) -> Any:
    """Return nested dicts of numbers or dataclasses as nested dicts of values, None for NaN and infinity."""
    if is_dataclass(values) and not isinstance(values, type):
        values = asdict(values)
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


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
