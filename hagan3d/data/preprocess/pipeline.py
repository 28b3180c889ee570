"""Files to a store: check them all, resample them in parallel, write one file; after a kill, go on from there."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.io.files import readable_write_errors, write_text
from hagan3d.data.io.geometry import GridRule, check_orientation
from hagan3d.data.io.volumes import Source, find_volumes
from hagan3d.data.pictures import contact_sheet
from hagan3d.data.preprocess.intensity import IntensityRule
from hagan3d.data.preprocess.labels import Labels, Row, match_rows, read_labels, some, split_of, subject_of
from hagan3d.data.preprocess.resample import SCALE, Checked, Task, check_file, content_hash, make_part, read_part
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.preprocess.workers import map_files
from hagan3d.data.store.store import Record, Store, write_store
from hagan3d.errors import InputError

Inputs = Path | str | Iterable[Path | str | Source]

SHEET_VOLUMES = 12  # on the contact sheet
BYTES_PER_VOXEL = 2
BYTES_PER_WORKER = 32 * 2**20  # of input: a process takes a second to start, so it must have something to do


@dataclass(frozen=True)
class Prepared:
    """What `prepare` leaves behind."""

    path: Path
    """The store, or one shard of it."""
    volumes: int
    left_out: tuple[str, ...] = ()
    """Why files were left out, one line each; ids only, if the store was there before."""
    sheet: Path | None = None
    """Contact sheet."""
    done_before: bool = False
    """Whether the store was already there, whole."""


def prepare(
    inputs: Inputs,
    output: Path | str,
    config: PrepareConfig,
    progress: bool = True,
    sources_as: DomainConfig | None = None,
) -> Prepared:
    """Make a store of volumes.

    All files are checked before anything is written. What is done survives a kill: the same call goes on from there,
    and the store is the same as if it had never stopped. A finished store of the same settings and files stays.

    Args:
        inputs: Folders, lists or files (`find_volumes`); or volumes that were found already, pairs among them
            (`hagan3d.data.preprocess.pairing`).
        output: The .h5 file to write; with `config.shard` the folder of the shards.
        config: Settings.
        progress: Whether to show a bar on stderr.
        sources_as: Intensities of the sources of pairs, or of the source domain.

    Raises:
        InputError: With one line per file that cannot be used, unless `config.skip_bad`; or if there is a store
            of other settings or files at `output`.
    """
    check_orientation(config.orientation)
    path = _target(Path(output), config)
    labels = read_labels(Path(config.labels), config.class_column) if config.labels else Labels()
    sources, rows, unlabelled = _sources(inputs, labels, config)
    settings = _settings(config, labels) | _source_settings(sources, sources_as)
    work = path.with_name(f".{path.name}.parts")
    masks = _masks(sources, config)
    if path.exists():
        return _finished(path, settings, sources, masks, work)
    labelled = [source for source in sources if source.id in rows]
    subjects = {source.id: _subject(source, rows[source.id], config) for source in labelled}
    tasks, bad, hashes = _checked_tasks(labelled, masks, config, settings, work, progress, sources_as)
    bad = unlabelled + bad
    if not tasks or (bad and not config.skip_bad):
        raise InputError("\n".join(bad))
    _check_disk(path, tasks)
    with _kept(work, _state(settings, labelled, masks), hashes):
        todo = [task for task in tasks if not task.part.exists()]
        for _ in map_files(make_part, todo, _workers(labelled, config), "Resampling", progress):
            pass
        records = [_record(task, rows, subjects, hashes, labels, config) for task in tasks]
        sheet = path.with_suffix(".png")
        _write_sheet(sheet, tasks, records)
        used = {record.id for record in records}
        left_out = [source.id for source in sources if source.id not in used]
        _write(path, settings, records, tasks, left_out)
    return Prepared(path, len(records), tuple(bad), sheet)


def _write(path: Path, settings: dict[str, Any], records: list[Record], tasks: list[Task], left_out: list[str]) -> None:
    """Write the store of the parts of all tasks."""

    def reader(name: str) -> Callable[[int], np.ndarray]:
        return lambda index: getattr(read_part(tasks[index].part), name)

    sources = reader("source") if any(task.source.partner for task in tasks) else None
    masks = reader("mask") if any(task.source.mask for task in tasks) else None
    write_store(path, settings, records, reader("voxels"), left_out, sources, masks)


def _source_settings(sources: list[Source], sources_as: DomainConfig | None) -> dict[str, Any]:
    """What a store says of its sources: nothing, unless it has some."""
    name = "domains" if any(source.domain for source in sources) else "pairs"
    if name == "pairs" and not any(source.partner for source in sources):
        return {}
    return {name: json.loads(json.dumps(asdict(sources_as or DomainConfig())))}


def _subject(source: Source, row: Row, config: PrepareConfig) -> str:
    return row.subject or source.subject or subject_of(source.id, config.subject)


def _target(output: Path, config: PrepareConfig) -> Path:
    """File to write."""
    if config.shard is None:
        if output.suffix != ".h5" or output.is_dir():
            raise InputError(f"{output}: want a file name that ends in .h5 (a folder goes with --shard k/n)")
        return output
    if output.suffix == ".h5" or output.is_file():
        raise InputError(f"{output}: want a folder for the shards, not a file")
    k, n = config.part
    return output / f"shard-{k:03d}-of-{n:03d}.h5"


def _sources(inputs: Inputs, labels: Labels, config: PrepareConfig) -> tuple[list[Source], dict[str, Row], list[str]]:
    """The volumes of this shard, their lines of the labels file, and what is wrong with that file, a line each."""
    given = [inputs] if isinstance(inputs, Path | str) else list(inputs)
    listed = [item for item in given if isinstance(item, Source)]
    sources = listed or find_volumes([item for item in given if not isinstance(item, Source)])
    k, n = config.part
    mine = sources[k - 1 :: n]
    if not mine:
        raise InputError(f"shard {k}/{n}: there are {len(sources)} volumes only; use fewer shards")
    if not config.labels:
        return mine, {source.id: Row() for source in mine}, []
    rows, missing, unknown = match_rows(labels, [source.id for source in sources])
    if config.partial_labels:
        return mine, {source.id: Row() for source in mine} | rows, []
    bad, remedy = [], "correct the id, or accept it by --partial_labels true"
    if missing:
        bad.append(f"{config.labels}: has no line for {len(missing)} volumes, {some(missing)}; {remedy}")
    if unknown:
        bad.append(f"{config.labels}: has {len(unknown)} lines without a volume, {some(unknown)}; {remedy}")
    return mine, rows, bad


def _settings(config: PrepareConfig, labels: Labels) -> dict[str, Any]:
    """Everything that a stored volume and its record follow from, besides the files."""
    settings = asdict(config)
    for name in (
        "skip_bad",
        "workers",
        "class_column",
        "partial_labels",
        "masks",
    ):  # change nothing, or are part of the labels
        del settings[name]
    settings |= {
        "fit": config.fit_used,
        "units": config.units_used,
        "labels": labels.hash if config.labels else "",
        "class_names": list(labels.class_names),
        "columns": list(labels.columns),
        "shard": list(config.part),
    }
    if config.masks is not None:
        settings["masks"] = True  # whatever their folder is called
    return dict(json.loads(json.dumps(settings)))


def _finished(
    path: Path, settings: dict[str, Any], sources: list[Source], masks: dict[str, Path], work: Path
) -> Prepared:
    """Make sure that the store at `path` is the one asked for."""
    store = Store(path)
    made = store.settings | {"shard": list(store.shard)}
    remedy = "choose another --output, or delete it"
    odd = sorted(name for name in {*settings, *made} if settings.get(name) != made.get(name))
    if odd:
        raise InputError(f"{path}: was made with other settings ({', '.join(odd)}); {remedy}")
    if {source.id for source in sources} != {*store.ids, *store.left_out}:
        raise InputError(f"{path}: was made from other files; {remedy}")
    written = path.stat().st_mtime_ns
    hashes = dict(zip(store.ids, store.hashes, strict=True))
    for source in sources:
        mask = masks.get(source.id)
        found = content_hash(source.path, mask, source.partner) if _changed(source, masks) > written else None
        if found is not None and found != hashes.get(source.id, ""):
            raise InputError(f"{path}: is older than {source.path}, which has changed; {remedy}")
    shutil.rmtree(work, ignore_errors=True)
    return Prepared(path, len(store), tuple(store.left_out), path.with_suffix(".png"), done_before=True)


def _checked_tasks(
    sources: list[Source],
    masks: dict[str, Path],
    config: PrepareConfig,
    settings: dict[str, Any],
    work: Path,
    progress: bool,
    sources_as: DomainConfig | None,
) -> tuple[list[Task], list[str], dict[str, str]]:
    """Check every file: tasks for those that can be used, a line for each that cannot, hashes by id."""
    grid = GridRule(config.size, config.orientation, config.axis, config.spacing, config.fit_used, config.trim)
    own, other = (IntensityRule(c.intensity, c.window, c.percentiles) for c in (config, sources_as or DomainConfig()))
    state = _state(settings, sources, masks)
    tasks = [
        Task(
            source,
            grid,
            other if source.domain == "source" else own,
            config.fill,
            work / f"{_key(state[source.id])}.npz",
            masks.get(source.id),
            other,
        )
        for source in sources
    ]
    hashes = _remembered(work, state)
    bad: list[str] = []
    if hashes is None:
        found = list(map_files(check_file, tasks, _workers(sources, config), "Checking", progress))
        bad, hashes = _judged(tasks, found)
    return [task for task in tasks if task.source.id in hashes], bad, hashes


def _judged(tasks: list[Task], found: list[Checked]) -> tuple[list[str], dict[str, str]]:
    """Lines for bad files, and the hashes of good ones; a file with the bytes of one before it is bad."""
    bad, hashes, first = [], {}, dict[str, Path]()
    for task, checked in zip(tasks, found, strict=True):
        path = task.source.path
        if checked.error:
            bad.append(checked.error)
        elif checked.hash in first:
            bad.append(f"{path}: is the same file as {first[checked.hash]}; leave one out")
        else:
            first[checked.hash] = path
            hashes[task.source.id] = checked.hash
    return bad, hashes


@contextmanager
def _kept(work: Path, state: dict[str, list[Any]], hashes: dict[str, str]) -> Iterator[None]:
    """Keep parts in a folder that says what they are of; remove it once the store is there."""
    memo = {"state": _key(state), "hashes": hashes}
    with readable_write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    write_text(work / "checked.json", json.dumps(memo))
    yield
    shutil.rmtree(work)


def _remembered(work: Path, state: dict[str, list[Any]]) -> dict[str, str] | None:
    """Hashes from a check before a kill, if nothing has changed since."""
    try:
        memo = json.loads((work / "checked.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    all_good = len(memo["hashes"]) == len(state)  # else check again, to be able to say what is wrong
    return dict(memo["hashes"]) if all_good and memo["state"] == _key(state) else None


def _state(settings: dict[str, Any], sources: list[Source], masks: dict[str, Path]) -> dict[str, list[Any]]:
    """What the part of each volume follows from, by id: changes with the settings and with any file's name or time."""
    return {
        source.id: [settings, [str(file) for file in source.files], source.domain, _changed(source, masks)]
        for source in sources
    }


