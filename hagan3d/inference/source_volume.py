"""A volume to translate, with its origin and the units of its translation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hagan3d.data.store.description import DataDescription, check_names
from hagan3d.data.store.store import Store


@dataclass(frozen=True)
class SourceVolume:
    """One volume to translate."""

    id: str
    x: Tensor
    """``[Cs, D, H, W]`` in [-1, 1], on the grid of the model."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    intervals: Sequence[tuple[float, float]]
    """Values of -1 and 1 of each image channel of its translation, in target units."""
    home: tuple[tuple[int, ...], np.ndarray] | None = None
    """Shape and affine of the file whose grid it is written on; None: of a store, whose grid is the model's."""


def check_source_channels(store: Store, description: DataDescription, with_targets: bool = False) -> None:
    """Raise InputError unless the sources of a store, and perhaps its targets, have the channels of a model."""
    sources = [channel.name for channel in description.source_channels or description.channels]
    check_names(store.path, "sources have the channels", store.source_channels or store.channels, sources)
    if with_targets:
        targets = [channel.name for channel in description.channels]
        check_names(store.path, "targets have the channels", store.channels, targets)
