"""The settings and the records of a store file, checked against each other and against the size of the file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from hagan3d.config import Size, check_size, low_factors
from hagan3d.config.serialization import has_type
from hagan3d.data.io.files import same_file
from hagan3d.data.io.geometry import Axis, Fit, check_orientation
from hagan3d.data.preprocess.intensity import Kind
from hagan3d.data.store.format import FORMAT, MAX_LABELS, SPLITS
from hagan3d.errors import InputError

TEXT_COLUMNS = ("id", "subject", "split", "file", "hash", "domain")
VALUE_COLUMNS: dict[str, tuple[str, int]] = {
    "label": ("i", 1),
    "generated": ("b", 1),
    "affine": ("f", 3),
    "interval": ("f", 3),
    "columns": ("f", 2),
    "source_interval": ("f", 3),
}
"""Kind of number and number of axes."""
SETTINGS: dict[str, Any] = {
    "size": Size,
    "orientation": str,
    "axis": Axis,
    "fit": Fit,
    "trim": bool,
    "spacing": tuple[float, float, float] | None,
    "shard": tuple[int, int],
    "label_names": tuple[str, ...],
    "class_names": tuple[str, ...],
    "columns": tuple[str, ...],
    "channels": tuple[Any, ...],
}
GRID: dict[str, Any] = {name: SETTINGS[name] for name in ("size", "spacing", "fit")}
CHANNEL: dict[str, Any] = {
    "name": str,
    "intensity": Kind,
    "percentiles": tuple[float, float],
    "units": str,
}
Part = Literal["settings", "records", "voxels"]


def read_table(path: Path) -> dict[str, Any]:
    """Read the settings and the records of one file of a store.

    Raises:
        InputError: If it is no store, of another version, or damaged.
    """
    remedy = "copy it again, or make one with `hagan3d prepare`"
    try:
        with h5py.File(path, "r", locking=False) as file:  # a store is never changed, and some disks have no locks
            version = _text(file.attrs.get("format"))
            if version != FORMAT:
                raise InputError(
                    f"{path}: must have the format {FORMAT!r}, got {version!r}; prepare it again with `hagan3d prepare`"
                )
            settings = json.loads(_text(file.attrs["settings"]))
            _require(_are_valid(settings), "settings")
            table = _records(file, path.stat().st_size)
            _require(_fit(table, settings), "records")
            apart = int((table["domain"] == "source").sum()) if "source_grid" in settings else 0
            _require(_are_complete(file, len(table["id"]) - apart, apart, settings), "voxels")
            return {"settings": settings, **table, "has_masks": np.full(len(table["id"]), "mask" in file)}
    except InputError:
        raise
    except PermissionError:
        raise
    except _DamagedError as error:
        raise InputError(f"{path}: is damaged ({error}); {remedy}") from error
    except Exception as error:  # HDF5 and JSON raise errors of many classes on damaged files
        raise InputError(f"{path}: not a store, or damaged; {remedy}") from error


def _text(value: Any) -> Any:
    """Return an attribute as text, of fixed length or not."""
    return value.decode() if isinstance(value, bytes) else value


class _DamagedError(Exception):
    """A part of a store is not what the others say."""


def _require(condition: bool, part: Part) -> None:
    if not condition:
        raise _DamagedError(f"its {part} do not fit")


def _are_valid(settings: Any) -> bool:
    """Return whether the settings are there and of their types."""
    if not isinstance(settings, dict):
        return False
    settings = {key: _tuples(value) for key, value in settings.items()}
    if not all(key in settings and has_type(settings[key], kind) for key, kind in SETTINGS.items()):
        return False
    if not has_type(settings.get("fill"), float | None):
        return False
    check_size(settings["size"])
    check_orientation(settings["orientation"])
    if "source_grid" in settings and not ("domains" in settings and _is_grid(settings["source_grid"])):
        return False
    groups = [settings["channels"], *(settings[name] for name in ("pairs", "domains") if name in settings)]
    channels = [channel for group in groups if isinstance(group, tuple) for channel in group]
    return (
        all(isinstance(group, tuple) and group for group in groups)
        and all(isinstance(one, dict) and CHANNEL.keys() <= one.keys() for one in channels)
        and all(has_type(_tuples(one[key]), kind) for one in channels for key, kind in CHANNEL.items())
        and not any(same_file(one["name"] for one in group) for group in groups)
        and len(settings["label_names"]) <= MAX_LABELS
    )


def _is_grid(values: Any) -> bool:
    """Return whether the settings of the grid of a domain are there and of their types."""
    if not isinstance(values, dict) or values.keys() != GRID.keys():
        return False
    if not all(has_type(_tuples(values[key]), kind) for key, kind in GRID.items()):
        return False
    check_size(_tuples(values["size"]))
    return True


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _records(file: h5py.File, size: int) -> dict[str, Any]:
    """Read the records, unless they declare more than a file of so many bytes can hold."""
    for name in (*TEXT_COLUMNS, *VALUE_COLUMNS, "left_out"):
        _require(file[name].nbytes <= size, "records")
    table: dict[str, Any] = {
        name: np.array(file[name].asstr()[:], dtype=object) for name in (*TEXT_COLUMNS, "left_out")
    }
    for name, (kind, axes) in VALUE_COLUMNS.items():
        _require(file[name].dtype.kind == kind and file[name].ndim == axes, "records")
        table[name] = file[name][:]
    return table


def _fit(table: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Return whether the records fit each other and the settings."""
    count, sources = len(table["id"]), len(settings.get("pairs", []))
    classes, channels = len(settings["class_names"]), len(settings["channels"])
    shapes = {
        "affine": (count, 4, 4),
        "interval": (count, channels, 2),
        "columns": (count, len(settings["columns"])),
        "source_interval": (count, sources, 2),
    }
    return (
        count > 0
        and all(len(table[name]) == count for name in (*TEXT_COLUMNS, *VALUE_COLUMNS))
        and all(table[name].shape == shape for name, shape in shapes.items())
        and all(split in SPLITS for split in table["split"])
        and bool(((table["label"] >= -1) & (table["label"] < max(classes, 1))).all())
        and all(np.isfinite(table[name]).all() for name in ("affine", "interval", "source_interval"))
    )