def _key(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]


def _workers(sources: list[Source], config: PrepareConfig) -> int:
    """Processes that are worth starting."""
    paths = [path for source in sources for path in source.files]
    files = (file for path in paths for file in (path.iterdir() if path.is_dir() else [path]))
    return min(config.workers, 1 + sum(file.stat().st_size for file in files) // BYTES_PER_WORKER)


def _changed(source: Source, masks: dict[str, Path]) -> int:
    """When a volume, or its mask, was last changed, ns."""
    paths = [*source.files, *([masks[source.id]] if source.id in masks else [])]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return max(file.stat().st_mtime_ns for file in files)


def _masks(sources: list[Source], config: PrepareConfig) -> dict[str, Path]:
    """Masks by the id of their volume."""
    if config.masks is None:
        return {source.id: source.mask for source in sources if source.mask is not None}
    found = find_volumes(config.masks)
    masks = {}
    for source in sources:
        own = [mask.path for mask in found if _belongs(mask.id, source.id)]
        if len(own) != 1:
            raise InputError(
                f"{config.masks}: has {len(own)} masks for {source.id}; want one, named as it or beginning so"
            )
        masks[source.id] = own[0]
    return masks


def _belongs(mask_id: str, volume_id: str) -> bool:
    return mask_id.startswith(volume_id) and not mask_id[len(volume_id) : len(volume_id) + 1].isalnum()


def _check_disk(path: Path, tasks: list[Task]) -> None:
    """Raise InputError if the parts cannot fit."""
    todo = [task for task in tasks if not task.part.exists()]
    needed = sum(int(np.prod(task.grid.size)) * BYTES_PER_VOXEL * (2 if task.source.partner else 1) for task in todo)
    place = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{path}: needs {needed / 1e6:.1f} MB of disk, {free / 1e6:.1f} MB are free; make room or use another place"
        )


