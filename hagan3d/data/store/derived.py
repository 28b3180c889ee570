"""Stores derived from a store: a subset of its volumes, or all of them with generated volumes added."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.label_maps import label_map_of
from hagan3d.data.store.format import to_int16
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError


def record_of(store: Store, i: int) -> Record:
    """Return the record of volume ``i``."""
    return Record(
        id=store.ids[i],
        subject=store.subjects[i],
        split=store.splits[i],
        label=int(store.labels[i]),
        affine=store.affines[i],
        intervals=[(float(lo), float(hi)) for lo, hi in store.intervals[i]],
        file=store.files[i],
        hash=store.hashes[i],
        columns={name: float(values[i]) for name, values in store.columns.items()},
        generated=bool(store.generated[i]),
    )


def training_fraction(store: Store, fraction: float, seed: int = 0) -> np.ndarray:
    """Sample a fraction of the training subjects, stratified by class; all held-out volumes are included.

    With the same seed, a smaller fraction is a subset of a larger one. The class of a subject is that of its first
    volume; at least one subject of every class is sampled.

    Args:
        store: The store.
        fraction: Fraction of the training subjects, above 0, at most 1.
        seed: Random seed of the sample.

    Returns:
        Indices of the sampled training volumes and of all held-out ones, in the order of the store, int64.

    Raises:
        InputError: If the fraction is out of range, or the store has no training volumes.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction: must be above 0, at most 1, got {fraction:g}")
    first_label: dict[str, int] = {}
    for i in store.indices("train"):
        first_label.setdefault(store.subjects[i], int(store.labels[i]))
    chosen: set[str] = set()
    for label in sorted(set(first_label.values())):
        of_class = sorted(subject for subject, own_label in first_label.items() if own_label == label)
        order = np.random.default_rng([seed, label + 1]).permutation(len(of_class))
        chosen |= {of_class[j] for j in order[: max(1, round(fraction * len(of_class)))]}
    included = [
        split != "train" or subject in chosen for split, subject in zip(store.splits, store.subjects, strict=True)
    ]
    return np.flatnonzero(included)


def write_subset(path: Path, store: Store, indices: Sequence[int] | np.ndarray) -> Store:
    """Write a subset of the volumes of a store, with their splits, as a new store; atomically.

    Raises:
        InputError: If the store holds pairs, masks or two domains, or the folder cannot be written to.
    """
    _check_plain(store)
    records = [record_of(store, int(i)) for i in indices]
    write_store(path, _settings(store), records, lambda n: store.encoded(int(indices[n])))
    return Store(path)


def write_with_generated(
    path: Path, store: Store, generated: Sequence[Record], volumes: Callable[[int], np.ndarray], origin: dict[str, Any]
) -> Store:
    """Write a store of all volumes of another store and of generated volumes, atomically.

    Args:
        path: The .h5 file.
        store: The other store.
        generated: A record per generated volume; its split becomes ``train`` and it is marked as generated.
        volumes: Returns the channels of the i-th generated volume ``[C, D, H, W]`` in [-1, 1], those of labels last;
            called once for each, in order.
        origin: Provenance of the generated volumes (model, seeds), plain JSON types.

    Raises:
        InputError: If the store holds pairs, masks or two domains, or the folder cannot be written to.
    """
    _check_plain(store)
    count = len(store)
    records = [record_of(store, i) for i in range(count)]
    records += [replace(record, split="train", generated=True) for record in generated]
    settings = _settings(store)
    settings["generated"] = [*settings.get("generated", []), origin]

    def read(i: int) -> Voxels:
        return store.encoded(i) if i < count else encode_volume(volumes(i - count), len(store.channels))

    write_store(path, settings, records, read, store.left_out)
    return Store(path)


def encode_volume(x: np.ndarray, images: int) -> Voxels:
    """Encode the channels of a volume [C, D, H, W] in [-1, 1], of which the first are images and the others labels."""
    label_map = label_map_of(x, images) if len(x) > images else None
    return Voxels(to_int16(x[:images]), label_map)


def _check_plain(store: Store) -> None:
    """Raise InputError for a store with sources, masks or domains, which a record does not carry over."""
    if store.has_sources or store.has_domains or store.has_masks:
        raise InputError(f"{store.path}: holds pairs, masks or two domains; use a store of single volumes")


def _settings(store: Store) -> dict[str, Any]:
    return {**store.settings, "shard": [1, 1]}
