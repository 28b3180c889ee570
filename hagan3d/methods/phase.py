"""What a training method is made of: phases, each an update of named networks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Terms = dict[str, Tensor]
Losses = Callable[..., Terms | Iterator[Terms]]
"""(networks, batch) to the terms of a loss; or to groups of them, each of which is worked out after the backward pass
of the one before, so that their activations are never kept together."""


@dataclass(frozen=True)
class Phase:
    """One update: the networks it moves and the terms of its loss, which are added up."""

    name: str
    updates: tuple[str, ...]
    losses: Losses
    lr: float
    """Adam's learning rate."""
    measures: tuple[str, ...] = ()
    """Terms that are logged but not part of the loss."""
    first: int = 0
    """First step that it is part of."""
    end: int | None = None
    """Step from which on it is over; None: never."""
    every: int = 1
    """Steps from one update to the next."""
    records: tuple[str, ...] = ()
    """Networks whose passes are recorded for a later phase of the step; they do not move here."""
    penalised: tuple[str, ...] = ()
    """Networks whose gradient is part of the loss, and is differentiated again."""

    def is_alive(self, step: int) -> bool:
        """Whether ``step`` lies between its first and its end."""
        return self.first <= step and (self.end is None or step < self.end)

    def is_due(self, step: int) -> bool:
        """Whether it is part of ``step``."""
        return self.is_alive(step) and (step - self.first) % self.every == 0

    def times(self, steps: int) -> int:
        """Return in how many of the first ``steps`` steps it is due."""
        last = steps if self.end is None else min(steps, self.end)
        return max(0, -(-(last - self.first) // self.every))


def _keep(state: Mapping[str, float], measures: Mapping[str, float], volumes: int) -> dict[str, float]:
    return dict(state)


@dataclass(frozen=True)
class Recipe:
    """A training method."""

    phases: list[Phase]
    """The updates of a step, in order, of those that are due in it."""
    state: dict[str, float] = field(default_factory=dict)
    """Numbers the method steers while it runs; part of a checkpoint."""
    adapt: Callable[[Mapping[str, float], Mapping[str, float], int], dict[str, float]] = _keep
    """(state, logged terms of the step as phase/term, volumes seen in it) to the state of the next step."""

    def phases_at(self, step: int) -> list[Phase]:
        """Return the updates of one step."""
        return [phase for phase in self.phases if phase.is_due(step)]

    @property
    def beginnings(self) -> list[int]:
        """Steps at which some phase begins; models at the end of the step before are worth keeping."""
        return sorted({phase.first for phase in self.phases})
