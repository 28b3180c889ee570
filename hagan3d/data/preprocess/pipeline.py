"""Files to a store: check all files, preprocess them in parallel, write one HDF5 file; resumable after a kill."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.io.files import readable_write_errors, write_text
from hagan3d.data.io.geometry import GridRule, check_orientation
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.pictures import contact_sheet
from hagan3d.data.preprocess.cache import (
    CachedVolume,
    CheckResult,
    PreprocessingTask,
    check_file,
    content_hash,
    read_cache_file,
    write_cache_file,
)
from hagan3d.data.preprocess.inputs import Inputs, PreparationInputs, collect_inputs
from hagan3d.data.preprocess.intensity import IntensityRule
from hagan3d.data.preprocess.metadata import split_of
from hagan3d.data.preprocess.settings import ChannelConfig, DomainConfig, PrepareConfig
from hagan3d.data.preprocess.workers import map_files
from hagan3d.data.store.format import to_float32
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError

SHEET_VOLUMES = 12  # on the contact sheet
BYTES_PER_VOXEL = 2
BYTES_PER_WORKER = 32 * 2**20  # of input: below it, starting a process takes longer than its work
CHANNEL_SETTINGS = ("intensity", "window", "percentiles", "units", "intensities", "channels", "channel_names")
WITHOUT_EFFECT = ("skip_bad", "workers", "class_column", "partial_labels", "masks")  # on voxels beyond files and labels
OTHER_OUTPUT = "use another --output, or delete the store"


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`."""

    path: Path
    """The store, or one shard of it."""
    volumes: int
    channels: int = 1
    """Image channels of a volume."""
    labels: int = 0
    """Labels of its label map; 0: it has none."""
    sources: int = 0
    """Channels of the source of a pair or of the source domain; 0 for single volumes."""
    left_out: tuple[str, ...] = ()
    """Why files were left out, one line each; ids only if the store already existed."""
    sheet: Path | None = None
    """Contact sheet."""
    remarks: tuple[str, ...] = ()
    """What was done to files that their user may not expect, one line each."""
    done_before: bool = False
    """Whether the store already existed, complete."""


def prepare(
    inputs: Inputs, output: Path, config: PrepareConfig, progress: bool = True, sources_as: DomainConfig | None = None
) -> Prepared:
    """Make a store of volumes.

    All files are checked before anything is written. After a kill the same call resumes, and the store equals that of
    an uninterrupted call, byte for byte. A complete store of the same settings and files is kept.

    Args:
        inputs: Folders, lists or files (`find_volumes`), a CSV of cases, or `Cases`, such as pairs.
        output: The .h5 file to write; with `config.shard` the folder of the shards.
        config: Settings.
        progress: Whether to show a progress bar on stderr.
        sources_as: Intensities of the sources of pairs, or of the source domain.

    Raises:
        InputError: With one line per unusable file, unless `config.skip_bad`; or if `output` is another store.
    """
    check_orientation(config.orientation)
    path = _output_path(output, config)
    listed = collect_inputs(inputs, config)
    settings = _settings(config, listed, sources_as)
    folder = path.with_name(f".{path.name}.cache")
    if path.exists():
        return _check_finished(path, settings, listed, folder)
    files = listed.labelled
    subjects = {file.id: listed.subject(file, config.subject) for file in files}
    state = {file.id: _state(settings, listed, file) for file in files}
    tasks = [_task(listed, file, config, settings, folder / f"{_key(state[file.id])}.npz") for file in files]
    checked = _checked(tasks, state, folder, config, progress)
    hashes, problems = checked.hashes, listed.problems + checked.problems
    usable = [task for task in tasks if task.file.id in hashes]
    if not usable or (problems and not config.skip_bad):
        raise InputError("\n".join(problems))
    _check_disk(path, usable)
    with _cache_folder(folder, state, hashes):
        _write_cache_files(usable, config, progress)
        records = [_record(task, listed, subjects[task.file.id], hashes, config) for task in usable]
        _write_sheet(sheet := path.with_suffix(".png"), usable, records)
        _write(path, settings, records, usable, [file.id for file in listed.files if file.id not in hashes])
    cases = listed.cases
    counts = len(cases.channels), len(cases.label_names), len(cases.sources)
    return Prepared(path, len(records), *counts, tuple(problems), sheet, tuple(listed.remarks + checked.remarks))


