"""What batches of every kind share: random numbers that follow from their place in the run, and reading ahead."""

import queue
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepBatch(ABC):
    """The place of a batch in its run, and the random numbers that follow from it."""

    samples: tuple[int, ...]
    """Number of each sample in the global batch of the step."""
    seed: int
    step: int
    phase: str = ""
    """Name of the phase that sees the batch; part of its random numbers."""
    state: Mapping[str, float] = field(default_factory=dict)
    """Scalars that the method adapts."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its tensors are."""

    @abstractmethod
    def parts(self, count: int) -> Generator[Self]:
        """Cut the batch into ``count`` parts of equal size."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Move it to a device."""

    def __len__(self) -> int:
        """Return the volumes in the batch."""
        return len(self.samples)

    def normal(self, name: str, count: int) -> Tensor:
        """Draw ``[B, count]`` standard normal numbers; the same for the same (seed, step, sample, phase, name)."""
        rows = [generator.standard_normal(count, dtype=np.float32) for generator in self._generators(name)]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def uniform(self, name: str, count: int) -> np.ndarray:
        """Draw ``[B, count]`` numbers uniform in [0, 1), as `normal`, for the host."""
        return np.stack([generator.random(count, dtype=np.float32) for generator in self._generators(name)])

    def _generators(self, name: str) -> list[np.random.Generator]:
        """One generator per sample."""
        key = zlib.crc32(f"{self.phase}/{name}".encode())
        return [np.random.default_rng([self.seed, self.step, sample, key]) for sample in self.samples]


Made = TypeVar("Made", bound=StepBatch)


class StepSource(ABC, Generic[Made]):
    """Batches of consecutive steps."""

    @abstractmethod
    def batch(self, step: int) -> Made:
        """Read the batch of one step, on the CPU."""

    def batches(self, first: int, last: int) -> Generator[Made]:
        """Give the batches of steps ``first`` to ``last - 1``; one thread reads ahead."""
        ready: queue.Queue[Made | BaseException] = queue.Queue(maxsize=1)
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
        self, first: int, last: int, ready: queue.Queue[Made | BaseException], stopped: threading.Event
    ) -> None:
        for step in range(first, last):
            try:
                item: Made | BaseException = self.batch(step)
            except BaseException as error:  # noqa: BLE001 - it is raised where the batch is asked for
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int, name: str = "order") -> np.ndarray:
    """Order of ``count`` volumes in one pass over them."""
    return np.random.default_rng([seed, epoch, zlib.crc32(name.encode())]).permutation(count)


def drawn(indices: np.ndarray, seed: int, position: int, name: str = "order") -> int:
    """Return the volume at a position of the endless sequence of shuffled passes over ``indices``."""
    epoch, place = divmod(position, len(indices))
    return int(indices[order(seed, epoch, len(indices), name)[place]])


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """Put a tensor where a GPU can copy it from while it computes."""
    return x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
