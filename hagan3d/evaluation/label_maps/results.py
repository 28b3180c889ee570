"""Results on the label maps of generated volumes, and the overview of an evaluation of several channels."""

from dataclasses import asdict, dataclass
from typing import Any

from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.report.results import Origin
from hagan3d.evaluation.report.verdict import Verdict


@dataclass(frozen=True)
class LabelSet:
    """One label in one set of volumes."""

    mean_ml: Estimate
    """Mean volume over the volumes of the set."""
    deviation_ml: float
    """Standard deviation of the volume."""
    absent: Estimate
    """Share of the volumes without a voxel of the label."""
    components: Estimate
    """Mean number of connected components."""
    pair_dice: Estimate | None
    """Mean Dice of disjoint pairs of volumes; None where both volumes of every pair lack the label."""
    pairs: int
    """Number of these pairs."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values = {key: value.to_dict() if isinstance(value, Estimate) else value for key, value in vars(self).items()}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class LabelComparison:
    """One label in all sets of volumes."""

    name: str
    sets: dict[str, LabelSet]
    """By name of the set: generated, held-out, train."""
    distances: dict[str, dict[str, Estimate]]
    """By comparison of two sets and by metric."""
    reconstruction_dice: Estimate | None
    """Mean Dice of held-out volumes and their reconstructions; None without an encoder."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return {
            **{name: one.to_dict() for name, one in self.sets.items()},
            "distances": {name: {k: v.to_dict() for k, v in row.items()} for name, row in self.distances.items()},
            "reconstruction_dice": self.reconstruction_dice and self.reconstruction_dice.to_dict(),
        }


@dataclass(frozen=True)
class ChannelSummary:
    """The main numbers of an image channel; all are in its own folder."""

    name: str
    folder: str
    """Name of the folder."""
    extractor: str
    """Name of the features."""
    metrics: dict[str, tuple[float, float]]
    """Generated against held-out volumes, and the real-vs-real floor, by key of the metric of features."""
    variety: float
    """Standard deviation of voxels over generated volumes, relative to training volumes."""
    verdict: Verdict
    """The overall verdict on the channel."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        metrics = {key: {"value": value, "floor": floor} for key, (value, floor) in self.metrics.items()}
        return {
            "folder": self.folder,
            "features": self.extractor,
            **metrics,
            "variety": self.variety,
            "verdict": asdict(self.verdict),
        }


@dataclass(frozen=True)
class Overview:
    """Results of a run with several image channels or with label maps."""

    origin: Origin
    channels: tuple[ChannelSummary, ...]
    labels: tuple[LabelComparison, ...]
    """Of every label but the background; empty without label maps."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values = self.origin.to_dict()
        del values["extractors"]
        return {
            **values,
            "channels": {one.name: one.to_dict() for one in self.channels},
            "labels": {one.name: one.to_dict() for one in self.labels},
        }