def _write_cache_files(tasks: list[PreprocessingTask], config: PrepareConfig, progress: bool) -> None:
    """Preprocess the volumes that have no cache file yet."""
    todo = [task for task in tasks if not task.cache_path.exists()]
    workers = _workers([task.file for task in tasks], config)
    for _ in map_files(write_cache_file, todo, workers, "Resampling", progress):
        pass


def _output_path(output: Path, config: PrepareConfig) -> Path:
    """Return the file to write."""
    if config.shard is None:
        if output.suffix != ".h5" or output.is_dir():
            raise InputError(f"{output}: --output must be a file name that ends in .h5 (a folder with --shard k/n)")
        return output
    if output.suffix == ".h5" or output.is_file():
        raise InputError(f"{output}: --output must be a folder with --shard, got a file")
    k, n = config.shard_position
    return output / f"shard-{k:03d}-of-{n:03d}.h5"


def _settings(config: PrepareConfig, listed: PreparationInputs, sources_as: DomainConfig | None) -> dict[str, Any]:
    """Return everything besides the files that determines the content of a store."""
    settings = asdict(config)
    for name in (*WITHOUT_EFFECT, *CHANNEL_SETTINGS):
        del settings[name]
    labels, cases = listed.labels, listed.cases
    settings |= {
        "fit": config.fit_used,
        "channels": [_channel(name, config.intensities.get(name), config) for name in cases.channels],
        "label_names": list(cases.label_names),
        "labels": labels.hash if config.labels else "",
        "class_names": list(labels.class_names),
        "columns": list(labels.columns),
        "shard": list(config.shard_position),
    }
    if cases.sources:
        default = sources_as or DomainConfig()
        sources = [_channel(name, config.intensities.get(name), default) for name in cases.sources]
        settings["domains" if cases.files[0].domain else "pairs"] = sources
    if config.masks is not None:
        settings["masks"] = True  # the name of their folder has no effect
    return dict(json.loads(json.dumps(settings)))


def _channel(name: str, own: ChannelConfig | None, default: PrepareConfig | DomainConfig) -> dict[str, Any]:
    """Return the settings of one channel: its own, or those of all channels."""
    chosen = own or default
    return {
        "name": name,
        "intensity": chosen.intensity,
        "window": chosen.window,
        "percentiles": chosen.percentiles,
        "units": chosen.units_used if isinstance(chosen, PrepareConfig) else chosen.units,
    }


def _rules(channels: list[dict[str, Any]]) -> tuple[IntensityRule, ...]:
    return tuple(
        IntensityRule(channel["intensity"], tuple(channel["window"]), tuple(channel["percentiles"]))
        for channel in channels
    )


def _check_finished(path: Path, settings: dict[str, Any], listed: PreparationInputs, folder: Path) -> Prepared:
    """Check that the store at `path` has the requested settings and files."""
    store = Store(path)
    stored = store.settings | {"shard": list(store.shard)}
    different = sorted(name for name in {*settings, *stored} if settings.get(name) != stored.get(name))
    if different:
        raise InputError(f"{path}: was made with other settings ({', '.join(different)}); {OTHER_OUTPUT}")
    if {file.id for file in listed.files} != {*store.ids, *store.left_out}:
        raise InputError(f"{path}: was made from other files; {OTHER_OUTPUT}")
    written = path.stat().st_mtime_ns
    hashes = dict(zip(store.ids, store.hashes, strict=True))
    for file in listed.files:
        if listed.modified(file) <= written:
            continue
        if content_hash(listed.paths(file)) != hashes.get(file.id, ""):
            raise InputError(f"{path}: is older than {file.path}, which has changed; {OTHER_OUTPUT}")
    shutil.rmtree(folder, ignore_errors=True)
    counts = len(store.channels), len(store.label_names), len(store.source_channels)
    return Prepared(path, len(store), *counts, tuple(store.left_out), path.with_suffix(".png"), done_before=True)


