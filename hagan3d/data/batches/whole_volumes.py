"""Whole volumes of a step, read slab by slab in a thread while networks that do not need them are updated."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hagan3d.data.store.format import SCALE
from hagan3d.data.store.store import Store
from hagan3d.ops.device import to_device

READ_AHEAD = 2**29
"""Bytes of host memory that slabs may take which are read ahead for a GPU; there they are kept for the next phase."""

Samples = tuple[int, ...]
_Key = tuple[Samples, int]  # samples of a micro-batch, first slice


class StoredSlab(NamedTuple):
    """The same slices of several volumes as a store holds them."""

    images: Tensor
    """int16 ``[B, C, depth, H, W]``."""
    label_map: Tensor | None
    """uint8 ``[B, depth, H, W]``."""
    num_labels: int = 0

    def decoded(self, device: torch.device) -> Tensor:
        """Return float32 in [-1, 1] ``[B, C + K, depth, H, W]`` on a device, which decodes; the same bits on each."""
        images = to_device(self.images, device)
        B, C, *sides = images.shape
        x = torch.empty(B, C + self.num_labels, *sides, device=device)
        # A divisor on the device: CUDA multiplies by the rounded reciprocal of a number of the host.
        x[:, :C].copy_(images).div_(torch.full((), SCALE, dtype=torch.float32, device=device))
        if self.label_map is not None:
            label_map = to_device(self.label_map, device)
            for label in range(self.num_labels):
                x[:, C + label].copy_(label_map == label)
            x[:, C:].mul_(2).sub_(1)
        return x


@dataclass(frozen=True)
class VolumesInStore:
    """Whole volumes that are read from the store on demand."""

    store: Store
    indices: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of slices of a volume."""
        return self.store.size[0]

    def rows(self, rows: slice) -> "VolumesInStore":
        """Select volumes of the batch."""
        return VolumesInStore(self.store, self.indices[rows])

    def slab_bytes(self, depth: int) -> int:
        """Return the bytes of a slab of ``depth`` slices in host memory."""
        labels = 1 if self.store.label_names else 0
        voxels = len(self.indices) * depth * self.store.size[1] * self.store.size[2]
        return voxels * (2 * len(self.store.channels) + labels)

    def slab(self, first: int, stop: int, pinned: bool = False) -> StoredSlab:
        """Read slices ``first`` to ``stop - 1`` of every volume; ``pinned``: into memory that a GPU can copy from."""
        store, (height, width) = self.store, self.store.size[1:]
        count, depth = len(self.indices), stop - first
        shape = (count, len(store.channels), depth, height, width)
        images = torch.empty(shape, dtype=torch.int16, pin_memory=pinned)
        label_map = None
        if store.label_names:
            label_map = torch.empty(count, depth, height, width, dtype=torch.uint8, pin_memory=pinned)
        for row, i in enumerate(self.indices):
            labels = None if label_map is None else label_map[row].numpy()
            store.read_stored(i, first, images[row].numpy(), labels)
        return StoredSlab(images, label_map, len(store.label_names))


@dataclass(frozen=True)
class VolumesInMemory:
    """Whole volumes in memory, as augmentation needs them."""

    x: Tensor
    """``[B, C, D, H, W]`` in [-1, 1], on the CPU."""

    @property
    def length(self) -> int:
        """Number of slices of a volume."""
        return self.x.shape[2]

    def rows(self, rows: slice) -> "VolumesInMemory":
        """Select volumes of the batch."""
        return VolumesInMemory(self.x[rows])

    def slab_bytes(self, depth: int) -> int:
        """Return the bytes of a copy of a slab of ``depth`` slices."""
        return self.x[:, :, :1].numel() * depth * self.x.element_size()

    def slab(self, first: int, stop: int, pinned: bool = False) -> Tensor:
        """Return slices ``first`` to ``stop - 1`` of every volume: ``[B, C, stop - first, H, W]``."""
        slab = self.x[:, :, first:stop]
        return slab.pin_memory() if pinned else slab


Volumes = VolumesInStore | VolumesInMemory


class SlabReader:
    """Reads the slabs of a step in a thread, in the order in which its phases ask for them.

    For a GPU, it reads up to `READ_AHEAD` bytes ahead into pinned memory, and if this holds all slabs of the step they
    are read once for all phases. On a CPU, whose memory the networks need too, it reads one slab ahead.
    """

    def __init__(self, parts: Mapping[Samples, Volumes], depth: int, device: torch.device, passes: int) -> None:
        """Begin to read.

        Args:
            parts: The volumes of each micro-batch, by its samples, in order.
            depth: Slices of a slab; the last of a volume may be thinner.
            device: Device of the slabs.
            passes: How many phases read them.
        """
        self._parts, self._depth, self._device = dict(parts), depth, device
        self._keys = [(samples, first) for samples, part in parts.items() for first in range(0, part.length, depth)]
        self._ahead = 1
        if device.type == "cuda":
            largest = max(part.slab_bytes(depth) for part in parts.values())
            self._ahead = min(len(self._keys), max(1, READ_AHEAD // largest))
        self._keeps = device.type == "cuda" and self._ahead == len(self._keys)
        self._left = len(self._keys) if self._keeps else passes * len(self._keys)
        self._read: dict[_Key, Future[StoredSlab | Tensor]] = {}
        self._thread = ThreadPoolExecutor(1)
        for key in self._keys[: self._ahead]:
            self._begin(key)

    def slabs(self, samples: Samples) -> Iterator[Tensor]:
        """Yield the slabs of a micro-batch ``[B, C, depth, H, W]`` on the device."""
        for place, key in enumerate(self._keys):
            if key[0] == samples:
                yield self._decoded(self._taken(key, self._keys[(place + self._ahead) % len(self._keys)]))

    def has(self, samples: Samples) -> bool:
        """Return whether it reads a micro-batch."""
        return samples in self._parts

    def close(self) -> None:
        """End the thread, after the slab that it reads, and drop what was read."""
        self._thread.shutdown(cancel_futures=True)
        self._read.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _taken(self, key: _Key, following: _Key) -> StoredSlab | Tensor:
        """Return a slab; unless all are kept, drop it and begin to read the one that then follows those ahead."""
        if key not in self._read:  # a phase that reads more often than `passes` counts
            self._begin(key)
        slab = self._read[key].result()
        if not self._keeps:
            del self._read[key]
            if self._left > 0 and following not in self._read:
                self._begin(following)
        return slab

    def _decoded(self, slab: StoredSlab | Tensor) -> Tensor:
        return slab.decoded(self._device) if isinstance(slab, StoredSlab) else to_device(slab, self._device)

    def _begin(self, key: _Key) -> None:
        samples, first = key
        volumes = self._parts[samples]
        stop = min(first + self._depth, volumes.length)
        self._read[key] = self._thread.submit(volumes.slab, first, stop, self._device.type == "cuda")
        self._left -= 1
