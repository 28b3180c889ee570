"""Files to a store: check all files, preprocess them in parallel, write one HDF5 file; resumable after a kill."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.config import Size
from hagan3d.data.io.files import locked, readable_write_errors
from hagan3d.data.io.geometry import check_orientation
from hagan3d.data.pictures import contact_sheet
from hagan3d.data.preprocess.cache import (
    CachedVolume,
    PreprocessingTask,
    check_file,
    content_hash,
    read_cache_file,
    write_cache_file,
)
from hagan3d.data.preprocess.checking import (
    Checked,
    Plan,
    check_all,
    count_workers,
    grid_lines,
    grid_rule,
    make_plan,
    save_results,
)
from hagan3d.data.preprocess.facts import CaseFacts, check_neighbours, read_report, write_report
from hagan3d.data.preprocess.inputs import Inputs, collect_inputs
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.preprocess.workers import map_files
from hagan3d.data.store.format import to_float32
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError

SHEET_VOLUMES = 12  # on the contact sheet
BYTES_PER_VOXEL = 2
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
    source_size: Size | None = None
    """Voxels D, H, W of the source domain, where they differ from those of the target domain."""
    left_out: tuple[str, ...] = ()
    """Why files were left out, one line each; ids only if the store already existed."""
    sheet: Path | None = None
    """Contact sheet."""
    remarks: tuple[str, ...] = ()
    """What was done to files that their user may not expect, one line each."""
    done_before: bool = False
    """Whether the store already existed, complete."""


@dataclass(frozen=True)
class Inspected:
    """Result of `inspect`."""

    cases: tuple[CaseFacts, ...]
    """Usable volumes."""
    remarks: tuple[str, ...]
    """What would be done to files that their user may not expect, one line each."""
    problems: tuple[str, ...]
    """Unusable files and lines, one line each."""
    grids: tuple[str, ...] = ()
    """The grid of each of two domains, one line each."""


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
        sources_as: Intensities of the sources of pairs, or intensities and grid of the source domain.

    Raises:
        InputError: With one line per unusable file, unless `config.skip_bad`; or if `output` is another store.
    """
    path = _output_path(output, config)
    folder = path.with_name(f".{path.name}.cache")
    plan = _plan(inputs, config, sources_as, folder)
    if path.exists():
        return _check_finished(path, plan, folder)
    check_neighbours(path)
    checked = check_all(plan, folder, progress)
    problems = plan.listed.problems + checked.problems
    usable = [task for task in plan.tasks if task.file.id in checked.usable]
    if not usable or (problems and not config.skip_bad):
        raise InputError("\n".join(problems))
    _check_disk(path, usable)
    remarks = plan.remarks + checked.remarks
    with _cache_folder(folder, plan, checked):
        _write_cache_files(usable, config, progress)
        records = [_record(task, plan, checked.usable) for task in usable]
        _write_sheet(sheet := path.with_suffix(".png"), usable, records)
        cases = [plan.facts(task, checked.results[task.file.id]) for task in usable]
        left_out = [file for file in plan.listed.files if file.id not in checked.usable]
        unreadable = [file for file in left_out if file.id in checked.results and checked.results[file.id].error]
        states = {file.id: plan.listed.state(file) for file in unreadable}
        write_report(path, plan.settings, cases, remarks, problems, states)
        _write(path, plan.settings, records, usable, [file.id for file in left_out])
    return Prepared(path, len(records), *_counts(plan), _source_size(plan), tuple(problems), sheet, tuple(remarks))


def inspect(
    inputs: Inputs, config: PrepareConfig, progress: bool = True, sources_as: DomainConfig | None = None
) -> Inspected:
    """Check all files and return what `prepare` would read; write nothing.

    Arguments and errors are those of `prepare`, but unusable files are part of the result.
    """
    plan = _plan(inputs, config, sources_as, Path())
    checked = check_all(plan, None, progress)
    cases = [plan.facts(task, checked.results[task.file.id]) for task in plan.tasks if task.file.id in checked.usable]
    problems = plan.listed.problems + checked.problems
    remarks = plan.remarks + checked.remarks
    return Inspected(tuple(cases), tuple(remarks), tuple(problems), tuple(grid_lines(plan.settings)))


