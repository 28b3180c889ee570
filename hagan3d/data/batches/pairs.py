"""Batches of sources and targets for translation, whole or as windows; sources may be simulated acquisitions."""

import hashlib
import math
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, DegradeConfig, PairDataConfig, Size, low_factor
from hagan3d.data.batches.degrade import Physics, degrade, misalignment
from hagan3d.data.batches.simulated_sources import check_degradation
from hagan3d.data.batches.steps import StepBatch, StepSource, sample_index
from hagan3d.data.batches.subvolumes import choose_start, uniform_of
from hagan3d.data.batches.transforms import augment
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.ops.device import to_device


@dataclass(frozen=True, kw_only=True)
class PairBatch(StepBatch):
    """Sources and targets of one step: whole volumes, or windows along D with a common start."""

    source: Tensor
    """Source volumes ``[B, Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """Target volumes ``[B, Ct, D, H, W]`` in [-1, 1]; in unpaired training of other subjects and sides."""
    mask: Tensor | None = None
    """``[B, 1, D, H, W]``, 1 in the region of the likelihood and the metrics; None: everywhere."""
    misalignment: Tensor | None = None
    """Ground-truth affine parameters that register the sources ``[B, 12]`` (`hagan3d.ops.warp`), or None."""
    start: Tensor | None = None
    """First slice of each window ``[B]``, int64; None for whole volumes."""
    low_source: Tensor | None = None
    """For hierarchical conditioning of windows: whole sources at low resolution ``[B, Cs, d, h, w]``."""
    low_target: Tensor | None = None
    """Whole targets at low resolution ``[B, Ct, d, h, w]``."""
    low_mask: Tensor | None = None
    """Whole masks at low resolution ``[B, 1, d, h, w]``, the share of each block; None: not read."""

    @property
    def device(self) -> torch.device:
        """Device of its tensors."""
        return self.source.device

    def micro_batches(self, count: int) -> Generator[Self]:
        """Split the batch into ``count`` micro-batches of equal size."""
        size = len(self) // count
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            yield replace(self._map(lambda x, rows=rows: x[rows]), samples=self.samples[rows])  # type: ignore[misc]

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return self._map(lambda x: to_device(x, device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        mapped: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **mapped)


@dataclass(frozen=True)
class Pair:
    """One source with its target and mask: whole, or a window."""

    source: Tensor
    """``[Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """``[Ct, D, H, W]`` in [-1, 1]."""
    mask: Tensor | None = None
    """``[1, D, H, W]`` of 0 and 1."""
    low_source: Tensor | None = None
    """Of a window: the whole source at low resolution ``[Cs, d, h, w]``."""
    low_target: Tensor | None = None
    """Of a window: the whole target at low resolution ``[Ct, d, h, w]``."""
    low_mask: Tensor | None = None
    """Of a window: the whole mask at low resolution ``[1, d, h, w]``."""

    def window(self, start: int, depth: int, factor: int) -> "Pair":
        """Select a window of a whole pair, and compute the low-resolution volumes (mean over ``factor``^3 voxels)."""
        slices = slice(start, start + depth)
        low_source, low_target = (F.avg_pool3d(x, factor) for x in (self.source, self.target))
        mask = None if self.mask is None else self.mask[:, slices]
        low_mask = None if self.mask is None else F.avg_pool3d(self.mask, factor)
        return Pair(self.source[:, slices], self.target[:, slices], mask, low_source, low_target, low_mask)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a store, or its volumes as targets of simulated acquisitions."""

    store: Store
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        """Raise InputError unless the store has the pairs, domains or volumes that `degrade` needs."""
        check_degradation(self.store, self.degrade)

    def indices(self, split: str, domain: str = "target", fraction: float = 1.0, seed: int = 0) -> np.ndarray:
        """Return the indices of the volumes of a domain in a split, optionally of a fraction of the subjects.

        Args:
            split: "train", "validation", "test" or "all".
            domain: "source" or "target"; in a store without unpaired domains, both are all volumes.
            fraction: Fraction of the subjects, at least one; a smaller fraction is a subset of a larger one.
            seed: Random seed of the subjects.
        """
        chosen = self.store.indices(split)
        if self.store.has_domains:
            chosen = np.array([i for i in chosen if self.store.domains[i] == domain], dtype=np.int64)
            if not chosen.size:
                raise InputError(f"{self.store.path}: no volume of the {domain} domain for {split}")
        if fraction == 1:
            return chosen
        subjects = sorted({self.store.subjects[i] for i in chosen}, key=lambda name: _subject_hash(seed, name))
        included = set(subjects[: math.ceil(fraction * len(subjects) - 1e-9)])
        return np.array([i for i in chosen if self.store.subjects[i] in included], dtype=np.int64)

    def pair(
        self,
        i: int,
        degrade_seed: int | None = None,
        augmentation: AugmentConfig | None = None,
        augmentation_seed: int = 0,
    ) -> Pair:
        """Read a pair.

        Args:
            i: Index of the volume.
            degrade_seed: Seed of the simulated acquisition. Default: a hash of the volume's id, so that evaluation
                always uses the same acquisition.
            augmentation: Joint augmentation of source, target and mask.
            augmentation_seed: Its seed.
        """
        store, augmentation, spacing = self.store, augmentation or AugmentConfig(), self._spacing(i)
        target, mask = store.volume(i), store.mask(i) if store.has_masks else None
        if self.degrade.changes:
            # augmented first, then degraded: the acquisition sees an augmented patient
            # of pairs that are misaligned for registration, the source moves
            origin = store.source(i) if store.has_sources else target
            (target, origin), mask = _augmented([target, origin], mask, augmentation, augmentation_seed, spacing)
            source = degrade(origin[0], self.degrade, self._degrade_seed(i, degrade_seed), self._physics(i))[None]
            source = torch.cat([source, target]) if self.degrade.kind == "misalign" else source
            return Pair(source, target, mask)
        images, labels = target.tensor_split([0 if store.has_label_maps else len(store.channels)])
        sources = [store.source(i)] if store.has_sources else []
        (images, *sources), mask = _augmented([images, *sources], mask, augmentation, augmentation_seed, spacing)
        if len(labels):  # label maps move with their volumes but are never interpolated
            labels = augment(labels, augmentation, augmentation_seed, spacing, labels=True)
        return Pair(sources[0] if sources else images, torch.cat([images, labels]), mask)  # without sources: copies

    def misalignment(self, i: int, degrade_seed: int | None = None) -> Tensor | None:
        """Return the affine parameters ``[12]`` that register the source of `pair`; None without misalignment."""
        if self.degrade.kind != "misalign":
            return None
        return misalignment(self.degrade, self._degrade_seed(i, degrade_seed))

    def _degrade_seed(self, i: int, seed: int | None) -> int:
        return zlib.crc32(self.store.ids[i].encode()) if seed is None else seed

    def window(self, i: int, start: int, depth: int, with_low: bool, with_low_mask: bool = False) -> Pair:
        """Read only ``depth`` slices of a pair of the store; ``with_low``: also the low-resolution volumes.

        The low-resolution mask is made from the whole mask, which is read with ``with_low_mask`` alone.
        """
        store = self.store
        mask = (store.mask(i, start, depth) > 0).float()[None] if store.has_masks else None
        low_source, low_target = (store.low_source(i), store.low(i)) if with_low else (None, None)
        low_mask = F.avg_pool3d(store.mask(i)[None], store.factor) if with_low_mask else None
        source, target = store.source(i, start, depth), store.window(i, start, depth)
        return Pair(source, target, mask, low_source, low_target, low_mask)

    def volume(self, i: int, augmentation: AugmentConfig, seed: int) -> Tensor:
        """Read a volume of either domain ``[C, D, H, W]``, augmented."""
        return augment(self.store.volume(i), augmentation, seed, self._spacing(i))

    def _spacing(self, i: int) -> tuple[float, float, float]:
        """Return millimetres per voxel along D, H, W."""
        d, h, w = (float(side) for side in spacing_of(self.store.affines[i]))
        return d, h, w

    def _physics(self, i: int) -> Physics:
        lo, hi = self.store.intervals[i, 0]
        return Physics(float(lo), float(hi), self._spacing(i), self.store.slice_axis("axial"))


@dataclass(frozen=True)
class PairSource(StepSource[PairBatch]):
    """Batches of pairs of one split of a store."""

    store: Store
    split: str
    batch_size: int
    """Pairs per step and rank."""
    seed: int
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """Simulated acquisition of the sources."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Joint augmentation of source and target, before the simulated acquisition."""
    paired: bool = True
    """Whether source and target are of one subject."""
    fraction: float = 1.0
    """Fraction of the subjects of the split."""
    depth: int = 0
    """Slices per window, sampled so that all slices are seen about equally often; 0: whole pairs."""
    with_low: bool = False
    """Whether windows come with the whole volumes at low resolution (hierarchical conditioning)."""
    with_low_mask: bool = False
    """Whether they come with the whole mask at low resolution too."""
    rank: int = 0
    world_size: int = 1
    """World size: number of ranks that share a global batch."""

    @classmethod
    def from_config(
        cls, store: Store, data: PairDataConfig, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Self:
        """Return the source of a run.

        Args:
            store: The pairs or volumes.
            data: Data settings of the run.
            batch_size: Pairs per step and rank.
            seed: Seed of the run.
            rank: This rank.
            world_size: Number of ranks that share a global batch.
        """
        return cls(
            store=store,
            split=data.split,
            batch_size=batch_size,
            seed=seed,
            degrade=data.degrade,
            augment=data.augment,
            paired=data.paired,
            fraction=data.fraction,
            depth=0 if data.window == "whole" else data.depth,
            with_low=data.window == "hierarchical",
            rank=rank,
            world_size=world_size,
        )

    def __post_init__(self) -> None:
        """Raise InputError unless the store fits paired or unpaired training."""
        if self.paired and self.store.has_domains:
            raise InputError(
                f"{self.store.path}: holds two domains without pairs; prepare pairs with `hagan3d prepare --pairs`"
            )
        if not self.paired and len({self.store.subjects[i] for i in (*self._sources, *self._targets)}) < 2:
            raise InputError(f"{self.store.path}: unpaired training needs at least two subjects in {self.split}")

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs of the whole store."""
        return Pairs(self.store, self.degrade)

    @cached_property
    def _sources(self) -> np.ndarray:
        return self.pairs.indices(self.split, "source", self.fraction, self.seed)

    @cached_property
    def _targets(self) -> np.ndarray:
        return self.pairs.indices(self.split, "target", self.fraction, self.seed)

    @property
    def num_volumes(self) -> int:
        """Number of volumes, or pairs, that a run sees; of two domains, those of both."""
        return len({*self._sources, *self._targets})

    @property
    def epoch(self) -> int:
        """Number of pairs after which each source has been seen once."""
        return len(self._sources)

    def batch(self, step: int) -> PairBatch:
        """Read the batch of one step, on the CPU."""
        first = self.rank * self.batch_size
        samples = tuple(range(first, first + self.batch_size))
        pairs = [self._pair(step, sample) for sample in samples]
        starts = [self._start(step, sample, self.store.size) for sample in samples] if self.depth else []
        return PairBatch(
            source=torch.stack([pair.source for pair in pairs]),
            target=torch.stack([pair.target for pair in pairs]),
            mask=_stack_or_none([pair.mask for pair in pairs]),
            start=torch.tensor(starts) if starts else None,
            low_source=_stack_or_none([pair.low_source for pair in pairs]) if self.with_low else None,
            low_target=_stack_or_none([pair.low_target for pair in pairs]) if self.with_low else None,
            low_mask=_stack_or_none([pair.low_mask for pair in pairs]) if self.with_low_mask else None,
            samples=samples,
            misalignment=_stack_or_none([self._misalignment(step, sample) for sample in samples]),
            seed=self.seed,
            step=step,
        )

    def _position(self, step: int, sample: int) -> int:
        """Return the position of a sample in the sequence of shuffled epochs."""
        return step * self.world_size * self.batch_size + sample

    def _degrade_seed(self, step: int, sample: int) -> int | None:
        """Return the seed of a simulated acquisition; None: the fixed one of the volume."""
        return None if self.degrade.fixed else self._seed_of("degrade", step, sample)

    def _misalignment(self, step: int, sample: int) -> Tensor | None:
        i = sample_index(self._sources, self.seed, self._position(step, sample))
        return self.pairs.misalignment(i, self._degrade_seed(step, sample))

    def _pair(self, step: int, sample: int) -> Pair:
        position, augment_seed = self._position(step, sample), self._seed_of("augment", step, sample)
        i = sample_index(self._sources, self.seed, position)
        if self.paired and self.depth:
            return self._window(i, step, sample)
        if self.paired:
            return self.pairs.pair(i, self._degrade_seed(step, sample), self.augment, augment_seed)
        j, target_seed = self._unpaired_target(i, position), self._seed_of("augment target", step, sample)
        if self.store.has_domains:
            return Pair(*(self._read(k, s, step, sample) for k, s in ((i, augment_seed), (j, target_seed))))
        pair = self.pairs.pair(i, self._degrade_seed(step, sample), self.augment, augment_seed)
        source = self._cut(pair.source, step, sample)
        return Pair(source, self._read(j, target_seed, step, sample))

    def _read(self, i: int, augment_seed: int, step: int, sample: int) -> Tensor:
        """Read a volume of either domain, or the window of a sample."""
        if self.depth and not self.augment.active:
            return self.store.window(i, self._start(step, sample, self.store.size_of(i)), self.depth)
        return self._cut(self.pairs.volume(i, self.augment, augment_seed), step, sample)

    def _cut(self, x: Tensor, step: int, sample: int) -> Tensor:
        """Cut the window of a sample from a volume ``[C, D, H, W]``; whole volumes stay whole."""
        depth, height, width = x.shape[1:]
        return x.narrow(1, self._start(step, sample, (depth, height, width)), self.depth) if self.depth else x

    def _window(self, i: int, step: int, sample: int) -> Pair:
        start = self._start(step, sample, self.store.size)
        if not self.degrade.active and not self.augment.active:
            return self.pairs.window(i, start, self.depth, self.with_low, self.with_low_mask)
        # simulation and augmentation act on whole volumes
        augment_seed = self._seed_of("augment", step, sample)
        whole = self.pairs.pair(i, self._degrade_seed(step, sample), self.augment, augment_seed)
        return whole.window(start, self.depth, self.store.factor)

    def _start(self, step: int, sample: int, size: Size) -> int:
        """Return the first slice of the window of one sample, in a volume of ``size`` voxels."""
        return choose_start(uniform_of(self.seed, step, sample), size[0], self.depth, low_factor(size))

    def _unpaired_target(self, i: int, position: int) -> int:
        """Sample a target of another subject than that of volume ``i``."""
        subject = self.store.subjects[i]
        others = np.array([j for j in self._targets if self.store.subjects[j] != subject], dtype=np.int64)
        if not others.size:  # the only subject of the target domain is the same
            raise InputError(f"{self.store.path}: no target of another subject than {subject} in {self.split}")
        return sample_index(others, self.seed, position, "target")

    def _seed_of(self, name: str, step: int, sample: int) -> int:
        """Return the seed of one random operation on one sample."""
        words = [self.seed, step, sample, zlib.crc32(name.encode())]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def _augmented(
    volumes: list[Tensor], mask: Tensor | None, config: AugmentConfig, seed: int, spacing: Sequence[float]
) -> tuple[list[Tensor], Tensor | None]:
    """Augment volumes ``[C, D, H, W]`` and a mask ``[D, H, W]`` of 0 and 1 jointly; the mask becomes ``[1, ...]``."""
    augmented = augment(torch.cat(volumes), config, seed, spacing).split([*map(len, volumes)])
    if mask is None:
        return list(augmented), None
    return list(augmented), (augment(mask[None] * 2 - 1, config.in_space, seed, spacing) > 0).float()


def _stack_or_none(volumes: list[Tensor | None]) -> Tensor | None:
    """Stack the tensors of all samples; None if the samples have none."""
    present = [volume for volume in volumes if volume is not None]
    return torch.stack(present) if present else None


def _subject_hash(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}:fraction:{subject}".encode()).hexdigest()
