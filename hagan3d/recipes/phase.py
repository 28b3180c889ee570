"""What a training method is made of: phases, each an update of named networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hagan3d.data.batches import Batch
from hagan3d.networks.build import Networks

Losses = Callable[[Networks, Batch], dict[str, Tensor]]


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


def _keep(state: Mapping[str, float], measures: Mapping[str, float], volumes: int) -> dict[str, float]:
    return dict(state)


@dataclass(frozen=True)
class Recipe:
    """A training method."""

    phases: list[Phase]
    """The updates of one step, in order."""
    state: dict[str, float] = field(default_factory=dict)
    """Numbers the method steers while it runs; part of a checkpoint."""
    adapt: Callable[[Mapping[str, float], Mapping[str, float], int], dict[str, float]] = _keep
    """(state, logged terms of the step as phase/term, volumes seen in it) to the state of the next step."""
