"""Volumes that one phase of a step leaves for the next, so that they need not be generated twice."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from hagan3d.data.batches.steps import StepBatch

Made = TypeVar("Made", Tensor, tuple[Tensor, Tensor])


class Kept:
    """Generated volumes of the parts of one step, by name; those of earlier steps are forgotten."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._step = -1
        self._held: dict[tuple[str, tuple[int, ...]], Any] = {}

    def leave(self, name: str, batch: StepBatch, x: Tensor) -> None:
        """Leave ``x``, without its graph, for a later phase of the same step."""
        self.leave_recorded(name, batch, x.detach())

    def leave_recorded(self, name: str, batch: StepBatch, x: Made) -> None:
        """Leave what a later phase of the same step learns through."""
        if batch.step != self._step:
            self._held.clear()
            self._step = batch.step
        self._held[name, batch.samples] = x

    def take(self, name: str, batch: StepBatch, make: Callable[[], Made]) -> Made:
        """Take what was left and forget it; made anew where nothing was, as when a phase runs by itself."""
        found = self._held.pop((name, batch.samples), None) if batch.step == self._step else None
        return make() if found is None else found