def _task(
    listed: PreparationInputs, file: VolumeFile, config: PrepareConfig, settings: dict[str, Any], cache_path: Path
) -> PreprocessingTask:
    grid = GridRule(config.size, config.orientation, config.axis, config.spacing, config.fit_used, config.trim)
    return PreprocessingTask(
        file,
        grid,
        _rules(settings["domains" if file.domain == "source" else "channels"]),
        config.fill,
        cache_path,
        listed.masks.get(file.id),
        _rules(settings.get("pairs", [])),
        listed.cases.label_names,
    )


@dataclass(frozen=True)
class _Checked:
    """Result of the checks of all files."""

    hashes: dict[str, str]
    """SHA-256 of each usable volume, by id."""
    problems: list[str]
    remarks: list[str]


def _checked(
    tasks: list[PreprocessingTask],
    state: dict[str, list[Any]],
    folder: Path,
    config: PrepareConfig,
    progress: bool,
) -> _Checked:
    """Check every file, unless that was done before a kill."""
    hashes = _load_hashes(folder, state)
    if hashes is not None:
        return _Checked(hashes, [], [])
    workers = _workers([task.file for task in tasks], config)
    return _sort_out(tasks, list(map_files(check_file, tasks, workers, "Checking", progress)))


def _sort_out(tasks: list[PreprocessingTask], results: list[CheckResult]) -> _Checked:
    """Sort usable files from others; a copy of another file is a problem."""
    hashes: dict[str, str] = {}
    problems: list[str] = []
    first: dict[str, Path] = {}
    for task, result in zip(tasks, results, strict=True):
        if result.error:
            problems.append(result.error)
        elif result.hash in first:
            problems.append(f"{task.file.path}: is the same file as {first[result.hash]}; leave one out")
        else:
            first[result.hash] = task.file.path
            hashes[task.file.id] = result.hash
    remarks = [remark for result in results for remark in result.remarks]
    return _Checked(hashes, problems, [*remarks, *_image_sizes([result.shape for result in results], tasks[0].grid)])


def _image_sizes(shapes: list[tuple[int, ...]], grid: GridRule) -> list[str]:
    """Return a remark if single slices have several sizes."""
    sizes = sorted({shape[1:] for shape in shapes if shape and shape[0] == 1}, key=np.prod)
    if len(sizes) < 2:
        return []
    least, most = (f"{rows} x {columns}" for rows, columns in (sizes[0], sizes[-1]))
    done = "resized" if grid.fit == "resize" else "cropped or padded"
    return [
        f"images of {len(sizes)} sizes, from {least} to {most} pixels, are {done} to {grid.size[1]} x {grid.size[2]}"
    ]


@contextmanager
def _cache_folder(folder: Path, state: dict[str, list[Any]], hashes: dict[str, str]) -> Iterator[None]:
    """Make the folder of the cache files, which records the state they belong to; remove it after success."""
    with readable_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "checked.json", json.dumps({"state": _key(state), "hashes": hashes}))
    yield
    shutil.rmtree(folder)


