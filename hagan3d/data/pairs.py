"""Pairs for translation: which sources and targets a step sees, as a function of (seed, step, sample) alone."""

import hashlib
import math
import zlib
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.data.augment import augment
from hagan3d.data.degrade import Physics, degrade
from hagan3d.data.geometry import spacing_of
from hagan3d.data.steps import StepBatch, StepSource, drawn, pinned
from hagan3d.data.store import Store
from hagan3d.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PairBatch(StepBatch):
    """What one update of a translation sees: sources, targets, and the source of its random numbers."""

    source: Tensor
    """Volumes to translate ``[B, Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """What they shall become ``[B, Ct, D, H, W]`` in [-1, 1]; in unpaired training, volumes of other subjects."""
    mask: Tensor | None = None
    """``[B, 1, D, H, W]``, 1 where the likelihood and metrics look; None: everywhere."""

    @property
    def device(self) -> torch.device:
        """Where its volumes are."""
        return self.source.device

    def parts(self, count: int) -> Generator[Self]:
        """Cut the batch into ``count`` parts of equal size."""
        size = len(self) // count
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            mask = None if self.mask is None else self.mask[rows]
            yield replace(
                self, source=self.source[rows], target=self.target[rows], mask=mask, samples=self.samples[rows]
            )

    def to(self, device: torch.device) -> Self:
        """Move all volumes to a device."""

        def moved(x: Tensor) -> Tensor:
            return pinned(x, device).to(device, non_blocking=True)

        mask = None if self.mask is None else moved(self.mask)
        return replace(self, source=moved(self.source), target=moved(self.target), mask=mask)


@dataclass(frozen=True)
class Pair:
    """One source, its target and its mask."""

    source: Tensor
    """``[Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """``[Ct, D, H, W]`` in [-1, 1]."""
    mask: Tensor | None = None
    """``[1, D, H, W]`` of 0 and 1."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a store: those it holds, or volumes and what a simulated acquisition makes of them."""

    store: Store
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        """Raise InputError unless the store has what is asked for."""
        path, active = self.store.path, self.degrade.active
        if active and (self.store.has_sources or self.store.has_domains):
            raise InputError(f"{path}: holds sources of its own; set data.degrade.kind none, or give a store without")
        if not active and not self.store.has_sources and not self.store.has_domains:
            raise InputError(
                f"{path}: holds no pairs; make some with `hagan3d prepare --pairs` (--domains: unpaired), "
                "or set data.degrade.kind to simulate sources"
            )

    def indices(self, split: str, domain: str = "target", fraction: float = 1.0, seed: int = 0) -> np.ndarray:
        """Indices of volumes of a split that are of a domain, or of a part of its subjects.

        Args:
            split: "train", "validation", "test" or "all".
            domain: "source" or "target"; without unpaired domains both are all volumes.
            fraction: Of the subjects, at least one; those of a smaller fraction are among those of a larger one.
            seed: Chooses the subjects.
        """
        found = self.store.indices(split)
        if self.store.has_domains:
            found = np.array([i for i in found if self.store.domains[i] == domain], dtype=np.int64)
            if not found.size:
                raise InputError(f"{self.store.path}: no volume of the {domain} domain for {split}")
        if fraction == 1:
            return found
        subjects = sorted({self.store.subjects[i] for i in found}, key=lambda name: _rank(seed, name))
        chosen = set(subjects[: math.ceil(fraction * len(subjects) - 1e-9)])
        return np.array([i for i in found if self.store.subjects[i] in chosen], dtype=np.int64)

    def pair(self, i: int, key: int | None = None, change: AugmentConfig | None = None, change_key: int = 0) -> Pair:
        """Read a pair.

        Args:
            i: Index of the volume.
            key: Seed of a simulated acquisition. Default: follows from the volume's id, so that it is always the same.
            change: Random changes of source and target alike.
            change_key: Seed of those changes.
        """
        store, change = self.store, change or AugmentConfig()
        target, mask = store.volume(i), store.mask(i) if store.has_masks else None
        if self.degrade.active:
            stacked = augment(_stacked([target, mask]), change, change_key)
            target = stacked[0]
            key = zlib.crc32(store.ids[i].encode()) if key is None else key
            source, mask = degrade(target, self.degrade, key, self._physics(i)), stacked[1:]
        else:
            stacked = augment(_stacked([target, store.source(i), mask]), change, change_key)
            source, mask = stacked[1], stacked[2:]
            target = augment(target, change, change_key, labels=True) if store.has_label_maps else stacked[0]
        return Pair(source[None], target[None], (mask > 0).float() if len(mask) else None)

    def volume(self, i: int, change: AugmentConfig, change_key: int) -> Tensor:
        """Read a volume of either domain ``[1, D, H, W]``, changed."""
        return augment(self.store.volume(i), change, change_key)[None]

    def _physics(self, i: int) -> Physics:
        d, h, w = (float(side) for side in spacing_of(self.store.affines[i]))
        return Physics(float(self.store.lo[i]), float(self.store.hi[i]), (d, h, w))


@dataclass(frozen=True)
class PairSource(StepSource[PairBatch]):
    """Pairs of one split of a store, step by step."""

    store: Store
    split: str
    batch_size: int
    """Pairs per step and process."""
    seed: int
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The same for source and target; before a simulated acquisition."""
    paired: bool = True
    """Whether source and target are of one subject."""
    fraction: float = 1.0
    """Of the subjects of the split."""
    rank: int = 0
    world: int = 1
    """Processes that share a global batch."""

    def __post_init__(self) -> None:
        """Raise InputError unless the store has what is asked for."""
        if self.paired and self.store.has_domains:
            raise InputError(f"{self.store.path}: holds two domains without pairs; set data.paired false")
        if not self.paired and len({self.store.subjects[i] for i in (*self._sources, *self._targets)}) < 2:
            raise InputError(f"{self.store.path}: unpaired training wants at least two subjects in {self.split}")

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

    def batch(self, step: int) -> PairBatch:
        """Read the batch of one step, on the CPU."""
        first = self.rank * self.batch_size
        samples = tuple(range(first, first + self.batch_size))
        found = [self._pair(step, sample) for sample in samples]
        masks = [pair.mask for pair in found if pair.mask is not None]
        return PairBatch(
            source=torch.stack([pair.source for pair in found]),
            target=torch.stack([pair.target for pair in found]),
            mask=torch.stack(masks) if masks else None,
            samples=samples,
            seed=self.seed,
            step=step,
        )

    def _pair(self, step: int, sample: int) -> Pair:
        position = step * self.world * self.batch_size + sample
        i = drawn(self._sources, self.seed, position)
        key = None if self.degrade.fixed else self._key(step, sample, "degrade")
        if self.paired:
            return self.pairs.pair(i, key, self.augment, self._key(step, sample, "augment"))
        j, other = self._another(i, position), self._key(step, sample, "augment target")
        target = self.pairs.volume(j, self.augment, other)
        if self.store.has_domains:
            return Pair(self.pairs.volume(i, self.augment, self._key(step, sample, "augment")), target)
        return replace(self.pairs.pair(i, key, self.augment, self._key(step, sample, "augment")), target=target)

    def _another(self, i: int, position: int) -> int:
        """Draw a target that is not of the subject of volume ``i``."""
        subject = self.store.subjects[i]
        others = np.array([j for j in self._targets if self.store.subjects[j] != subject], dtype=np.int64)
        if not others.size:  # a domain with the same subject alone
            raise InputError(f"{self.store.path}: no target of another subject than {subject} in {self.split}")
        return drawn(others, self.seed, position, "target")

    def _key(self, step: int, sample: int, name: str) -> int:
        """Seed of one random change of one sample."""
        words = [self.seed, step, sample, zlib.crc32(name.encode())]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def _stacked(volumes: list[Tensor | None]) -> Tensor:
    """Put volumes ``[D, H, W]``, and perhaps a mask of 0 and 1 as -1 and 1, side by side ``[C, D, H, W]``."""
    present = [volume for volume in volumes[:-1] if volume is not None]
    mask = volumes[-1]
    return torch.stack([*present, *([] if mask is None else [mask * 2 - 1])])


def _rank(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}:fraction:{subject}".encode()).hexdigest()
