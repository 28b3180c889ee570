"""The work on one file of a preparation: check it, and write its preprocessed voxels to a cache file."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.config import Size
from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import GridRule, grid_of, resample_onto
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import Volume, VolumeFile, naming, read_channels, read_raw, read_volume
from hagan3d.data.preprocess.facts import FileFacts, facts_of, odd_shape
from hagan3d.data.preprocess.intensity import IntensityRule, window_remark
from hagan3d.data.preprocess.volume import (
    LOST,
    check_grid,
    check_patient,
    check_slices,
    lost_labels,
    mask_on,
    preprocess_channels,
    preprocess_label_map,
    preprocess_volume,
    read_label_map,
    same_grid,
)
from hagan3d.data.store.format import to_int16
from hagan3d.data.store.write import Interval, Voxels
from hagan3d.errors import InputError

INSIDE = 0.5  # a resampled mask is 1 from here up


@dataclass(frozen=True)
class PreprocessingTask:
    """One volume to check or to preprocess."""

    file: VolumeFile
    grid: GridRule
    intensities: tuple[IntensityRule, ...]
    """One per channel."""
    fill: float | None
    """Replaces NaN and infinite voxels; None: they are an error."""
    cache_path: Path
    """File for the preprocessed voxels until the store is written."""
    mask: Path | None = None
    """Volume that is above 0 in the region of a z-score, or of the likelihood and metrics of a pair."""
    source_intensities: tuple[IntensityRule, ...] = ()
    """Of a pair: one per channel of the source."""
    label_names: tuple[str, ...] = ()
    """Names of the labels of the label map, in the order of their values."""
    channels: tuple[str, ...] = ()
    """Names of the channels."""
    source_channels: tuple[str, ...] = ()
    """Names of the channels of the source of a pair."""


@dataclass(frozen=True)
class CheckResult:
    """Result of the check of one file."""

    hash: str
    """SHA-256 of its bytes."""
    error: str = ""
    """One line: file, reason, remedy; empty if the file is usable."""
    remarks: tuple[str, ...] = ()
    """What is done to the files that its user may not expect, one line each."""
    facts: tuple[FileFacts, ...] = ()
    """Of each file that was read, that of the grid first."""


@dataclass(frozen=True)
class CachedVolume:
    """Content of a cache file."""

    voxels: Voxels
    affine: np.ndarray
    """Index (d, h, w) to RAS mm [4, 4]."""
    intervals: list[Interval]
    """Values of x = -1 and x = 1 of each channel."""
    source: np.ndarray | None
    """Of a pair: int16 [C, D, H, W], on the grid of the volume."""
    source_intervals: list[Interval]
    mask: np.ndarray | None
    """uint8 [D, H, W] of 0 and 1."""


def check_file(task: PreprocessingTask) -> CheckResult:
    """Read a volume and check everything that could make its preprocessing fail."""
    file = task.file
    try:
        images = read_channels(file, task.fill, are_label_maps(task.intensities))
        volume = next(images)
        check_slices(volume, task.grid)
        found = [facts_of(volume, task.channels[0])]
        mask = _mask(task, volume)
        task.intensities[0].interval(volume.array, mask)
        remarks = [
            *volume.remarks,
            *odd_shape(volume, task.grid),
            *_window_remark(volume, task.intensities[0]),
            *_check_channels(task, images, volume, found, _mask_volume(task, mask, volume)),
            *_check_mask(task, mask, volume),
            *_check_label_map(task, volume, found),
            *_check_sources(task, volume, found),
        ]
        _check_copies(found)
        paths = list(dict.fromkeys([*file.files, *([task.mask] if task.mask else [])]))
        check_patient(file.id, paths)
        return CheckResult(content_hash(paths), remarks=tuple(remarks), facts=tuple(found))
    except InputError as error:
        message = str(error)
        is_named = any(str(path) in message for path in file.files)
        return CheckResult("", message if is_named else f"{file.path}: {message}")


def _check_copies(found: Sequence[FileFacts]) -> None:
    """Raise InputError if two channels of a volume, or a source and a target, are files with the same voxels."""
    seen: dict[str, FileFacts] = {}
    for one in found:
        first = seen.setdefault(one.voxels, one)
        if first is not one and first.path != one.path:
            raise InputError(
                f"{one.path}: has the same voxels as {first.path} ({first.channel}); give the file of {one.channel}"
            )


def write_cache_file(task: PreprocessingTask) -> None:
    """Preprocess a volume and write it to its cache file, atomically."""
    images, size = read_channels(task.file, task.fill, are_label_maps(task.intensities)), task.grid.size
    volume = next(images)
    mask = _mask(task, volume)
    first = preprocess_volume(volume, task.grid, task.intensities[0], mask)
    inside = _mask_volume(task, mask, volume)
    others = preprocess_channels(images, task.intensities[1:], first.affine, size, inside)
    arrays = {
        "voxels": to_int16(np.concatenate([first.x[None], others.x])),
        "affine": first.affine,
        "intervals": np.array([(first.lo, first.hi), *others.intervals]),
    }
    if task.file.sources:
        rules = zip(task.file.sources, task.source_intensities, strict=True)
        read = (read_volume(path, task.fill, rule.is_label_map) for path, rule in rules)
        sources = preprocess_channels(read, task.source_intensities, first.affine, size)
        arrays |= {"source": to_int16(sources.x), "source_intervals": np.array(sources.intervals)}
    arrays |= _masks(task, volume, first.affine)
    with replacing(task.cache_path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def are_label_maps(rules: Sequence[IntensityRule]) -> list[bool]:
    """Return whether the values of each channel are labels."""
    return [rule.is_label_map for rule in rules]


def read_cache_file(path: Path) -> CachedVolume:
    """Read a cache file."""
    with np.load(path, allow_pickle=False) as data:
        return CachedVolume(
            Voxels(data["voxels"], data.get("label_map")),
            data["affine"],
            _intervals(data["intervals"]),
            data.get("source"),
            _intervals(data.get("source_intervals", np.zeros((0, 2)))),
            data.get("mask"),
        )


def _intervals(values: np.ndarray) -> list[Interval]:
    return [(float(lo), float(hi)) for lo, hi in values]


def _masks(task: PreprocessingTask, volume: Volume, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Resample the mask of a pair and the label map onto the grid of the preprocessed volume."""
    arrays: dict[str, np.ndarray] = {}
    if task.file.mask is not None:
        mask = _mask(task, volume)
        assert mask is not None
        arrays["mask"] = _mask_on_grid(mask, volume, grid, task.grid.size)
    if task.file.label_map is not None:
        label_map = read_label_map(task.file.label_map, task.label_names)
        arrays["label_map"] = preprocess_label_map(label_map, grid, task.grid.size)
    return arrays


