"""Statistical power: whether a metric separates generated from real volumes, and which difference it could find."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import t

from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.registry import Better, Metric, badness

State = Literal["good", "unclear", "bad"]
"""No difference found, and one that matters would have been; cannot tell; different."""

FALSE_ALARM = 0.001  # one-sided, of one metric; of the ten or so of a report together it is about 1 %
MISSED = 0.2  # probability of missing a difference of the detectable size: a power of 80 %


@dataclass(frozen=True)
class Difference:
    """A metric of generated against held-out volumes, and its real-vs-real floor."""

    title: str
    unit: str
    better: Better
    matters: float
    """Smallest difference that a reader would care about."""
    value: Estimate
    floor: Estimate
    volumes: int
    """Independent volumes (subjects) of the smallest set, which determine how well the error itself is known."""

    @classmethod
    def of(cls, metric: Metric, value: Estimate, floor: Estimate, volumes: int) -> "Difference":
        """Return the difference of a registered metric."""
        return cls(metric.title.partition(",")[0], metric.unit, metric.better, metric.matters, value, floor, volumes)

    @property
    def error(self) -> float:
        """Standard error of the excess over the floor."""
        return math.hypot(self.value.error or 0.0, self.floor.error or 0.0)

    @property
    def excess(self) -> float:
        """By how much generated volumes are worse than the floor; negative: better."""
        return badness(self.value.value, self.better) - badness(self.floor.value, self.better)

    @property
    def detectable(self) -> float:
        """Excess that is found in 80 % of repetitions: the sum of both quantiles of t times the error."""
        return float(t.isf(FALSE_ALARM, self.volumes - 1) + t.isf(MISSED, self.volumes - 1)) * self.error

    @property
    def state(self) -> State:
        """``bad``: different; ``good``: not, and a difference that matters would have been found; else ``unclear``."""
        if self.excess > float(t.isf(FALSE_ALARM, self.volumes - 1)) * self.error:
            return "bad"
        return "good" if self.detectable <= self.matters else "unclear"

    @property
    def in_errors(self) -> float:
        """The excess in standard errors."""
        return self.excess / self.error if self.error else math.copysign(math.inf, self.excess)

    def amount(self, size: float) -> str:
        """Return a size of this metric in words."""
        return f"{self.title} {_two_digits(size)} {self.unit}".rstrip()

    def against_floor(self) -> str:
        """Return the value and its floor in words."""
        return f"{self.amount(self.value.value)} (floor {_two_digits(self.floor.value)})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        own = {name: getattr(self, name) for name in ("excess", "error", "detectable", "matters")}
        return {"state": self.state, **{name: value for name, value in own.items() if math.isfinite(value)}}


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.2g}"


def joint_state(states: Sequence[State]) -> State:
    """Return ``bad`` if any is, ``good`` if all are, else ``unclear``."""
    if "bad" in states:
        return "bad"
    return "good" if states and set(states) == {"good"} else "unclear"