def _record(
    task: Task,
    rows: dict[str, Row],
    subjects: dict[str, str],
    hashes: dict[str, str],
    labels: Labels,
    config: PrepareConfig,
) -> Record:
    part, source = read_part(task.part), task.source
    row, subject = rows[source.id], subjects[source.id]
    return Record(
        id=source.id,
        subject=subject,
        split=split_of(subject, config.seed, config.validation, config.test),
        label=labels.label(row),
        affine=part.affine,
        lo=part.lo,
        hi=part.hi,
        source=source.path.name,
        hash=hashes[source.id],
        numbers=row.numbers,
        source_interval=part.source_interval,
        domain=source.domain,
    )


def _write_sheet(path: Path, tasks: list[Task], records: list[Record]) -> None:
    """Picture of some volumes, evenly taken from all."""
    chosen = np.unique(np.linspace(0, len(tasks) - 1, SHEET_VOLUMES).round().astype(int))
    parts = [read_part(tasks[index].part) for index in chosen]
    shown, affines, captions = [], [], []
    for index, part in zip(chosen, parts, strict=True):
        for voxels, name in ((part.source, "source of "), (part.voxels, "")):
            if voxels is not None:
                shown.append(voxels / np.float32(SCALE))
                affines.append(part.affine)
                captions.append(f"{name}{records[index].id}")
    contact_sheet(shown, np.array(affines), captions, path)