def _mask_on_grid(mask: np.ndarray, volume: Volume, grid: np.ndarray, size: Size) -> np.ndarray:
    """Resample the mask of a volume onto a grid: uint8 [D, H, W]."""
    resampled = resample_onto(mask.astype(np.float32), volume.affine, grid, size, background=0.0)
    return (resampled >= INSIDE).astype(np.uint8)


def _check_channels(
    task: PreprocessingTask, channels: Iterable[Volume], first: Volume, found: list[FileFacts], mask: Volume | None
) -> list[str]:
    """Check the further channels of a case; return a remark on each that lies on another grid than the first."""
    remarks = []
    for channel, rule, name in zip(channels, task.intensities[1:], task.channels[1:], strict=True):
        remarks += [*channel.remarks, *check_grid(channel, first), *_check_interval(channel, rule, mask)]
        found.append(facts_of(channel, name))
    return remarks


def _check_interval(volume: Volume, rule: IntensityRule, mask: Volume | None = None) -> list[str]:
    """Check the intensities of a volume; return a remark if a window does not suit them."""
    with naming(Path(volume.name)):
        rule.interval(volume.array, mask_on(mask, volume))
    return _window_remark(volume, rule)


def _window_remark(volume: Volume, rule: IntensityRule) -> list[str]:
    remark = window_remark(volume.array, *rule.window) if rule.kind == "window" else None
    return [f"{volume.name}: {remark}"] if remark else []


def _check_mask(task: PreprocessingTask, mask: np.ndarray | None, volume: Volume) -> list[str]:
    """Return a remark if the mask of a pair has no voxel on the grid of the store."""
    if task.file.mask is None or mask is None:
        return []
    grid = grid_of(volume.array, volume.affine, task.grid)
    is_lost = not _mask_on_grid(mask, volume, grid, task.grid.size).any()
    return [f"{task.file.mask}: has no voxel {LOST}; nothing is measured in it"] if is_lost else []


def _check_label_map(task: PreprocessingTask, first: Volume, found: list[FileFacts]) -> list[str]:
    """Check a label map; return a remark if it lies on another grid than the first channel."""
    path = task.file.label_map
    if path is None:
        return []
    label_map = read_label_map(path, task.label_names)
    found.append(facts_of(label_map, "label map"))
    remarks = check_grid(label_map, first)
    kept = preprocess_label_map(label_map, grid_of(first.array, first.affine, task.grid), task.grid.size)
    return [*label_map.remarks, *remarks, *lost_labels(label_map, kept, task.label_names)]


def _check_sources(task: PreprocessingTask, volume: Volume, found: list[FileFacts]) -> list[str]:
    """Check the sources of a pair; return remarks on them."""
    remarks = []
    for path, rule, name in zip(task.file.sources, task.source_intensities, task.source_channels, strict=True):
        source = read_volume(path, task.fill, rule.is_label_map)
        remarks += [*source.remarks, *_check_interval(source, rule), *check_grid(source, volume)]
        found.append(facts_of(source, name))
    return remarks


def _mask(task: PreprocessingTask, volume: Volume) -> np.ndarray | None:
    """Read the mask of a volume as booleans, on the grid of its file."""
    if task.mask is None:
        return None
    raw = read_raw(task.mask)  # which may be 1 everywhere
    array = raw.array
    if not same_grid(Volume(array, raw.affine, str(task.mask)), volume):
        raise InputError(f"{task.mask}: must have the shape and affine of {task.file.path}; resample the mask")
    if not np.isfinite(array).all() or not (array > 0).any():
        raise InputError(f"{task.mask}: mask is empty, or holds NaN or infinite values; repair it or leave it out")
    return array > 0


def _mask_volume(task: PreprocessingTask, mask: np.ndarray | None, volume: Volume) -> Volume | None:
    """Return the mask of a volume as a volume on its grid, 0 and 1, for the z-scores of further channels."""
    return None if mask is None else Volume(mask.astype(np.float32), volume.affine, str(task.mask))


def content_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the files of a volume: its channels, label map, mask and sources."""
    hashes = [file_hash(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of the files of a volume: one file, a header and its voxels, or the slices of a folder."""
    hashes = []
    for part in parts_of(path):
        with part.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    is_single = len(hashes) == 1 and not path.is_dir()
    return hashes[0] if is_single else hashlib.sha256("".join(hashes).encode()).hexdigest()
