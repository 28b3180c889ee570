"""Base classes of batches and their sources: counter-based random numbers, shuffling and prefetching.

All randomness is a function of (seed, step, sample), so that a resumed run needs no saved random state.
"""

import queue
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from hagan3d.ops.device import to_device


@dataclass(frozen=True, kw_only=True)
class StepBatch(ABC):
    """A batch with its position in the run, which determines its random numbers."""

    samples: tuple[int, ...]
    """Index of each sample in the global batch of the step."""
    seed: int
    step: int
    phase: str = ""
    """Name of the phase that processes the batch; part of the random seed."""
    state: Mapping[str, float] = field(default_factory=dict)
    """Adaptive state of the method, such as an augmentation probability."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of its tensors."""

    @abstractmethod
    def micro_batches(self, count: int) -> Generator[Self]:
        """Split the batch into ``count`` micro-batches of equal size."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Move the batch to a device."""

    def reading(self, count: int, passes: int) -> AbstractContextManager[Self]:
        """Return a block that reads ahead what phases ask for piece by piece, if there is such.

        Args:
            count: Micro-batches of the step.
            passes: How many phases of the step ask for it.
        """
        return nullcontext(self)

    def __len__(self) -> int:
        """Return the number of volumes in the batch."""
        return len(self.samples)

    def normal(self, name: str, count: int) -> Tensor:
        """Sample ``[B, count]`` standard normal values, a function of (seed, step, sample, phase, name)."""
        rows = [generator.standard_normal(count, dtype=np.float32) for generator in self._generators(name)]
        return to_device(np.stack(rows), self.device)

    def uniform(self, name: str, count: int) -> np.ndarray:
        """Sample ``[B, count]`` values uniform in [0, 1), as in `normal`, as an array on the host."""
        return np.stack([generator.random(count, dtype=np.float32) for generator in self._generators(name)])

    def _generators(self, name: str) -> list[np.random.Generator]:
        """Return one generator per sample."""
        key = zlib.crc32(f"{self.phase}/{name}".encode())
        return [np.random.default_rng([self.seed, self.step, sample, key]) for sample in self.samples]


BatchT = TypeVar("BatchT", bound=StepBatch)


class StepSource(ABC, Generic[BatchT]):
    """A source of one batch per step, read ahead by one."""

    @property
    @abstractmethod
    def num_volumes(self) -> int:
        """Number of volumes that a run sees."""

    @property
    def epoch(self) -> int:
        """Number of samples after which each volume has been seen once: volumes, or pairs."""
        return self.num_volumes

    @abstractmethod
    def batch(self, step: int) -> BatchT:
        """Read the batch of one step, on the CPU."""

    def batches(self, first: int, last: int) -> Generator[BatchT]:
        """Yield the batches of steps ``first`` to ``last - 1``; a thread prefetches the next one."""
        ready: queue.Queue[BatchT | BaseException] = queue.Queue(maxsize=1)
        stopped = threading.Event()
        reader = threading.Thread(target=self._read_ahead, args=(first, last, ready, stopped), daemon=True)
        reader.start()
        try:
            for _ in range(first, last):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            reader.join()

    def _read_ahead(
        self, first: int, last: int, ready: queue.Queue[BatchT | BaseException], stopped: threading.Event
    ) -> None:
        for step in range(first, last):
            try:
                item: BatchT | BaseException = self.batch(step)
            except BaseException as error:  # noqa: BLE001 - raised again in `batches`
                item = error
            while not stopped.is_set():  # a timeout, so that a consumer that stopped early ends the thread
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return


@lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, count: int, name: str = "order") -> np.ndarray:
    """Return the permutation of ``count`` volumes in one epoch."""
    return np.random.default_rng([seed, epoch, zlib.crc32(name.encode())]).permutation(count)


def sample_index(indices: np.ndarray, seed: int, position: int, name: str = "order") -> int:
    """Return the volume at a position of the infinite sequence of shuffled epochs over ``indices``."""
    epoch, offset = divmod(position, len(indices))
    return int(indices[shuffled(seed, epoch, len(indices), name)[offset]])
