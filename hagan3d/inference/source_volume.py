"""A volume to translate, with its origin and the units of its translation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hagan3d.data.store.description import Channel, DataDescription, check_names
from hagan3d.data.store.preparation import check_preparation
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


def check_sources(
    store: Store, description: DataDescription, domain: str = "source", with_targets: bool = False
) -> None:
    """Raise InputError unless volumes of a store have the channels, the grid and the intensities of a model's sources.

    Args:
        store: The store.
        description: Of the model.
        domain: Where the sources of the translation are: ``source``, or ``target`` if it goes the other way; ``all`` of
            a store of pairs.
        with_targets: Whether the targets of the store must be as the model's, too.
    """
    own = store.description()
    found = own.channels if domain == "target" else own.source_channels or own.channels
    expected = description.source_channels or description.channels
    what = f"{'source' if domain == 'all' else domain}s have the channels"
    check_names(store.path, what, _names(found), _names(expected))
    channels = list(zip(found, expected, strict=True))
    if with_targets:
        check_names(store.path, "targets have the channels", store.channels, _names(description.channels))
        check_names(store.path, "targets have the labels", store.label_names, description.label_names)
        channels += zip(own.channels, description.channels, strict=True)
    check_preparation(store, description, dict.fromkeys(channels), domain)


def _names(channels: Sequence[Channel]) -> list[str]:
    return [channel.name for channel in channels]
