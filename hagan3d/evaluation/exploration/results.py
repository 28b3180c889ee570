"""Results of an exploration, as written to explore.json, and the lines that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hagan3d.evaluation.exploration.directions import AttributeDirection
from hagan3d.evaluation.exploration.measurement import Measurement
from hagan3d.evaluation.exploration.walks import WalkScore
from hagan3d.evaluation.metrics.estimate import Estimate


class Exploration(Protocol):
    """Results of one mode of exploration."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for explore.json."""
        ...

    def describe(self) -> list[str]:
        """Return lines for the terminal."""
        ...


@dataclass(frozen=True)
class AttributeExploration:
    """A walk along the direction of an attribute."""

    origin: dict[str, Any]
    """Run, store and settings."""
    measurement: Measurement
    direction: AttributeDirection
    volumes: int
    """Volumes that the direction was fitted on."""
    held_out: int
    """Held-out volumes among them, where the training split has too few with a value."""
    length: float
    """Norm of the latents relative to the prior."""
    walked: tuple[float, float]
    """Attribute at both ends of the walks."""
    real: tuple[float, float]
    """The same quantiles of real volumes."""
    scores: dict[str, WalkScore]
    """Of all walks, and of those from encoded volumes and from seeds."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for explore.json."""
        attribute, regression = self.measurement.attribute, self.direction.regression
        return {
            **self.origin,
            "attribute": {"name": attribute.name, "unit": attribute.unit, "from": attribute.origin},
            "regression": {
                "volumes": self.volumes,
                "held_out": self.held_out,
                "of": "normal scores of the attribute on latents, ridge, nested cross-validation",
                "r2": regression.r2.to_dict(),
                "correlation": regression.correlation.to_dict(),
                "cosine_of_halves": self.direction.agreement.to_dict(),
            },
            "length": self.length,
            "range": {"walked": list(self.walked), "real": list(self.real)},
            "measure": self.measurement.summary(),
            "walk": {name: asdict(score) for name, score in self.scores.items()},
        }

    def describe(self) -> list[str]:
        """Return lines for the terminal."""
        regression, unit = self.direction.regression, self.measurement.attribute.unit
        among = f", {self.held_out} of them held-out ones: there are too few others" if self.held_out else ""
        lines = [
            f"regression of {self.measurement.attribute.name} on latents: R2 {_interval(regression.r2)}, correlation "
            f"{_interval(regression.correlation)}, {self.volumes} volumes{among}",
            f"directions from halves of the subjects: cosine {_interval(self.direction.agreement)}; norm of "
            f"latents relative to the prior: {self.length:.3g}",
            self._describe_measurement(),
        ]
        for name, score in self.scores.items():
            lines.append(
                f"walks, {name}: intended and measured correlate {_interval(score.correlation)}, monotone "
                f"{score.monotone:.0%}, slope of measured on intended {score.slope:.2f}"
            )
        walked, real = (" to ".join(f"{value:.4g}" for value in values) for values in (self.walked, self.real))
        return [*lines, f"walked from {walked} {unit}; the same quantiles of real volumes: {real}"]

    def _describe_measurement(self) -> str:
        if self.measurement.reader is None:
            return f"measured: {self.measurement.summary()['name']}"
        real = self.measurement.reader.calibration
        if real is None:
            return f"measured on {self.measurement.reader.name}, without calibration"
        return (
            f"measured by {self.measurement.reader.name}: on {real.volumes} real volumes correlation with "
            f"the ground truth {real.correlation:.3f}, error {real.error:.3g} {self.measurement.attribute.unit}"
        )


@dataclass(frozen=True)
class ComponentExploration:
    """Walks along principal components."""

    origin: dict[str, Any]
    shares: Sequence[float]
    """Explained variance of each component."""
    volumes: int
    """Encoded volumes."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for explore.json."""
        return {**self.origin, "pca": {"components": list(self.shares), "volumes": self.volumes}}

    def describe(self) -> list[str]:
        """Return lines for the terminal."""
        return [f"explained variance: {', '.join(f'{share:.1%}' for share in self.shares)}"]


@dataclass(frozen=True)
class Interpolation:
    """An interpolation between two volumes."""

    origin: dict[str, Any]
    ids: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for explore.json."""
        return {**self.origin, "between": list(self.ids)}

    def describe(self) -> list[str]:
        """Return no lines."""
        return []


@dataclass(frozen=True)
class TruncationExploration:
    """The same seeds at several truncation factors."""

    origin: dict[str, Any]
    mean_difference: dict[str, float]
    """Mean absolute deviation from the mean over seeds, by truncation factor, for a data range of 2; empty for one."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for explore.json."""
        return {**self.origin, "mean_difference": self.mean_difference}

    def describe(self) -> list[str]:
        """Return lines for the terminal."""
        if not self.mean_difference:
            return []
        rows = ", ".join(f"{value:.4f} at {factor}" for factor, value in self.mean_difference.items())
        return [f"mean difference between seeds (data range 2) by truncation factor: {rows}"]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
