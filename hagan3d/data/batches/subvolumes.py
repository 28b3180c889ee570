"""Batches: which volumes, windows and random numbers a step sees, as a function of (seed, step, sample) alone."""

import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import AugmentConfig
from hagan3d.data.batches.steps import StepBatch, StepSource, drawn, pinned
from hagan3d.data.batches.transforms import augment
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

TILED = 0.75  # of the windows lie on the disjoint tiling of the volume, the others anywhere


@dataclass(frozen=True, kw_only=True)
class Batch(StepBatch):
    """What one update sees: real volumes, the windows cut out of them, and the source of its random numbers."""

    window: Tensor
    """Real sub-volumes ``[B, 1, depth, H, W]`` in [-1, 1], each at its own start."""
    low: Tensor
    """The same volumes at low resolution ``[B, 1, d, h, w]``."""
    start: Tensor
    """First slice of each window ``[B]``, int64, in voxels."""
    label: Tensor
    """Class of each volume ``[B]``, int64; -1: unknown."""
    volumes: "StoredVolumes | HeldVolumes | None"
    """The whole volumes, to be had slab by slab; None where no phase needs them."""

    @property
    def device(self) -> torch.device:
        """Where its windows are."""
        return self.window.device

    def slabs(self) -> Generator[Tensor]:
        """Give the disjoint sub-volumes ``[B, 1, depth, H, W]`` of the whole volumes; the last may be thinner.

        One slab is read ahead; no more than two are in memory, unless the volumes were augmented.
        """
        assert self.volumes is not None
        device, depth, length = self.window.device, self.window.shape[2], self.volumes.length
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self.volumes.slab, 0, min(depth, length))]
            for first in range(depth, length + depth, depth):
                slab = coming.pop().result()
                if first < length:
                    coming.append(reader.submit(self.volumes.slab, first, min(first + depth, length)))
                yield pinned(slab, device)[:, None].to(device, non_blocking=True)

    def parts(self, count: int) -> Generator[Self]:
        """Cut the batch into ``count`` parts of equal size."""
        size = len(self) // count
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            yield replace(
                self,
                window=self.window[rows],
                low=self.low[rows],
                start=self.start[rows],
                label=self.label[rows],
                volumes=None if self.volumes is None else self.volumes.rows(rows),
                samples=self.samples[rows],
            )

    def to(self, device: torch.device) -> Self:
        """Move all but the whole volumes to a device."""

        def moved(x: Tensor) -> Tensor:
            return pinned(x, device).to(device, non_blocking=True)

        return replace(
            self, window=moved(self.window), low=moved(self.low), start=moved(self.start), label=moved(self.label)
        )


@dataclass(frozen=True)
class StoredVolumes:
    """Whole volumes that stay in their store."""

    store: Store
    indices: tuple[int, ...]

    @property
    def length(self) -> int:
        """Slices of a volume."""
        return self.store.size[0]

    def rows(self, rows: slice) -> "StoredVolumes":
        """Give some of the volumes."""
        return StoredVolumes(self.store, self.indices[rows])

    def slab(self, first: int, stop: int) -> Tensor:
        """Read slices ``first`` to ``stop - 1`` of every volume: ``[B, stop - first, H, W]``."""
        return self.store.windows(self.indices, first, stop - first)


@dataclass(frozen=True)
class HeldVolumes:
    """Whole volumes in memory: those that were augmented."""

    x: Tensor
    """``[B, D, H, W]`` in [-1, 1], on the CPU."""

    @property
    def length(self) -> int:
        """Slices of a volume."""
        return self.x.shape[1]

    def rows(self, rows: slice) -> "HeldVolumes":
        """Give some of the volumes."""
        return HeldVolumes(self.x[rows])

    def slab(self, first: int, stop: int) -> Tensor:
        """Give slices ``first`` to ``stop - 1`` of every volume: ``[B, stop - first, H, W]``."""
        return self.x[:, first:stop]


