"""Pairs for translation: which sources and targets a step sees, as a function of (seed, step, sample) alone."""

import hashlib
import math
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.data.batches.degrade import Physics, degrade, misalignment
from hagan3d.data.batches.steps import StepBatch, StepSource, drawn, pinned
from hagan3d.data.batches.subvolumes import choose_start, uniform_of
from hagan3d.data.batches.transforms import augment
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PairBatch(StepBatch):
    """What one update of a translation sees: sources, targets, and the source of its random numbers.

    Volumes are whole, or windows along D: source, target and mask at the same place.
    """

    source: Tensor
    """Volumes to translate ``[B, Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """What they shall become ``[B, Ct, D, H, W]`` in [-1, 1]; in unpaired training, volumes of other subjects."""
    mask: Tensor | None = None
    """``[B, 1, D, H, W]``, 1 where the likelihood and metrics look; None: everywhere."""
    misalignment: Tensor | None = None
    """Numbers that bring misaligned sources back ``[B, 12]``, see `hagan3d.ops.warp`; None: none was."""
    start: Tensor | None = None
    """Of windows: the first slice of each ``[B]``, int64."""
    low_source: Tensor | None = None
    """Beside windows that are anchored: the whole sources at low resolution ``[B, Cs, d, h, w]``."""
    low_target: Tensor | None = None
    """And the whole targets ``[B, Ct, d, h, w]``."""

    @property
    def device(self) -> torch.device:
        """Where its volumes are."""
        return self.source.device

    def parts(self, count: int) -> Generator[Self]:
        """Cut the batch into ``count`` parts of equal size."""
        size = len(self) // count
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            yield replace(self._changed(lambda x, rows=rows: x[rows]), samples=self.samples[rows])  # type: ignore[misc]

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return self._changed(lambda x: pinned(x, device).to(device, non_blocking=True))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Change every tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(x) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True)
class Pair:
    """One source, its target and its mask: whole, or a window of them."""

    source: Tensor
    """``[Cs, D, H, W]`` in [-1, 1]."""
    target: Tensor
    """``[Ct, D, H, W]`` in [-1, 1]."""
    mask: Tensor | None = None
    """``[1, D, H, W]`` of 0 and 1."""
    low_source: Tensor | None = None
    """Beside a window: the whole source at low resolution ``[Cs, d, h, w]``."""
    low_target: Tensor | None = None
    """The whole target ``[Ct, d, h, w]``."""

    def cut(self, start: int, depth: int, factor: int) -> "Pair":
        """Cut a window of a whole pair, and average the whole over ``factor``^3 voxels beside it."""
        slices = slice(start, start + depth)
        low_source, low_target = (F.avg_pool3d(x, factor) for x in (self.source, self.target))
        mask = None if self.mask is None else self.mask[:, slices]
        return Pair(self.source[:, slices], self.target[:, slices], mask, low_source, low_target)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a store: those it holds, or volumes and what a simulated acquisition makes of them."""

    store: Store
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        """Raise InputError unless the store has what is asked for."""
        path, active = self.store.path, self.degrade.active
        registers = self.degrade.kind == "misalign"
        if active and ((self.store.has_sources and not registers) or self.store.has_domains):
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
            own = [store.source(i)] if store.has_sources else []  # of pairs that shall be misaligned
            stacked = augment(_stacked([target, *own, mask]), change, change_key)
            target, origin, mask = stacked[0], stacked[len(own)], stacked[1 + len(own) :]
            source = degrade(origin, self.degrade, self._seed(i, key), self._physics(i))
        else:
            stacked = augment(_stacked([target, store.source(i), mask]), change, change_key)
            source, mask = stacked[1], stacked[2:]
            target = augment(target, change, change_key, labels=True) if store.has_label_maps else stacked[0]
        sources = torch.stack([source, target]) if self.degrade.kind == "misalign" else source[None]
        return Pair(sources, target[None], (mask > 0).float() if len(mask) else None)

    def misalignment(self, i: int, key: int | None = None) -> Tensor | None:
        """Return the numbers ``[12]`` that bring the source of `pair` back; None where it was not misaligned."""
        return misalignment(self.degrade, self._seed(i, key)) if self.degrade.kind == "misalign" else None

    def _seed(self, i: int, key: int | None) -> int:
        return zlib.crc32(self.store.ids[i].encode()) if key is None else key

    def window(self, i: int, start: int, depth: int, anchored: bool) -> Pair:
        """Read ``depth`` slices of a pair of the store and no more; if ``anchored``, and the low-resolution whole."""
        store = self.store
        mask = (store.mask(i, start, depth) > 0).float()[None] if store.has_masks else None
        lows = (store.low_source(i)[None], store.low(i)[None]) if anchored else (None, None)
        return Pair(store.source(i, start, depth)[None], store.window(i, start, depth)[None], mask, *lows)

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
    depth: int = 0
    """Slices of the windows that pairs are cut to, every slice about equally often; 0: pairs are whole."""
    anchored: bool = False
    """Whether the whole goes with them at low resolution."""
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
        starts = [self._start(step, sample) for sample in samples] if self.depth else []
        return PairBatch(
            source=torch.stack([pair.source for pair in found]),
            target=torch.stack([pair.target for pair in found]),
            mask=_stacked_or_none([pair.mask for pair in found]),
            start=torch.tensor(starts) if starts else None,
            low_source=_stacked_or_none([pair.low_source for pair in found]) if self.anchored else None,
            low_target=_stacked_or_none([pair.low_target for pair in found]) if self.anchored else None,
            samples=samples,
            misalignment=_stacked_or_none([self._misalignment(step, sample) for sample in samples]),
            seed=self.seed,
            step=step,
        )

    def _misalignment(self, step: int, sample: int) -> Tensor | None:
        i = drawn(self._sources, self.seed, step * self.world * self.batch_size + sample)
        return self.pairs.misalignment(i, None if self.degrade.fixed else self._key(step, sample, "degrade"))

    def _pair(self, step: int, sample: int) -> Pair:
        position = step * self.world * self.batch_size + sample
        i = drawn(self._sources, self.seed, position)
        key = None if self.degrade.fixed else self._key(step, sample, "degrade")
        if self.paired and self.depth:
            return self._window(i, step, sample, key)
        if self.paired:
            return self.pairs.pair(i, key, self.augment, self._key(step, sample, "augment"))
        j, other = self._another(i, position), self._key(step, sample, "augment target")
        target = self.pairs.volume(j, self.augment, other)
        if self.store.has_domains:
            return Pair(self.pairs.volume(i, self.augment, self._key(step, sample, "augment")), target)
        return replace(self.pairs.pair(i, key, self.augment, self._key(step, sample, "augment")), target=target)

    def _window(self, i: int, step: int, sample: int, key: int | None) -> Pair:
        """Cut a pair; what simulates or changes a whole volume needs the whole, else a window of the store is read."""
        start = self._start(step, sample)
        if not self.degrade.active and not self.augment.active:
            return self.pairs.window(i, start, self.depth, self.anchored)
        whole = self.pairs.pair(i, key, self.augment, self._key(step, sample, "augment"))
        return whole.cut(start, self.depth, self.store.factor)

    def _start(self, step: int, sample: int) -> int:
        """First slice of the window of one sample."""
        return choose_start(uniform_of(self.seed, step, sample), self.store.size[0], self.depth, self.store.factor)

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


def _stacked_or_none(volumes: list[Tensor | None]) -> Tensor | None:
    """Stack what each sample has, or none has."""
    present = [volume for volume in volumes if volume is not None]
    return torch.stack(present) if present else None


def _rank(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}:fraction:{subject}".encode()).hexdigest()
