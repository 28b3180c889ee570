"""Base class of methods: the phases of a training step, and the interface through which programs run it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hagan3d.config import Config, Size, is_slice
from hagan3d.data.batches.steps import StepBatch, StepSource
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.cache import PhaseCache
from hagan3d.methods.phase import Phase


class Preview(ABC):
    """A picture of a run: the same volumes each time, so that pictures of different steps can be compared."""

    def write(self, path: Path, networks: Any, description: DataDescription) -> None:
        """Write a PNG with a row for each kind of volume."""
        groups = self.groups(networks)
        comparison_sheet(groups, {title: self.affine(description, title) for title in groups}, path)

    def affine(self, description: DataDescription, title: str) -> np.ndarray:
        """Return the affine ``[4, 4]`` of the volumes in the row of a title."""
        return description.affine_array

    @abstractmethod
    def groups(self, networks: Any) -> dict[str, list[Any]]:
        """Return volumes ``[D, H, W]`` in [-1, 1], or with their label maps, by the title of their row."""


class Method(ABC):
    """A training method. A subclass in ``hagan3d/methods/<name>/losses.py`` has its phases and losses.

    It holds the settings of its run and a cache of tensors that phases of one step share.
    """

    extractor: nn.Module | None = None
    """Frozen network whose features losses compare; it is no part of a checkpoint."""

    def __init__(self, config: Config) -> None:
        """Prepare the method for a run."""
        self.config, self.settings, self.train = config, config.method, config.train
        self.cache = PhaseCache()

    @abstractmethod
    def phases(self) -> list[Phase]:
        """Return the phases of the method, in the order in which a step runs those that are due."""

    def training_phases(self) -> list[Phase]:
        """Return the phases that the trainer runs: those of the method, and perhaps of networks around it."""
        return self.phases()

    def initial_state(self) -> dict[str, float]:
        """Return the initial values of scalars that the method adapts during training; part of a checkpoint."""
        return {}

    def adapted_state(self, state: Mapping[str, float], terms: Mapping[str, float], volumes: int) -> dict[str, float]:
        """Return the scalars for the next step, given the logged terms ``phase/term`` and the volumes of this one."""
        return dict(state)

    def check_state(self, state: Mapping[str, float], path: Path) -> None:  # noqa: B027 - most have no such state
        """Raise InputError if a run cannot be resumed from the state of the checkpoint ``path``."""

    def add_extractor(self, store: Store | None, device: torch.device) -> None:  # noqa: B027 - most have none
        """Load the frozen network whose features losses compare, if there is one, as ``extractor``.

        Args:
            store: The store of the run; None: random weights will do, to count memory.
            device: Of the run.

        Raises:
            InputError: If the file of its weights is missing or not usable.
        """

    def num_classes(self, store: Store | None) -> int:
        """Return the classes of a conditional model trained on ``store``, else 0."""
        return len(store.class_names) if store is not None and self.config.conditional else 0

    def check_store(self, store: Store) -> None:
        """Raise InputError unless the method can train on a store."""
        size, plane = self.config.data.size, self.config.data.slices
        found = store.size if plane == "none" else store.slice_size(store.slice_axis(plane))
        if found != size:
            what = "volumes" if plane == "none" else f"{plane} slices"
            sliced = is_slice(size) and plane == "none"
            hint = "set --data.slices to train on slices of them" if sliced else "prepare the store at the other size"
            raise InputError(
                f"{store.path}: {what} of {list(found)} voxels, but data.size is {list(size)}; use "
                f"--data.size {' '.join(map(str, found))}, or {hint}"
            )

    def description(self, store: Store) -> DataDescription:
        """Return the metadata of the data that the model reads and writes, stored with a checkpoint."""
        return store.description()

    def check_ranks(self, world_size: int) -> None:  # noqa: B027 - most methods train on any number
        """Raise InputError unless the method can train on so many ranks."""

    @abstractmethod
    def batches(self, store: Store, batch_size: int, rank: int = 0, world_size: int = 1) -> StepSource[Any]:
        """Return the source of batches of ``batch_size`` volumes per rank."""

    @abstractmethod
    def zero_batch(self) -> StepBatch:
        """Return a batch of zeros with the shapes of a run, to count the memory of a step."""

    @abstractmethod
    def preview(self, source: Any) -> Preview:
        """Return the preview of a run on the batches of ``source``."""

    @abstractmethod
    def bytes_per_step(self, stored: Size | None = None) -> int:
        """Return the bytes of voxels (int16) that a step reads from the store.

        Args:
            stored: Voxels of a volume of the store, of which slices are cut. Default: those of synthetic volumes.
        """