@dataclass(frozen=True)
class BatchSource(StepSource[Batch]):
    """Real volumes of one split of a store, step by step."""

    store: Store
    split: str
    depth: int
    batch_size: int
    """Volumes per step and process."""
    seed: int
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    windows: str = "even"
    """Where sub-volumes are cut: even, uniform, fixed or published, as DataConfig has it."""
    whole: bool = True
    """Whether batches carry the whole volumes."""
    rank: int = 0
    world: int = 1
    """Processes that share a global batch."""

    def __post_init__(self) -> None:
        """Raise InputError if the store mixes two domains."""
        if self.store.has_domains:
            raise InputError(
                f"{self.store.path}: holds two domains to translate between; use a method that translates without "
                "pairs, or prepare a store of one domain with --input"
            )

    def batch(self, step: int) -> Batch:
        """Read the batch of one step, on the CPU."""
        first = self.rank * self.batch_size
        samples = tuple(range(first, first + self.batch_size))
        available, before = self.store.indices(self.split), step * self.world * self.batch_size
        indices = [drawn(available, self.seed, before + sample) for sample in samples]
        starts = [self._start(step, sample) for sample in samples]
        windows, lows, augmented = zip(
            *(
                self._read(index, start, step, sample)
                for index, start, sample in zip(indices, starts, samples, strict=True)
            ),
            strict=True,
        )
        return Batch(
            window=torch.stack(windows)[:, None],
            low=torch.stack(lows)[:, None],
            start=torch.tensor(starts),
            label=torch.tensor([int(self.store.labels[index]) for index in indices]),
            volumes=self._whole(indices, augmented) if self.whole else None,
            samples=samples,
            seed=self.seed,
            step=step,
        )

    def _start(self, step: int, sample: int) -> int:
        sample = 0 if self.windows == "published" else sample
        return choose_start(
            uniform_of(self.seed, step, sample), self.store.size[0], self.depth, self.store.factor, self.windows
        )

    def _whole(self, indices: list[int], augmented: tuple[Tensor | None, ...]) -> StoredVolumes | HeldVolumes:
        held = [volume for volume in augmented if volume is not None]
        return HeldVolumes(torch.stack(held)) if held else StoredVolumes(self.store, tuple(indices))

    def _read(self, index: int, start: int, step: int, sample: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Window, low-resolution volume and, where it was augmented, the whole volume of one sample."""
        if not self.augment.active:
            return self.store.window(index, start, self.depth), self.store.low(index), None
        key = np.random.SeedSequence([self.seed, step, sample, zlib.crc32(b"augment")]).generate_state(1)[0]
        volume = augment(self.store.volume(index), self.augment, int(key))
        return volume[start : start + self.depth], F.avg_pool3d(volume[None], self.store.factor)[0], volume


def uniform_of(seed: int, step: int, sample: int) -> np.ndarray:
    """Draw the two numbers that `choose_start` wants of one sample."""
    return np.random.default_rng([seed, step, sample, zlib.crc32(b"start")]).random(2)


def choose_start(uniform: np.ndarray, length: int, depth: int, stride: int, windows: str = "even") -> int:
    """Choose the first slice of a window; by default so that every slice is seen about equally often.

    Three windows in four lie on the disjoint tiling of the volume, which covers all slices alike; the others start at
    any multiple of the stride, so that what lies across two tiles is seen too.

    Args:
        uniform: Two numbers, uniform in [0, 1).
        length: Slices of the volume.
        depth: Slices of a window.
        stride: Every start is a multiple of it, that is, a whole slice of the feature map A; not if ``published``.
        windows: ``even``, as said; ``uniform``, at any multiple of the stride; ``fixed``, in the middle; ``published``,
            at any slice.
    """
    if windows == "fixed":
        return (length - depth) // 2 // stride * stride
    if windows == "published":
        return int(uniform[1] * (length - depth + 1))
    tiles = -(-length // depth)
    if windows == "even" and uniform[0] < TILED:
        return min(int(uniform[1] * tiles) * depth, length - depth)
    return stride * int(uniform[1] * ((length - depth) // stride + 1))
