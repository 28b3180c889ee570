"""Stores made from a store: some of its volumes, or all of them and generated ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.preprocess.resample import SCALE
from hagan3d.data.store.store import Record, Store, write_store
from hagan3d.errors import InputError


def record_of(store: Store, i: int) -> Record:
    """Return what a store knows of volume ``i``."""
    return Record(
        id=store.ids[i],
        subject=store.subjects[i],
        split=store.splits[i],
        label=int(store.labels[i]),
        affine=store.affines[i],
        lo=float(store.lo[i]),
        hi=float(store.hi[i]),
        source=store.sources[i],
        hash=store.hashes[i],
        numbers={name: float(values[i]) for name, values in store.columns.items()},
        generated=bool(store.generated[i]),
    )


def whole_numbers(x: np.ndarray) -> np.ndarray:
    """Turn voxels in [-1, 1] into the int16 that a store keeps."""
    return np.rint(x * np.float32(SCALE)).astype(np.int16)


def training_fraction(store: Store, fraction: float, seed: int = 0) -> np.ndarray:
    """Choose a fraction of the training subjects, class by class; held-out volumes all stay.

    A smaller fraction of the same seed is part of a larger one. A subject's class is that of its first volume; of every
    class at least one subject stays.

    Args:
        store: The store.
        fraction: Of the training subjects, above 0, at most 1.
        seed: Of the choice.

    Returns:
        Indices of the chosen training volumes and of all held-out ones, in the order of the store, int64.

    Raises:
        InputError: If the fraction is none, or the store has no training volumes.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction:g}: want above 0, at most 1")
    first_label: dict[str, int] = {}
    for i in store.indices("train"):
        first_label.setdefault(store.subjects[i], int(store.labels[i]))
    kept: set[str] = set()
    for label in sorted(set(first_label.values())):
        own = sorted(subject for subject, of in first_label.items() if of == label)
        order = np.random.default_rng([seed, label + 1]).permutation(len(own))
        kept |= {own[j] for j in order[: max(1, round(fraction * len(own)))]}
    is_kept = [split != "train" or who in kept for split, who in zip(store.splits, store.subjects, strict=True)]
    return np.flatnonzero(is_kept)


def write_part(path: Path, store: Store, indices: Sequence[int] | np.ndarray) -> Store:
    """Write a store of some volumes of another, with their splits; whole or not at all.

    Raises:
        InputError: If the other holds pairs, or the place cannot be written to.
    """
    _refuse_pairs(store)
    records = [record_of(store, int(i)) for i in indices]
    write_store(path, _settings(store), records, lambda n: whole_numbers(store.volume(int(indices[n])).numpy()))
    return Store(path)


def write_with_generated(
    path: Path, store: Store, made: Sequence[Record], voxels: Callable[[int], np.ndarray], origin: dict[str, Any]
) -> Store:
    """Write a store of all volumes of another and of generated ones, whole or not at all.

    Args:
        path: The .h5 file.
        store: The other store.
        made: A record per generated volume; its split becomes ``train`` and it is marked as generated.
        voxels: Gives the i-th generated volume ``[D, H, W]`` in [-1, 1]; asked once for each, in order.
        origin: What the generated volumes follow from, plain JSON types.

    Raises:
        InputError: If the other holds pairs, or the place cannot be written to.
    """
    _refuse_pairs(store)
    count = len(store)
    records = [record_of(store, i) for i in range(count)]
    records += [replace(record, split="train", generated=True) for record in made]
    settings = _settings(store)
    settings["generated"] = [*settings.get("generated", []), origin]

    def read(i: int) -> np.ndarray:
        return whole_numbers(store.volume(i).numpy() if i < count else voxels(i - count))

    write_store(path, settings, records, read, store.left_out)
    return Store(path)


def _refuse_pairs(store: Store) -> None:
    """Raise InputError for a store whose volumes are more than voxels: nothing must be lost on the way."""
    if store.has_sources or store.has_domains or store.has_masks:
        raise InputError(f"{store.path}: holds pairs, masks or two domains; want a store of volumes alone")


def _settings(store: Store) -> dict[str, Any]:
    return {**store.settings, "shard": [1, 1]}
