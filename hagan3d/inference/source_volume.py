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
    remarks: tuple[str, ...] = ()
    """What was noticed about its files."""


def check_source_channels(
    store: Store, description: DataDescription, domain: str = "source", with_targets: bool = False
) -> None:
    """Raise InputError unless the volumes of a domain of a store have the channels of a model's sources.

    Args:
        store: The store.
        description: Of the model.
        domain: Where the sources of the translation are: ``source``, or ``target`` if it goes the other way.
        with_targets: Whether the targets of the store must have the channels of the model's, too.
    """
    sources = [channel.name for channel in description.source_channels or description.channels]
    found = store.channels if domain == "target" else store.source_channels or store.channels
    check_names(store.path, f"{domain}s have the channels", found, sources)
    if with_targets:
        targets = [channel.name for channel in description.channels]
        check_names(store.path, "targets have the channels", store.channels, targets)
        check_names(store.path, "targets have the labels", store.label_names, description.label_names)