def _plan(inputs: Inputs, config: PrepareConfig, sources_as: DomainConfig | None, folder: Path) -> Plan:
    check_orientation(config.orientation)
    return make_plan(collect_inputs(inputs, config), config, sources_as, folder)


def _counts(plan: Plan) -> tuple[int, int, int]:
    """Return the numbers of image channels, labels and source channels."""
    cases = plan.listed.cases
    return len(cases.channels), len(cases.label_names), len(cases.sources)


def _source_size(plan: Plan) -> Size | None:
    """Return the size of the source domain, if it has another than the target domain."""
    size = grid_rule(plan.settings, "source").size
    return None if size == grid_rule(plan.settings).size else size


def _write_cache_files(tasks: list[PreprocessingTask], config: PrepareConfig, progress: bool) -> None:
    """Preprocess the volumes that have no cache file yet."""
    todo = [task for task in tasks if not task.cache_path.exists()]
    workers = count_workers([task.file for task in tasks], config)
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


def _check_finished(path: Path, plan: Plan, folder: Path) -> Prepared:
    """Check that the store at `path` has the requested settings and files."""
    store, listed = Store(path), plan.listed
    stored = store.settings | {"shard": list(store.shard)}
    different = sorted(name for name in {*plan.settings, *stored} if plan.settings.get(name) != stored.get(name))
    if different:
        raise InputError(f"{path}: was made with other settings ({', '.join(different)}); {OTHER_OUTPUT}")
    if {file.id for file in listed.files} != {*store.ids, *store.left_out}:
        raise InputError(f"{path}: was made from other files; {OTHER_OUTPUT}")
    made = zip(store.ids, store.subjects, store.splits, strict=True)
    moved = [name for name, *own in made if own != [plan.subjects[name], plan.split(name)]]
    if moved:
        raise InputError(f"{path}: was made with other subjects or splits, as of {moved[0]}; {OTHER_OUTPUT}")
    report, hashes = read_report(path), dict(zip(store.ids, store.hashes, strict=True))
    changed = [task for task in plan.tasks if report["states"].get(task.file.id) != listed.state(task.file)]
    for task in changed:
        file = task.file
        if file.id in hashes and content_hash(listed.paths(file)) != hashes[file.id]:
            raise InputError(f"{path}: is older than {file.path}, which has changed; {OTHER_OUTPUT}")
        was_unreadable = file.id in report["states"] and file.id not in hashes
        if was_unreadable and not check_file(task).error:
            raise InputError(f"{path}: was made without {file.path}, which can be read now; {OTHER_OUTPUT}")
    shutil.rmtree(folder, ignore_errors=True)
    sheet, remarks = path.with_suffix(".png"), tuple(report["remarks"])
    counts, left_out = (*_counts(plan), _source_size(plan)), tuple(store.left_out)
    return Prepared(path, len(store), *counts, left_out, sheet, remarks, done_before=True)


@contextmanager
def _cache_folder(folder: Path, plan: Plan, checked: Checked) -> Iterator[None]:
    """Make the folder of the cache files, which records the state they belong to; remove it after success."""
    with readable_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"{folder.parent}: another process makes this store; wait for it, or use another --output"):
        save_results(folder, plan, checked)
        yield
        shutil.rmtree(folder)


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


def _record(task: PreprocessingTask, plan: Plan, hashes: dict[str, str]) -> Record:
    cached, file = read_cache_file(task.cache_path), task.file
    row = plan.listed.rows[file.id]
    return Record(
        id=file.id,
        subject=plan.subjects[file.id],
        split=plan.split(file.id),
        label=plan.listed.labels.label(row),
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