def _load_hashes(folder: Path, state: dict[str, list[Any]]) -> dict[str, str] | None:
    """Return the hashes of a check before a kill, unless a file or setting has changed."""
    try:
        saved = json.loads((folder / "checked.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    all_usable = len(saved["hashes"]) == len(state)  # otherwise check again, to report the unusable files
    return dict(saved["hashes"]) if all_usable and saved["state"] == _key(state) else None


def _state(settings: dict[str, Any], listed: PreparationInputs, file: VolumeFile) -> list[Any]:
    """Return what a cache file depends on: the settings, and the names and modification times of its files."""
    return [settings, [str(path) for path in file.files], file.domain, listed.modified(file)]


def _key(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]


def _workers(files: list[VolumeFile], config: PrepareConfig) -> int:
    """Return the number of processes that is worth starting for the size of the input."""
    parts = (part for file in files for path in file.files for part in parts_of(path))
    return min(config.workers, 1 + sum(part.stat().st_size for part in parts) // BYTES_PER_WORKER)


def _check_disk(path: Path, tasks: list[PreprocessingTask]) -> None:
    """Raise InputError if the remaining cache files do not fit on the disk."""
    todo = [task for task in tasks if not task.cache_path.exists()]
    needed = sum(
        int(np.prod(task.grid.size)) * BYTES_PER_VOXEL * (len(task.intensities) + len(task.source_intensities))
        for task in todo
    )
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{path}: needs {needed / 1e6:.1f} MB of disk, {free / 1e6:.1f} MB are free; "
            "free some space or use another folder"
        )


def _record(
    task: PreprocessingTask, listed: PreparationInputs, subject: str, hashes: dict[str, str], config: PrepareConfig
) -> Record:
    cached, file = read_cache_file(task.cache_path), task.file
    row = listed.rows[file.id]
    return Record(
        id=file.id,
        subject=subject,
        split=split_of(subject, config.seed, config.validation, config.test),
        label=listed.labels.label(row),
        affine=cached.affine,
        intervals=cached.intervals,
        file=file.path.name,
        hash=hashes[file.id],
        columns=row.columns,
        source_intervals=cached.source_intervals,
        domain=file.domain,
    )


def _write(
    path: Path, settings: dict[str, Any], records: list[Record], tasks: list[PreprocessingTask], left_out: list[str]
) -> None:
    """Write the store from the cache files."""

    def cached(index: int) -> CachedVolume:
        return read_cache_file(tasks[index].cache_path)

    def source(index: int) -> Voxels:
        images = cached(index).source
        assert images is not None
        return Voxels(images)

    def mask(index: int) -> np.ndarray:
        values = cached(index).mask
        assert values is not None
        return values

    write_store(
        path,
        settings,
        records,
        lambda index: cached(index).voxels,
        left_out,
        source if any(task.file.sources for task in tasks) else None,
        mask if any(task.file.mask for task in tasks) else None,
    )


def _write_sheet(path: Path, tasks: list[PreprocessingTask], records: list[Record]) -> None:
    """Write a contact sheet of evenly spaced volumes of the list, sources before their targets."""
    chosen = np.unique(np.linspace(0, len(tasks) - 1, SHEET_VOLUMES).round().astype(int))
    shown, affines, captions = [], [], []
    for index in chosen:
        cached = read_cache_file(tasks[index].cache_path)
        for title, x in _pictures(cached, tasks[index]):
            shown.append(x)
            affines.append(cached.affine)
            captions.append(f"{title}{records[index].id}")
    contact_sheet(shown, np.array(affines), captions, path)


def _pictures(cached: CachedVolume, task: PreprocessingTask) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the channels of a volume in [-1, 1] with a title, sources before targets, the label map last."""
    sources = [] if cached.source is None else list(cached.source)
    for number, x in enumerate(sources, 1):
        yield f"source {number if len(sources) > 1 else ''} of ".replace("  ", " "), to_float32(x)
    images = cached.voxels.images
    for number, x in enumerate(images, 1):
        yield f"channel {number} of " if len(images) > 1 else "", to_float32(x)
    if cached.voxels.label_map is not None:
        labels = max(1, len(task.label_names) - 1)
        yield "labels of ", cached.voxels.label_map.astype(np.float32) * (2 / labels) - 1
