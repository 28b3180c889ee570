"""Cache of tensors that one phase of a step computes and a later phase uses again."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from hagan3d.data.batches.steps import StepBatch

Cached = TypeVar("Cached", Tensor, tuple[Tensor, Tensor])


class PhaseCache:
    """Tensors by name and samples of a micro-batch; those of earlier steps are dropped."""

    def __init__(self) -> None:
        self._step = -1
        self._tensors: dict[tuple[str, tuple[int, ...]], Any] = {}

    def put(self, name: str, batch: StepBatch, x: Tensor) -> Tensor:
        """Store ``x`` without its graph, and return it as it is."""
        self.put_with_graph(name, batch, x.detach())
        return x

    def put_with_graph(self, name: str, batch: StepBatch, x: Cached) -> Cached:
        """Store ``x`` with its graph, for a phase that learns through it, and return it."""
        if batch.step != self._step:
            self._tensors.clear()
            self._step = batch.step
        self._tensors[name, batch.samples] = x
        return x

    def pop(self, name: str, batch: StepBatch, make: Callable[[], Cached]) -> Cached:
        """Remove and return a tensor; compute it with ``make`` on a miss, as when the phase runs alone."""
        cached = self._tensors.pop((name, batch.samples), None) if batch.step == self._step else None
        return make() if cached is None else cached
