"""Reading a store: preprocessed volumes in one HDF5 file or a folder of shards, read slab by slab in training."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import h5py
import numpy as np

from hagan3d.config import Size, low_factor, low_factors
from hagan3d.data.io.geometry import Axis, slice_axis, typical_affine
from hagan3d.data.label_maps import one_hot
from hagan3d.data.preprocess.metadata import abbreviate
from hagan3d.data.store.description import Channel, DataDescription, Grid
from hagan3d.data.store.format import SCALE, SPLITS, to_float32
from hagan3d.data.store.table import read_table
from hagan3d.data.store.write import Voxels
from hagan3d.errors import InputError

if TYPE_CHECKING:  # preparing needs no torch, which takes seconds to import
    from torch import Tensor

Read = TypeVar("Read")


class Store:
    """Preprocessed volumes, read only. Threads and processes may share one; each process opens its own file handles.

    Args:
        path: A .h5 file made by `prepare`, or a folder of its shards.

    Raises:
        InputError: If it does not exist or is not a store, a shard is missing, or shards do not belong together.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._files = _store_files(self.path)
        tables = [read_table(file) for file in self._files]
        all_settings = [table.pop("settings") for table in tables]
        self.shard: tuple[int, int] = tuple(all_settings[0]["shard"])
        """Shard k of n, of the (first) file."""
        self.settings = _common_settings(self.path, self._files, all_settings)
        merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        self._locations = _locations([table["domain"] for table in tables], "source_grid" in self.settings)
        self._handles: dict[tuple[int, int], h5py.File] = {}
        depth, height, width = self.settings["size"]
        self.size = (int(depth), int(height), int(width))
        """Voxels D, H, W."""
        depth, height, width = self.settings.get("source_grid", self.settings)["size"]
        self.source_size = (int(depth), int(height), int(width))
        """Voxels D, H, W of the source domain, which may have a grid of its own, or of sources."""
        self.factor = low_factor(self.size)
        """Voxels per low-resolution voxel along each axis; see `factors`."""
        self.factors = low_factors(self.size)
        """Voxels per low-resolution voxel along D, H, W; 1 along D for a store of slices."""
        self.channels: tuple[str, ...] = tuple(channel["name"] for channel in self.settings["channels"])
        """Names of the image channels; of pairs, those of the targets."""
        self.label_names: tuple[str, ...] = tuple(self.settings["label_names"])
        """Names of the labels of the label maps, in the order of their values; empty: no label maps."""
        self._set_records(merged)
        self.has_masks = bool(tables[0]["has_masks"][0]) if len(self.ids) else False
        _check_unique(self.path, self.ids, "id")
        _check_unique(self.path, self.hashes, "content")

    def _set_records(self, table: dict[str, np.ndarray]) -> None:
        self.ids: list[str] = table["id"].tolist()
        self.subjects: list[str] = table["subject"].tolist()
        self.splits: list[str] = table["split"].tolist()
        self.files: list[str] = table["file"].tolist()
        """Name of the file of each volume, without folders."""
        self.hashes: list[str] = table["hash"].tolist()
        self.left_out: list[str] = table["left_out"].tolist()
        """Ids of volumes that were listed but not usable."""
        self.labels: np.ndarray = table["label"]
        """Class index of each volume, -1 if unknown, int64 [N]."""
        self.generated: np.ndarray = table["generated"]
        """Whether a model generated the volume, bool [N]."""
        self.class_names: tuple[str, ...] = tuple(self.settings["class_names"])
        self.columns: dict[str, np.ndarray] = dict(zip(self.settings["columns"], table["columns"].T, strict=True))
        """Numeric columns of the labels CSV, float64 [N] each, NaN if unknown."""
        self.affines: np.ndarray = table["affine"]
        """Index (d, h, w) to RAS mm [N, 4, 4]."""
        self.intervals: np.ndarray = table["interval"]
        """Values of x = -1 and x = 1 of each channel, in file units [N, C, 2]."""
        self.domains: list[str] = table["domain"].tolist()
        """source or target for each volume of a store of two unpaired domains, else empty."""
        self.source_intervals: np.ndarray = table["source_interval"]
        """Values of x = -1 and x = 1 of each source channel of a pair, in its file units [N, Cs, 2]."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    @property
    def store_fingerprint(self) -> str:
        """SHA-256 over the settings and the content of all files, which identifies the store."""
        content = [self.settings, self.ids, self.hashes, self.splits, self.labels.tolist()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def indices(self, split: str, generated: bool = True) -> np.ndarray:
        """Return the indices of the volumes of "train", "validation", "test" or "all", int64.

        Args:
            split: Name of the split.
            generated: Whether to include generated volumes.

        Raises:
            InputError: If there is no such volume.
        """
        if split not in (*SPLITS, "all"):
            raise InputError(f"split: must be train, validation, test or all, got {split!r}")
        chosen = np.array([i for i, name in enumerate(self.splits) if split in (name, "all")], dtype=np.int64)
        chosen = chosen if generated else chosen[~self.generated[chosen]]
        if not chosen.size:
            counts = ", ".join(f"{self.splits.count(name)} {name}" for name in SPLITS)
            raise InputError(f"{self.path}: no volume for {split} (it has {counts}); prepare it with other fractions")
        return chosen

    @property
    def has_sources(self) -> bool:
        """Whether every volume is the target of a pair."""
        return "pairs" in self.settings

    @property
    def num_channels(self) -> int:
        """Channels of `volume`, `window` and `low`: the image channels, then one per label."""
        return len(self.channels) + len(self.label_names)

    def channel_indices(self, name: str | None = None) -> list[int]:
        """Return the index of an image channel by its name, or the indices of all.

        Raises:
            InputError: If there is no such channel.
        """
        if name is None:
            return list(range(len(self.channels)))
        if name not in self.channels:
            raise InputError(f"{self.path}: has no image channel {name!r}; use one of {', '.join(self.channels)}")
        return [self.channels.index(name)]

    @property
    def source_channels(self) -> tuple[str, ...]:
        """Names of the source channels of pairs, or of the source domain; empty without sources."""
        rules = self.settings.get("pairs") or self.settings.get("domains") or []
        return tuple(channel["name"] for channel in rules)

    @property
    def has_label_maps(self) -> bool:
        """Whether the volumes (of pairs, the targets) are label maps, coded as intensities."""
        return bool(self.settings["channels"][0]["intensity"] == "labels")

    @property
    def has_domains(self) -> bool:
        """Whether it holds two unpaired domains."""
        return "domains" in self.settings

    @property
    def has_source_grid(self) -> bool:
        """Whether the source domain has a grid of its own."""
        return "source_grid" in self.settings

    def size_of(self, i: int) -> Size:
        """Return the voxels D, H, W of volume `i`."""
        return self.source_size if self.domains[i] == "source" else self.size

    def check_size(self, size: Size, domain: str = "all") -> None:
        """Raise InputError unless the volumes of the domain source or target, or all, have the size of a model's."""
        sizes = {"source": {self.source_size}, "target": {self.size}, "all": {self.size, self.source_size}}[domain]
        for found in sorted(sizes - {size}):
            raise InputError(f"{self.path}: volumes of {list(found)} voxels, but the model's are {list(size)}")

    def window(self, i: int, start: int, depth: int, axis: int = 0) -> "Tensor":
        """Read `depth` slices of volume `i` from slice `start`: [C, depth, H, W], float32 in [-1, 1].

        The C channels are the image channels, then one per label: 1 where a voxel has the label, else -1. The slices
        are perpendicular to `axis`: along H or W, 1 or 2, `depth` is the side of that axis instead.
        """
        import torch

        size = self.size_of(i)
        sides = [depth if other == axis else side for other, side in enumerate(size)]
        x = np.empty((self.num_channels, *sides), np.float32)
        self._read_into(x, i, _slices(size, start, depth, axis))
        return torch.from_numpy(x)

    def read_stored(self, i: int, start: int, images: np.ndarray, label_map: np.ndarray | None = None) -> None:
        """Read slices of volume `i` from slice `start` as they are stored, into arrays.

        Args:
            i: Index of the volume.
            start: First slice.
            images: Takes the image channels, int16 [C, depth, H, W], contiguous.
            label_map: Takes the label map, uint8 [depth, H, W], contiguous; None: not read.
        """
        region = _slices(self.size_of(i), start, images.shape[1])
        self._dataset("high", i, lambda data, row: data.read_direct(images, (row, slice(None), *region)))
        if label_map is not None:
            self._dataset("label_map", i, lambda data, row: data.read_direct(label_map, (row, *region)))

    def volume(self, i: int) -> "Tensor":
        """Read all channels of volume `i` [C, D, H, W], float32 in [-1, 1], as `window` does."""
        return self.window(i, 0, self.size_of(i)[0])

    def channel(self, i: int, channel: int = 0) -> "Tensor":
        """Read one image channel of volume `i` [D, H, W], float32 in [-1, 1]."""
        return self._read("high", i, channel)

    def label_map(self, i: int) -> np.ndarray:
        """Read the label map of volume `i` [D, H, W], uint8."""
        return self._values("label_map", i, slice(None))

    def encoded(self, i: int) -> Voxels:
        """Read volume `i` as it is stored."""
        return Voxels(self._values("high", i, slice(None)), self.label_map(i) if self.label_names else None)

    def low(self, i: int) -> "Tensor":
        """Read the channels of `window` at low resolution [C, D/f, H/f, W/f] (area average), float32 in [-1, 1]."""
        return self._read("low", i, slice(None))

    def source(self, i: int, start: int = 0, depth: int | None = None, axis: int = 0) -> "Tensor":
        """Read the source of pair `i` [Cs, D, H, W], or `depth` slices of it as `window`, float32 in [-1, 1]."""
        return self._read("source_high", i, slice(None), *_slices(self.size, start, depth, axis))

    def low_source(self, i: int) -> "Tensor":
        """Read the low-resolution source of pair `i` [Cs, D/f, H/f, W/f] (area average), float32 in [-1, 1]."""
        return self._read("source_low", i, slice(None))

    def mask(self, i: int, start: int = 0, depth: int | None = None, axis: int = 0) -> "Tensor":
        """Read mask `i` [D, H, W], or `depth` slices of it as `window`, float32 of 0 and 1."""
        import torch

        return torch.from_numpy(self._values("mask", i, *_slices(self.size, start, depth, axis)).astype(np.float32))

    def description(self) -> DataDescription:
        """Return the metadata stored with a checkpoint; medians are over the training set, if there is one."""
        chosen = self.indices("train" if "train" in self.splits else "all")
        targets = chosen[[self.domains[i] != "source" for i in chosen]]
        settings, masked = self.settings, bool(self.settings.get("masks", False)) or self.has_masks
        return DataDescription(
            size=self.size,
            orientation=settings["orientation"],
            axis=settings["axis"],
            affine=_typical(self.affines[targets], self.size),
            channels=_channels(settings["channels"], self.intervals[targets], masked),
            label_names=self.label_names,
            spacing=None if settings["spacing"] is None else tuple(settings["spacing"]),
            fit=settings["fit"],
            trim=settings["trim"],
            class_names=self.class_names,
            source=self.path.name,
            volumes=len(self),
            source_channels=self._source_channels(chosen),
            source_grid=self._source_grid(chosen),
            fill=settings.get("fill"),
        )

    def _source_grid(self, chosen: np.ndarray) -> Grid | None:
        """Return the grid of the source domain, if it has one of its own."""
        if not self.has_source_grid:
            return None
        own = chosen[[self.domains[i] == "source" for i in chosen]]
        rule = self.settings["source_grid"]
        spacing = None if rule["spacing"] is None else tuple(rule["spacing"])
        return Grid(self.source_size, _typical(self.affines[own], self.source_size), spacing, rule["fit"])

    def _source_channels(self, chosen: np.ndarray) -> tuple[Channel, ...]:
        """Return the channels of the sources of pairs or of the source domain."""
        if self.has_domains:
            own = chosen[[self.domains[i] == "source" for i in chosen]]
            return _channels(self.settings["domains"], self.intervals[own])
        return _channels(self.settings.get("pairs", []), self.source_intervals[chosen])

    def slice_axis(self, plane: Axis) -> int:
        """Return the axis, 0 to 2 for D, H, W, that slices of a plane are perpendicular to."""
        return slice_axis(plane, self.settings["orientation"], self.settings["axis"])

    def slice_size(self, axis: int, domain: Literal["source", "target"] = "target") -> Size:
        """Return the voxels [1, rows, columns] of a slice perpendicular to an axis."""
        size = self.source_size if domain == "source" else self.size
        rows, columns = (side for other, side in enumerate(size) if other != axis)
        return 1, rows, columns

    def close(self) -> None:
        """Close the file handles; the next read opens them again."""
        while self._handles:
            self._handles.popitem()[1].close()

    def _read_into(self, x: np.ndarray, i: int, region: tuple[slice, ...]) -> None:
        """Read a region of all channels of a volume into an array [C, ...] of its shape."""
        images = len(self.channels)
        # decoded into the output, without a copy, and in NumPy: a torch kernel may hang in a forked process
        np.divide(self._values("high", i, slice(None), *region), np.float32(SCALE), out=x[:images])
        if self.label_names:
            x[images:] = one_hot(self._values("label_map", i, *region), len(self.label_names))

    def _read(self, name: str, i: int, *index: int | slice) -> "Tensor":
        import torch

        return torch.from_numpy(to_float32(self._values(name, i, *index)))

    def _values(self, name: str, i: int, *index: int | slice) -> np.ndarray:
        return self._dataset(name, i, lambda data, row: data[(row, *index)])

    def _dataset(self, name: str, i: int, read: Callable[[h5py.Dataset, int], Read]) -> Read:
        """Return what ``read`` makes of a dataset and the row of volume `i` in it."""
        number, row = self._locations[i]
        if self.has_source_grid and self.domains[i] == "source":
            name = f"source_{name}"
        key = (os.getpid(), number)  # HDF5 handles are not valid after a fork
        file = self._files[number]
        try:
            if key not in self._handles:
                self._handles[key] = h5py.File(file, "r", locking=False)
            return read(self._handles[key][name], row)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            if not file.exists():
                raise InputError(f"{file}: is no longer there; put it back and run the same command again") from error
            raise InputError(
                f"{file}: volume {i} cannot be read, the file is damaged; copy or prepare it again"
            ) from error