def _are_complete(file: h5py.File, count: int, apart: int, settings: dict[str, Any]) -> bool:
    """Return whether all voxels are there: HDF5 reads those of missing chunks as 0.

    Args:
        file: The store.
        count: Volumes on the grid of the store.
        apart: Volumes of a source domain with a grid of its own.
        settings: Of the store.
    """
    size, channels, labels = tuple(settings["size"]), len(settings["channels"]), len(settings["label_names"])
    low = _low(size)
    shapes: dict[str, Sequence[int]] = {}
    if count:
        shapes |= {"high": (count, channels, *size), "low": (count, channels + labels, *low)}
    if apart:
        sources, own = len(settings["domains"]), tuple(settings["source_grid"]["size"])
        shapes |= {"source_high": (apart, sources, *own), "source_low": (apart, sources, *_low(own))}
    if labels:
        shapes["label_map"] = (count, *size)
    if "pairs" in settings:
        sources = len(settings["pairs"])
        shapes |= {"source_high": (count, sources, *size), "source_low": (count, sources, *low)}
    if "mask" in file:
        shapes["mask"] = (count, *size)
    return all(_is_complete(file[name], shape) for name, shape in shapes.items())


def _low(size: Size) -> Size:
    """Return the voxels of the low-resolution volume."""
    d, h, w = (side // factor for side, factor in zip(size, low_factors(size), strict=True))
    return d, h, w


def _is_complete(dataset: h5py.Dataset, shape: Sequence[int]) -> bool:
    if dataset.shape != tuple(shape) or dataset.dtype.kind not in "iu" or not dataset.chunks:
        return False
    expected = np.prod([-(-side // chunk) for side, chunk in zip(shape, dataset.chunks, strict=True)], dtype=object)
    return bool(dataset.id.get_num_chunks() == expected)
