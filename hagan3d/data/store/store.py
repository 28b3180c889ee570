"""The store: prepared volumes in one HDF5 file, or a folder of shards, that a training step reads slab by slab."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hagan3d.config import low_factor
from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import typical_affine
from hagan3d.data.preprocess.labels import some
from hagan3d.data.preprocess.resample import SCALE
from hagan3d.data.store.description import DataDescription, Domain
from hagan3d.errors import InputError

if TYPE_CHECKING:  # preparing needs no torch, which takes seconds to import
    from torch import Tensor

FORMAT = "hagan3d store 1"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Record:
    """What a store knows of one volume, besides its voxels."""

    id: str
    subject: str
    split: str
    label: int
    """Class index, -1 unknown."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    lo: float
    hi: float
    source: str
    """Name of the file, without folders."""
    hash: str
    """SHA-256 of the file."""
    numbers: dict[str, float] = field(default_factory=dict)
    generated: bool = False
    """Whether a model made it; such a volume is never held out."""
    source_interval: tuple[float, float] | None = None
    """Of a pair: values of x = -1 and x = 1 of its source, in the units of the source's file."""
    domain: str = ""
    """source or target, in a store of two domains without pairs."""


def write_store(
    path: Path,
    settings: dict[str, Any],
    records: Sequence[Record],
    voxels: Callable[[int], np.ndarray],
    left_out: Sequence[str] = (),
    sources: Callable[[int], np.ndarray] | None = None,
    masks: Callable[[int], np.ndarray] | None = None,
) -> None:
    """Write a store, whole or not at all; equal input gives equal bytes.

    Intensities are not compressed: the noise of scans leaves little to gain, and a GPU would wait for the unpacking.

    Args:
        path: Name of the .h5 file.
        settings: Everything the volumes follow from, plain JSON types (`prepare` lists them).
        records: One per volume.
        voxels: Gives the voxels of the i-th volume, int16 [D, H, W].
        left_out: Ids of volumes that were asked for and could not be used.
        sources: For pairs: gives the voxels of the i-th source, int16 [D, H, W] on the grid of the volume.
        masks: Gives the i-th mask, uint8 [D, H, W] of 0 and 1.
    """
    depth, height, width = settings["size"]
    factor = low_factor((depth, height, width))
    count = len(records)
    with replacing(path) as beside, h5py.File(beside, "w", libver="v110") as file:
        file.attrs["format"] = FORMAT
        file.attrs["settings"] = json.dumps(settings, sort_keys=True)
        file.create_dataset("left_out", data=list(left_out), dtype=h5py.string_dtype())
        high = file.create_dataset("high", (count, depth, height, width), np.int16, chunks=(1, factor, height, width))
        small = (depth // factor, height // factor, width // factor)
        low = file.create_dataset("low", (count, *small), np.int16, chunks=(1, *small))
        for index in range(count):
            values = voxels(index)
            high[index] = values
            low[index] = area_average(values, factor)
        for name, kind, filtered, read in (
            ("source_voxels", np.int16, None, sources),
            ("mask", np.uint8, "lzf", masks),
        ):
            if read is not None:
                made = file.create_dataset(name, high.shape, kind, chunks=high.chunks, compression=filtered)
                for index in range(count):
                    made[index] = read(index)
        if sources is not None:
            low_source = file.create_dataset("low_source", low.shape, np.int16, chunks=low.chunks)
            for index in range(count):
                low_source[index] = area_average(file["source_voxels"][index], factor)
        _write_records(file, records, settings["columns"])


def area_average(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of factor^3 voxels, rounded to int16: [D, H, W] to [D/f, H/f, W/f]."""
    d, h, w = (side // factor for side in values.shape)
    blocks = values.reshape(d, factor, h, factor, w, factor)
    return np.rint(blocks.mean(axis=(1, 3, 5), dtype=np.float64)).astype(np.int16)


def _write_records(file: h5py.File, records: Sequence[Record], columns: Sequence[str]) -> None:
    text = h5py.string_dtype()
    for name in ("id", "subject", "split", "source", "hash"):
        file.create_dataset(name, data=[getattr(record, name) for record in records], dtype=text)
    file.create_dataset("label", data=np.array([record.label for record in records], np.int64))
    file.create_dataset("affine", data=np.array([record.affine for record in records], np.float64).reshape(-1, 4, 4))
    for name in ("lo", "hi"):
        file.create_dataset(name, data=np.array([getattr(record, name) for record in records], np.float64))
    table = np.array([[record.numbers.get(name, np.nan) for name in columns] for record in records], np.float64)
    file.create_dataset("numbers", data=table.reshape(len(records), len(columns)))
    if any(record.generated for record in records):
        file.create_dataset("generated", data=np.array([record.generated for record in records], bool))
    if any(record.domain for record in records):
        file.create_dataset("domain", data=[record.domain for record in records], dtype=text)
    if any(record.source_interval for record in records):
        file.create_dataset("source_interval", data=np.array([record.source_interval for record in records]))


class Store:
    """Prepared volumes, read only. Any number of threads and processes may use one; each process opens its own files.

    Args:
        path: A .h5 file made by `prepare`, or a folder of its shards.

    Raises:
        InputError: If it does not exist, is no store, a shard is missing, or shards do not belong together.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._files = _store_files(self.path)
        tables = [_read_table(file) for file in self._files]
        all_settings = [table.pop("settings") for table in tables]
        self.shard: tuple[int, int] = tuple(all_settings[0]["shard"])
        """Shard k of n that the (first) file is."""
        self.settings = _common_settings(self.path, self._files, all_settings)
        merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        counts = [len(table["id"]) for table in tables]
        self._where = [(number, row) for number, count in enumerate(counts) for row in range(count)]
        self._open: dict[tuple[int, int], h5py.File] = {}
        depth, height, width = self.settings["size"]
        self.size = (int(depth), int(height), int(width))
        """Voxels D, H, W."""
        self.factor = low_factor(self.size)
        """Voxels per low-resolution voxel along each axis."""
        self.ids: list[str] = merged["id"].tolist()
        self.subjects: list[str] = merged["subject"].tolist()
        self.splits: list[str] = merged["split"].tolist()
        self.sources: list[str] = merged["source"].tolist()
        self.hashes: list[str] = merged["hash"].tolist()
        self.left_out: list[str] = merged["left_out"].tolist()
        self.labels: np.ndarray = merged["label"]
        """Class index of each volume, -1 unknown, int64 [N]."""
        self.generated: np.ndarray = merged["generated"]
        """Whether a model made the volume, bool [N]."""
        self.class_names: tuple[str, ...] = tuple(self.settings["class_names"])
        self.columns: dict[str, np.ndarray] = dict(zip(self.settings["columns"], merged["numbers"].T, strict=True))
        """Numeric columns of the labels file, float64 [N] each, NaN where unknown."""
        self.affines: np.ndarray = merged["affine"]
        """Index (d, h, w) to RAS mm [N, 4, 4]."""
        self.lo: np.ndarray = merged["lo"]
        """Value of x = -1 in file units [N]."""
        self.hi: np.ndarray = merged["hi"]
        """Value of x = 1 in file units [N]."""
        self.domains: list[str] = merged["domain"].tolist()
        """source or target for each volume of a store of two domains, else empty."""
        self.source_intervals: np.ndarray = merged["source_interval"]
        """Values of x = -1 and x = 1 of the source of each pair, in its file's units [N, 2]; NaN without pairs."""
        self.has_masks = bool(tables[0]["has_masks"][0]) if len(self.ids) else False
        self._has_low_sources = bool(merged["has_low_sources"].all())
        _refuse_twins(self.path, self.ids, "id")
        _refuse_twins(self.path, self.hashes, "content")

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def store_fingerprint(self) -> str:
        """Tells this store from any other: follows from the settings and the content of all source files."""
        content = [self.settings, self.ids, self.hashes, self.splits, self.labels.tolist()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def indices(self, split: str, generated: bool = True) -> np.ndarray:
        """Indices of the volumes of "train", "validation", "test" or "all", int64; perhaps without generated ones.

        Raises:
            InputError: If the store has none.
        """
        if split not in (*SPLITS, "all"):
            raise InputError(f"split {split!r}: want train, validation, test or all")
        found = np.array([i for i, name in enumerate(self.splits) if split in (name, "all")], dtype=np.int64)
        found = found if generated else found[~self.generated[found]]
        if not found.size:
            have = ", ".join(f"{self.splits.count(name)} {name}" for name in SPLITS)
            raise InputError(f"{self.path}: no volume for {split} (it has {have}); prepare it with other fractions")
        return found

    @property
    def has_sources(self) -> bool:
        """Whether every volume is the target of a pair."""
        return "pairs" in self.settings

    @property
    def has_label_maps(self) -> bool:
        """Whether its volumes (of pairs, the targets) are label maps."""
        return bool(self.settings["intensity"] == "labels")

    @property
    def has_domains(self) -> bool:
        """Whether it holds two domains without pairs."""
        return "domains" in self.settings

    def window(self, i: int, start: int, depth: int) -> "Tensor":
        """Read `depth` slices from `start` on of volume `i`: [depth, H, W], float32 in [-1, 1]."""
        return self._read("high", i, self._slices(start, depth))

    def windows(self, indices: Sequence[int], start: int, depth: int) -> "Tensor":
        """Read the same slices of several volumes: [B, depth, H, W]."""
        import torch

        out = torch.empty(len(indices), depth, *self.size[1:])
        for row, i in zip(out, indices, strict=True):
            np.divide(self._values("high", i, self._slices(start, depth)), np.float32(SCALE), out=row.numpy())
        return out

    def volume(self, i: int) -> "Tensor":
        """Read volume `i` [D, H, W], float32 in [-1, 1]."""
        return self._read("high", i, slice(None))

    def low(self, i: int) -> "Tensor":
        """Read the area average of volume `i` [D/f, H/f, W/f], float32 in [-1, 1]."""
        return self._read("low", i, slice(None))

    def source(self, i: int, start: int = 0, depth: int | None = None) -> "Tensor":
        """Read the source of pair `i` [D, H, W], or `depth` slices of it, float32 in [-1, 1]."""
        return self._read("source_voxels", i, self._slices(start, depth))

    def low_source(self, i: int) -> "Tensor":
        """Read the area average of the source of pair `i` [D/f, H/f, W/f], float32 in [-1, 1]."""
        if not self._has_low_sources:
            raise InputError(
                f"{self.path}: holds no low-resolution sources, as it was made by an earlier version; prepare it again"
            )
        return self._read("low_source", i, slice(None))

    def mask(self, i: int, start: int = 0, depth: int | None = None) -> "Tensor":
        """Read mask `i` [D, H, W], or `depth` slices of it, float32 of 0 and 1."""
        return self._read("mask", i, self._slices(start, depth), scale=1)

    def description(self) -> DataDescription:
        """What a model must remember of this data; medians are taken over the training set, if there is one."""
        chosen = self.indices("train" if "train" in self.splits else "all")
        targets = chosen[[self.domains[i] != "source" for i in chosen]]
        affine = typical_affine(self.affines[targets], self.size)
        made = self.settings
        return DataDescription(
            size=self.size,
            orientation=made["orientation"],
            axis=made["axis"],
            affine=tuple(tuple(float(value) for value in row) for row in affine),
            intensity=made["intensity"],
            lo=float(np.median(self.lo[targets])),
            hi=float(np.median(self.hi[targets])),
            units=made["units"],
            percentiles=tuple(made["percentiles"]),
            spacing=None if made["spacing"] is None else tuple(made["spacing"]),
            fit=made["fit"],
            trim=made["trim"],
            class_names=self.class_names,
            source=self.path.name,
            volumes=len(self),
            source_domain=self._source_domain(chosen),
        )

    def _source_domain(self, chosen: np.ndarray) -> Domain | None:
        """Intensities of sources, where they are not those of targets."""
        rule = self.settings.get("pairs") or self.settings.get("domains")
        if rule is None:
            return None
        own = chosen[[self.domains[i] == "source" for i in chosen]]
        intervals = np.stack([self.lo[own], self.hi[own]], 1) if self.has_domains else self.source_intervals[chosen]
        lo, hi = (float(value) for value in np.median(intervals, axis=0))
        return Domain(rule["intensity"], lo, hi, rule["units"], tuple(rule["percentiles"]))

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _slices(self, start: int, depth: int | None) -> slice:
        """Slices of a window, or all."""
        depth = self.size[0] if depth is None else depth
        if not 0 <= start <= self.size[0] - depth:
            raise ValueError(f"want 0 <= start <= {self.size[0] - depth}, got {start}")
        return slice(start, start + depth)

    def _read(self, name: str, i: int, slices: slice, scale: int = SCALE) -> "Tensor":
        import torch

        values = self._values(name, i, slices)
        return torch.from_numpy(values / np.float32(scale))  # by NumPy: torch may hang in a process that was forked

    def _values(self, name: str, i: int, slices: slice) -> np.ndarray:
        number, row = self._where[i]
        key = (os.getpid(), number)  # a handle that came through a fork must not be used
        if key not in self._open:
            self._open[key] = h5py.File(self._files[number], "r")
        try:
            values: np.ndarray = self._open[key][name][row, slices]
        except OSError as error:
            raise InputError(f"{self._files[number]}: volume {i} cannot be read; the file is damaged") from error
        return values


def _store_files(path: Path) -> list[Path]:
    """The files of a store."""
    if not path.exists():
        raise InputError(f"{path}: does not exist; make a store with `hagan3d prepare`")
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.h5"))
    if not files:
        raise InputError(f"{path}: holds no .h5 file, so it is no store; make one with `hagan3d prepare`")
    return files


def _read_table(path: Path) -> dict[str, Any]:
    """Everything but the voxels."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise InputError(f"{path}: is no store of this version; make one with `hagan3d prepare`")
            table: dict[str, Any] = {"settings": json.loads(file.attrs["settings"])}
            for name in ("id", "subject", "split", "source", "hash", "left_out"):
                table[name] = np.array(file[name].asstr()[:], dtype=object)
            for name in ("label", "affine", "lo", "hi", "numbers"):
                table[name] = file[name][:]
            count = len(table["id"])
            table["generated"] = file["generated"][:] if "generated" in file else np.zeros(count, bool)
            table["domain"] = np.array(file["domain"].asstr()[:] if "domain" in file else [""] * count, dtype=object)
            has_sources = "source_interval" in file
            table["source_interval"] = file["source_interval"][:] if has_sources else np.full((count, 2), np.nan)
            table["has_masks"] = np.full(count, "mask" in file)
            table["has_low_sources"] = np.full(count, "low_source" in file)
            return table
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a store; it is damaged or of another kind") from error


def _common_settings(path: Path, files: list[Path], all_settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Make sure that the files are the shards of one store, and return what they share."""
    shards = [tuple(settings.pop("shard")) for settings in all_settings]
    for file, settings in zip(files, all_settings, strict=True):
        odd = [key for key in settings if settings[key] != all_settings[0].get(key)]
        if odd:
            raise InputError(f"{path}: {file.name} and {files[0].name} were prepared with other {', '.join(odd)}")
    total = shards[0][1]
    if len(files) == 1 and not path.is_dir():
        return all_settings[0]
    missing = [f"{k}/{total}" for k in range(1, total + 1) if (k, total) not in shards]
    if missing:
        raise InputError(f"{path}: shard {some(missing)} is missing; run `hagan3d prepare` with --shard for it")
    if len(shards) > total:
        raise InputError(f"{path}: holds {len(shards)} files for {total} shards; take out those of another preparation")
    return all_settings[0]


def _refuse_twins(path: Path, values: list[str], what: str) -> None:
    twins = {value for value in values if values.count(value) > 1} if len(set(values)) < len(values) else set()
    if twins:
        raise InputError(f"{path}: holds the same {what} twice ({some(sorted(twins))}); prepare it again without")