def _locations(domains: Sequence[np.ndarray], is_apart: bool) -> list[tuple[int, int]]:
    """Return the number of the file of each volume, and its row there; ``is_apart``: among those of its domain."""
    found = []
    for number, names in enumerate(domains):
        rows: Counter[str] = Counter()
        for name in names:
            key = name if is_apart else ""
            found.append((number, rows[key]))
            rows[key] += 1
    return found


def _slices(size: Size, start: int, depth: int | None, axis: int = 0) -> tuple[slice, ...]:
    """Return the region of a window of a volume along an axis, or the whole."""
    length = size[axis]
    depth = length if depth is None else depth
    if not 0 <= start <= length - depth:
        raise ValueError(f"expected 0 <= start <= {length - depth}, got {start}")
    return (*[slice(None)] * axis, slice(start, start + depth))


def _typical(affines: np.ndarray, size: Size) -> tuple[tuple[float, ...], ...]:
    """Return the mean geometry of volumes of one size, their affines [N, 4, 4], as plain values."""
    return tuple(tuple(float(value) for value in row) for row in typical_affine(affines, size))


def _channels(rules: Sequence[dict[str, Any]], intervals: np.ndarray, masked: bool = False) -> tuple[Channel, ...]:
    """Return channels by their settings, with the median intervals of volumes [N, C, 2]; z-scores perhaps in masks."""
    medians = np.median(intervals, axis=0)
    return tuple(Channel.of(rule, median, masked) for rule, median in zip(rules, medians, strict=True))


