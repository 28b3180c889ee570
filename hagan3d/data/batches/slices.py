"""Random slices of the volumes of a store, for 2D networks; neighbouring slices as channels of a source (2.5D)."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, PairDataConfig, VolumeDataConfig
from hagan3d.data.batches.pairs import Pair, PairSource
from hagan3d.data.batches.steps import sample_index
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.batches.transforms import augment
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store

BLANK_LEVEL = -0.95  # of the [-1, 1] range: voxels above it are foreground
LEAST_FOREGROUND = 0.01  # fraction of the voxels of a slice

Slice = TypeVar("Slice")
Read = Callable[[int, int], Tensor]
"""(first slice, number of slices) along an axis to a region of a volume, ``[C, D, H, W]`` cut along that axis."""


@dataclass(frozen=True)
class Slices:
    """Which slices of its volumes a run sees."""

    axis: int = 0
    """Axis that the slices are perpendicular to: 0, 1 or 2 for D, H or W."""
    context: int = 1
    """Slices that a source shows, the slice itself and its neighbours."""

    def sample(
        self, length: int, key: Sequence[int], read: Callable[[int], Slice], images: Callable[[int, Slice], Tensor]
    ) -> Slice:
        """Sample a slice of a volume: the first that is not blank in a random order; of a blank volume, the last.

        Args:
            length: Slices of the volume.
            key: Random seed: equal keys give equal slices.
            read: Reads a slice by its number.
            images: Image channels of a slice ``[C, 1, rows, columns]`` in [-1, 1], by its number and what was read:
                without simulated noise and changes of intensity, by which air would not be blank.
        """
        order = np.random.default_rng([*key, zlib.crc32(b"slice")]).permutation(length)
        for number in map(int, order):
            sampled = read(number)
            if not is_blank(images(number, sampled)):
                break
        return sampled

    def cut(self, read: Read, length: int, number: int, context: int = 1) -> Tensor:
        """Read one slice of a volume ``[context * C, 1, rows, columns]``, neighbours after the slice itself."""
        slices = neighbours(number, length, context)
        first = min(slices)
        slab = read(first, max(slices) + 1 - first).movedim(1 + self.axis, 1)  # [C, slices, rows, columns]
        return torch.cat([slab[:, at - first : at - first + 1] for at in slices])


def neighbours(number: int, length: int, context: int) -> list[int]:
    """Return a slice and its neighbours, the nearest first; outside the volume the outermost slice is repeated."""
    offsets = [0, *(sign * reach for reach in range(1, context // 2 + 1) for sign in (-1, 1))]
    return [min(max(number + offset, 0), length - 1) for offset in offsets]


def is_blank(images: Tensor) -> bool:
    """Return whether less than 1 % of the voxels are above -0.95 in every channel of ``images [C, ...]``."""
    return float((images > BLANK_LEVEL).flatten(1).double().mean(1).max()) < LEAST_FOREGROUND


@dataclass(frozen=True)
class SlicePairSource(PairSource):
    """Batches of slices of the pairs of a store ``[B, C, 1, rows, columns]``.

    Augmentation and simulated acquisitions act on the whole volume, before a slice is sampled.
    """

    slices: Slices = Slices()

    @classmethod
    def from_config(cls, store: Store, data: PairDataConfig, **place: Any) -> Self:
        """Return the source of a run; arguments as of `PairSource.from_config`."""
        assert data.slices != "none"
        source = super().from_config(store, data, **place)
        return replace(source, slices=Slices(store.slice_axis(data.slices), data.context))

    def _pair(self, step: int, sample: int) -> Pair:
        position = self._position(step, sample)
        i = sample_index(self._sources, self.seed, position)
        if self.paired:
            return self._pair_slice(i, step, sample)
        j = self._unpaired_target(i, position)
        target = self._volume_slice(j, "augment target", step, sample)
        if self.store.has_domains:
            return Pair(self._volume_slice(i, "augment", step, sample), target)
        return replace(self._pair_slice(i, step, sample), target=target)

    def _pair_slice(self, i: int, step: int, sample: int) -> Pair:
        """Sample a slice of a pair: source, target and mask at one place."""
        store, slices, length = self.store, self.slices, self.store.size[self.slices.axis]
        source, target, mask = self._readers(i, step, sample)

        def read(number: int) -> Pair:
            cut = partial(slices.cut, length=length, number=number)
            region = None if mask is None else (cut(mask) > 0).float()
            return Pair(cut(source, context=slices.context), cut(target), region)

        def images(number: int, pair: Pair) -> Tensor:
            if moved is not None:
                return moved.narrow(1 + slices.axis, number, 1)
            sources = 0 if self.degrade.changes else len(pair.source) // slices.context
            return torch.cat([pair.source[:sources], pair.target[: len(store.channels)]])

        moved = _moved_images(store, i, self.augment, self._seed_of("augment", step, sample))
        return slices.sample(length, [self.seed, step, sample], read, images)

    def _readers(self, i: int, step: int, sample: int) -> tuple[Read, Read, Read | None]:
        """Return readers of source, target and mask: of the store, or of the augmented or degraded pair in memory."""
        store, axis = self.store, self.slices.axis
        if self.degrade.active or self.augment.active:
            whole = self.pairs.pair(
                i, self._degrade_seed(step, sample), self.augment, self._seed_of("augment", step, sample)
            )
            mask = None if whole.mask is None else partial(whole.mask.narrow, 1 + axis)
            return partial(whole.source.narrow, 1 + axis), partial(whole.target.narrow, 1 + axis), mask
        return (
            partial(store.source, i, axis=axis),
            partial(store.window, i, axis=axis),
            (lambda first, count: store.mask(i, first, count, axis)[None]) if store.has_masks else None,
        )

    def _volume_slice(self, i: int, name: str, step: int, sample: int) -> Tensor:
        """Sample a slice of a volume of either domain; ``name`` distinguishes its random numbers."""
        store, axis, seed = self.store, self.slices.axis, self._seed_of(name, step, sample)
        read: Read = partial(store.window, i, axis=axis)
        if self.augment.active:
            read = partial(self.pairs.volume(i, self.augment, seed).narrow, 1 + axis)
        length = store.size_of(i)[axis]
        cut = partial(self.slices.cut, read, length)
        images = _images(store, i, self.augment, seed, axis)
        return self.slices.sample(length, [self.seed, step, sample, seed], cut, images)


@dataclass(frozen=True)
class SliceBatchSource(BatchSource):
    """Batches of slices of the volumes of a store: ``window`` is ``[B, C, 1, rows, columns]``."""

    slices: Slices = Slices()

    @classmethod
    def from_config(cls, store: Store, data: VolumeDataConfig, **place: Any) -> Self:  # type: ignore[override]
        """Return the source of a run; arguments as of `BatchSource.from_config`."""
        assert data.slices != "none"
        return replace(super().from_config(store, data, **place), slices=Slices(store.slice_axis(data.slices)))

    def _start(self, step: int, sample: int) -> int:
        return 0

    def _read(self, index: int, start: int, step: int, sample: int) -> tuple[Tensor, Tensor, Tensor | None]:
        x = self.slice(index, step, sample)
        return x, F.avg_pool3d(x, (1, self.store.factor, self.store.factor)), None

    def slice(self, index: int, step: int, sample: int) -> Tensor:
        """Sample a slice of a volume ``[C, 1, rows, columns]``, augmented."""
        store, axis = self.store, self.slices.axis
        read: Read = partial(store.window, index, axis=axis)
        seed = self._augment_seed(step, sample)
        if self.augment.active:
            read = partial(self._augmented(index, seed).narrow, 1 + axis)
        length = store.size[axis]
        cut = partial(self.slices.cut, read, length)
        images = _images(store, index, self.augment, seed, axis)
        return self.slices.sample(length, [self.seed, step, sample], cut, images)


def _images(
    store: Store, index: int, augmentation: AugmentConfig, seed: int, axis: int
) -> Callable[[int, Tensor], Tensor]:
    """Return what gives the images of a slice of a volume to `Slices.sample`."""
    moved = _moved_images(store, index, augmentation, seed)
    if moved is None:
        return lambda number, x: x[: len(store.channels)]
    return lambda number, x: moved.narrow(1 + axis, number, 1)


def _moved_images(store: Store, index: int, augmentation: AugmentConfig, seed: int) -> Tensor | None:
    """Return the images of a volume and its source, augmented in space alone; None if intensities are not augmented."""
    if not augmentation.changes_intensities:
        return None
    images = store.volume(index)[: len(store.channels)]
    images = torch.cat([images, store.source(index)]) if store.has_sources else images
    return augment(images, augmentation.in_space, seed, spacing_of(store.affines[index]).tolist())
