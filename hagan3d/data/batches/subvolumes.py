"""Batches of volumes for HA-GAN: sub-volumes, low-resolution volumes and, slab by slab, whole volumes."""

import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, DataConfig, SubvolumeDataConfig
from hagan3d.data.batches.steps import StepBatch, StepSource, sample_index
from hagan3d.data.batches.transforms import augment
from hagan3d.data.batches.whole_volumes import SlabReader, Volumes, VolumesInMemory, VolumesInStore
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.ops.device import to_device

TILED_FRACTION = 0.75  # of the windows are tiles of the volume, the others have any start


@dataclass(frozen=True, kw_only=True)
class Batch(StepBatch):
    """Real volumes of one step with a sub-volume of each."""

    window: Tensor
    """Real sub-volumes ``[B, C, depth, H, W]`` in [-1, 1], each at its own start; image channels, then labels."""
    low: Tensor
    """The whole volumes at low resolution ``[B, C, d, h, w]``."""
    start: Tensor
    """First slice of each sub-volume ``[B]``, int64, in voxels."""
    label: Tensor
    """Class of each volume ``[B]``, int64; -1 if unknown."""
    volumes: Volumes | None
    """The whole volumes, read slab by slab; None if no phase needs them."""
    reader: SlabReader | None = None
    """Reads the slabs of the step ahead, inside `reading`."""

    @property
    def device(self) -> torch.device:
        """Device of its tensors."""
        return self.window.device

    @contextmanager
    def reading(self, count: int, passes: int) -> Iterator[Self]:
        """Read the whole volumes in a thread inside this block, while the networks are updated."""
        if self.volumes is None or not passes:
            yield self
            return
        with SlabReader(self._parts(count), self.window.shape[2], self.device, passes) as reader:
            yield replace(self, reader=reader)

    def slabs(self) -> Iterator[Tensor]:
        """Yield the whole volumes as disjoint sub-volumes ``[B, C, depth, H, W]``; the last may be thinner."""
        if self.reader is not None and self.reader.has(self.samples):
            yield from self.reader.slabs(self.samples)
            return
        with SlabReader(self._parts(1), self.window.shape[2], self.device, passes=1) as reader:
            yield from reader.slabs(self.samples)

    def _parts(self, count: int) -> dict[tuple[int, ...], Volumes]:
        """Return the whole volumes of each micro-batch, by its samples."""
        assert self.volumes is not None
        return {part.samples: cast(Volumes, part.volumes) for part in self.micro_batches(count)}

    def micro_batches(self, count: int) -> Generator[Self]:
        """Split the batch into ``count`` micro-batches of equal size."""
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
        """Move all tensors to a device, except the whole volumes."""
        moved = {name: to_device(getattr(self, name), device) for name in ("window", "low", "start", "label")}
        return replace(self, **moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class BatchSource(StepSource[Batch]):
    """Batches of real volumes of one split of a store."""

    store: Store
    split: str
    depth: int
    """Slices per sub-volume."""
    batch_size: int
    """Volumes per step and rank."""
    seed: int
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the whole volume, before the sub-volume is selected."""
    sampling: str = "even"
    """Sampling of sub-volumes: even, uniform, fixed or published, see `choose_start`."""
    whole: bool = True
    """Whether batches have the whole volumes."""
    rank: int = 0
    world_size: int = 1
    """World size: number of ranks that share a global batch."""

    @classmethod
    def from_config(
        cls,
        store: Store,
        data: DataConfig,
        *,
        batch_size: int,
        seed: int,
        whole: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> Self:
        """Return the source of a run.

        Args:
            store: The volumes.
            data: Data settings of the run.
            batch_size: Volumes per step and rank.
            seed: Seed of the run.
            whole: Whether batches have the whole volumes.
            rank: This rank.
            world_size: Number of ranks that share a global batch.
        """
        cut = data if isinstance(data, SubvolumeDataConfig) else None
        return cls(
            store=store,
            split=data.split,
            depth=cut.depth if cut else data.size[0],
            batch_size=batch_size,
            seed=seed,
            augment=data.augment,
            sampling=cut.subvolume_sampling if cut else "even",
            whole=whole,
            rank=rank,
            world_size=world_size,
        )

    def __post_init__(self) -> None:
        """Raise InputError for a store of two domains."""
        if self.store.has_domains:
            raise InputError(
                f"{self.store.path}: holds two unpaired domains; train an unpaired translation method on it, or "
                "prepare a store of one domain with --input"
            )

    @property
    def num_volumes(self) -> int:
        """Number of volumes that a run sees."""
        return len(self.store.indices(self.split))

    def batch(self, step: int) -> Batch:
        """Read the batch of one step, on the CPU."""
        first = self.rank * self.batch_size
        samples = tuple(range(first, first + self.batch_size))
        available, before = self.store.indices(self.split), step * self.world_size * self.batch_size
        indices = [sample_index(available, self.seed, before + sample) for sample in samples]
        starts = [self._start(step, sample) for sample in samples]
        windows, lows, augmented = zip(
            *(
                self._read(index, start, step, sample)
                for index, start, sample in zip(indices, starts, samples, strict=True)
            ),
            strict=True,
        )
        return Batch(
            window=torch.stack(windows),
            low=torch.stack(lows),
            start=torch.tensor(starts),
            label=torch.tensor([int(self.store.labels[index]) for index in indices]),
            volumes=self._whole(indices, augmented) if self.whole else None,
            samples=samples,
            seed=self.seed,
            step=step,
        )

    def _start(self, step: int, sample: int) -> int:
        sample = 0 if self.sampling == "published" else sample  # the published code selects one start per batch
        return choose_start(
            uniform_of(self.seed, step, sample), self.store.size[0], self.depth, self.store.factor, self.sampling
        )

    def _whole(self, indices: list[int], augmented: tuple[Tensor | None, ...]) -> Volumes:
        in_memory = [volume for volume in augmented if volume is not None]
        return VolumesInMemory(torch.stack(in_memory)) if in_memory else VolumesInStore(self.store, tuple(indices))

    def _read(self, index: int, start: int, step: int, sample: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read the sub-volume, the low-resolution volume and, if augmented, the whole volume of one sample."""
        if not self.augment.active:
            return self.store.window(index, start, self.depth), self.store.low(index), None
        volume = self._augmented(index, self._augment_seed(step, sample))
        return volume[:, start : start + self.depth], F.avg_pool3d(volume, self.store.factors), volume

    def _augment_seed(self, step: int, sample: int) -> int:
        words = [self.seed, step, sample, zlib.crc32(b"augment")]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _augmented(self, index: int, key: int) -> Tensor:
        """Read a volume and augment its channels ``[C, D, H, W]`` jointly; labels move but are never interpolated."""
        store, images = self.store, len(self.store.channels)
        volume, spacing = store.volume(index), spacing_of(store.affines[index]).tolist()
        augmented = augment(volume[:images], self.augment, key, spacing)
        if not store.label_names:
            return augmented
        return torch.cat([augmented, augment(volume[images:], self.augment, key, spacing, labels=True)])


def uniform_of(seed: int, step: int, sample: int) -> np.ndarray:
    """Sample the two uniform values of `choose_start` for one sample."""
    return np.random.default_rng([seed, step, sample, zlib.crc32(b"start")]).random(2)


def choose_start(uniform: np.ndarray, length: int, depth: int, stride: int, sampling: str = "even") -> int:
    """Choose the first slice of a window; by default such that all slices are sampled about equally often.

    With ``even``, 75 % of the windows are tiles of the disjoint tiling of the volume, which covers all slices equally;
    the others start at any multiple of the stride, so that windows across tile borders are sampled too.

    Args:
        uniform: Two values, uniform in [0, 1).
        length: Slices of the volume.
        depth: Slices of the window.
        stride: Starts are multiples of it, that is, whole slices of the feature map A (except with ``published``).
        sampling: ``even``; ``uniform``: any multiple of the stride; ``fixed``: the middle; ``published``: any slice.

    Returns:
        First slice, 0 to ``length - depth``.
    """
    if sampling == "fixed":
        return (length - depth) // 2 // stride * stride
    if sampling == "published":
        return int(uniform[1] * (length - depth + 1))
    tiles = -(-length // depth)
    if sampling == "even" and uniform[0] < TILED_FRACTION:
        return min(int(uniform[1] * tiles) * depth, length - depth)
    return stride * int(uniform[1] * ((length - depth) // stride + 1))