def _store_files(path: Path) -> list[Path]:
    """Return the files of a store."""
    if not path.exists():
        raise InputError(f"{path}: does not exist; make a store with `hagan3d prepare`")
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.glob("*.h5")) if not file.name.startswith(".")]  # nor ._x.h5 of macOS
    if not files:
        raise InputError(f"{path}: not a store, as it holds no .h5 file; make one with `hagan3d prepare`")
    return files


def _common_settings(path: Path, files: list[Path], all_settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Check that the files are the shards of one store, and return their common settings."""
    shards = [tuple(settings.pop("shard")) for settings in all_settings]
    for file, settings in zip(files, all_settings, strict=True):
        different = [key for key in settings if settings[key] != all_settings[0].get(key)]
        if different:
            raise InputError(
                f"{path}: {file.name} and {files[0].name} were prepared with different {', '.join(different)}; "
                "prepare all shards with the same settings"
            )
    total = shards[0][1]
    if len(files) == 1 and not path.is_dir():
        return all_settings[0]
    missing = [f"{k}/{total}" for k in range(1, total + 1) if (k, total) not in shards]
    if missing:
        raise InputError(f"{path}: shard {abbreviate(missing)} is missing; run `hagan3d prepare` with --shard for it")
    if len(shards) > total:
        raise InputError(f"{path}: holds {len(shards)} files for {total} shards; remove those of another preparation")
    return all_settings[0]


def _check_unique(path: Path, values: list[str], what: str) -> None:
    if len(set(values)) < len(values):
        repeated = sorted({value for value in values if values.count(value) > 1})
        raise InputError(f"{path}: holds the same {what} twice ({abbreviate(repeated)}); prepare it again without it")
