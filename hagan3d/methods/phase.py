"""Phases of a training step: each updates named networks with one loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Terms = dict[str, Tensor]
"""Named terms of a loss, scalars without their weights; the weighted sum is minimized."""
Loss = Callable[[Any, Any], Terms | Iterator[Terms]]
"""(networks, batch) to the terms of a loss; or to groups of terms, each computed after the backward pass of the group
before it, so that their activations are never stored together."""
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Phase:
    """One update of some networks, by a loss."""

    name: str
    updates: tuple[str, ...]
    """Networks that learn; all others are frozen."""
    loss: Loss
    lr: float
    """Learning rate of Adam."""
    weights: Weights | Callable[[int], Weights] = field(default_factory=dict)
    """Weight of each term, or a function from the step to these; 1 for a term that it does not name."""
    shares: Weights = field(default_factory=dict)
    """Terms whose weight is found in the first step: each then has this share of the gradient, see `LossShares`."""
    measures: tuple[str, ...] = ()
    """Terms that are logged but not part of the loss."""
    first: int = 0
    """First step."""
    end: int | None = None
    """Step after the last; None: no end."""
    every: int = 1
    """Steps from one update to the next."""
    lr_of: Weights = field(default_factory=dict)
    """Learning rates of networks, by name, that differ from `lr`."""
    volumes_every: int = 0
    """Its loss reads the whole volumes of a batch in every n-th step; 0: never."""
    records: tuple[str, ...] = ()
    """Frozen networks whose graph is recorded, since a later phase of the step learns through it."""
    penalised: tuple[str, ...] = ()
    """Networks whose gradient is part of the loss, and is differentiated again."""

    def is_active(self, step: int) -> bool:
        """Return whether ``step`` lies between its first step and its end."""
        return self.first <= step and (self.end is None or step < self.end)

    def is_due(self, step: int) -> bool:
        """Return whether it runs in ``step``."""
        return self.is_active(step) and (step - self.first) % self.every == 0

    def reads_volumes(self, step: int) -> bool:
        """Return whether its loss reads the whole volumes in ``step``."""
        return self.volumes_every > 0 and self.is_due(step) and step % self.volumes_every == 0

    def count(self, steps: int) -> int:
        """Return in how many of the first ``steps`` steps it runs."""
        last = steps if self.end is None else min(steps, self.end)
        return max(0, -(-(last - self.first) // self.every))

    def weights_at(self, step: int, found: Weights) -> Weights:
        """Return the weight of each term at a step; those of ``shares`` are in ``found`` as ``phase/term``."""
        weights = self.weights(step) if callable(self.weights) else self.weights
        return {**weights, **{term: found.get(f"{self.name}/{term}", 1.0) for term in self.shares}}


def stage_starts(phases: Sequence[Phase]) -> list[int]:
    """Return the steps at which some phase begins; checkpoints at these steps are kept."""
    return sorted({phase.first for phase in phases})
