"""The plan of a preparation: its settings, a task for each volume, and the checks of all files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.config import is_slice
from hagan3d.data.io.files import exists, write_text
from hagan3d.data.io.geometry import GridRule
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.preprocess.cache import CheckResult, PreprocessingTask, check_file
from hagan3d.data.preprocess.facts import CaseFacts, from_plain, to_plain
from hagan3d.data.preprocess.inputs import PreparationInputs
from hagan3d.data.preprocess.intensity import IntensityRule
from hagan3d.data.preprocess.metadata import LEAST_HELD_OUT, splits_of
from hagan3d.data.preprocess.settings import PERCENTILES, WINDOW, ChannelConfig, DomainConfig, PrepareConfig, check_used
from hagan3d.data.preprocess.workers import map_files
from hagan3d.errors import InputError

BYTES_PER_WORKER = 32 * 2**20  # of input: below it, starting a process takes longer than its work
CHANNEL_SETTINGS = ("intensity", "window", "percentiles", "units", "intensities", "channels", "channel_names")
WITHOUT_EFFECT = ("skip_bad", "workers", "class_column", "partial_labels", "masks")  # on voxels beyond files and labels
CHECKED = "checked.json"


def settings_of(config: PrepareConfig, listed: PreparationInputs, sources_as: DomainConfig | None) -> dict[str, Any]:
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
    if sources_as not in (None, DomainConfig()) and not cases.sources:
        raise InputError(
            "source.intensity, source.size and others: are about sources of --pairs or --domains; leave them out"
        )
    if cases.sources:
        default = sources_as or DomainConfig()
        own = [config.intensities[name].intensity for name in cases.sources if name in config.intensities]
        check_used("source.", default.window, default.percentiles, default.intensity, own)
        sources = [_channel(name, config.intensities.get(name), default) for name in cases.sources]
        settings["domains" if cases.files[0].domain else "pairs"] = sources
        settings |= _source_grid(config, default, is_domain=bool(cases.files[0].domain))
    if config.masks is not None:
        settings["masks"] = True  # the name of their folder has no effect
    return dict(json.loads(json.dumps(settings)))


def _source_grid(config: PrepareConfig, source: DomainConfig, *, is_domain: bool) -> dict[str, Any]:
    """Return the settings of the grid of the source domain; none if it is that of the target domain.

    Raises:
        InputError: If the source cannot have a grid of its own.
    """
    size, spacing = source.size or config.size, source.spacing or config.spacing
    fit = config.fit or ("resize" if spacing is None else "crop-pad")
    if (size, spacing, fit) == (config.size, config.spacing, config.fit_used):
        return {}
    if not is_domain:
        raise InputError("source.size, source.spacing: a pair lies on one grid; they are for the domains of --domains")
    if spacing is not None and fit == "resize":
        raise InputError(f"source.spacing: must be unset with --fit resize, got {list(spacing)}; use --fit crop-pad")
    if is_slice(size) != is_slice(config.size):
        raise InputError(
            f"source.size {list(size)}: single slices and volumes do not mix, and size is {list(config.size)}"
        )
    return {"source_grid": {"size": size, "spacing": spacing, "fit": fit}}


def _channel(name: str, own: ChannelConfig | None, default: PrepareConfig | DomainConfig) -> dict[str, Any]:
    """Return the settings of one channel: each its own, or that of all channels.

    Raises:
        InputError: If it has a setting of its own that its intensity does not use.
    """
    own = own or ChannelConfig()
    intensity = own.intensity or default.intensity
    for setting, value, needed in (("window", own.window, "window"), ("percentiles", own.percentiles, "percentiles")):
        if value is not None and intensity != needed:
            raise InputError(f"intensities: {setting} of {name} has no effect with its intensity, {intensity}")
    of_all = default.units_used if isinstance(default, PrepareConfig) else default.units
    window = default.window if intensity in ("window", "labels") else None
    percentiles = default.percentiles if intensity == "percentiles" else None
    return {
        "name": name,
        "intensity": intensity,
        "window": own.window or window or WINDOW,
        "percentiles": own.percentiles or percentiles or PERCENTILES,
        "units": own.units or (of_all if intensity == default.intensity else ""),
    }


def _rules(channels: list[dict[str, Any]]) -> tuple[IntensityRule, ...]:
    return tuple(
        IntensityRule(channel["intensity"], tuple(channel["window"]), tuple(channel["percentiles"]))
        for channel in channels
    )


@dataclass(frozen=True)
class Plan:
    """What a preparation reads, with which settings."""

    listed: PreparationInputs
    config: PrepareConfig
    settings: dict[str, Any]
    """Everything besides the files that determines the content of the store."""
    subjects: dict[str, str]
    """Subject by volume id, of all shards."""
    splits: dict[str, str]
    """Split by subject."""
    states: dict[str, list[Any]]
    """By volume id: what its cache file depends on."""
    tasks: list[PreprocessingTask]

    @property
    def remarks(self) -> list[str]:
        """What is not used of the inputs, which subjects were assumed, and whether too few are held out."""
        held_out = sum(split != "train" for split in self.splits.values())
        if held_out == len(self.splits):
            return [
                *self.listed.remarks,
                f"all {held_out} subjects are held out, none is left for training: use a smaller --validation "
                "or --test, or another --seed",
            ]
        asked = self.config.validation + self.config.test > 0 and not self.listed.cases.sources
        if not asked or held_out >= LEAST_HELD_OUT or len(self.splits) <= LEAST_HELD_OUT:
            return self.listed.remarks
        return [
            *self.listed.remarks,
            f"{held_out} of {len(self.splits)} subjects are held out, and `evaluate` needs {LEAST_HELD_OUT}: hold out "
            "more with --validation, or train on all with --validation 0",
        ]

    @property
    def key(self) -> str:
        """Hash of all states."""
        return key_of(self.states)

    def split(self, name: str) -> str:
        """Return the split of a volume."""
        return self.splits[self.subjects[name]]

    def facts(self, task: PreprocessingTask, result: CheckResult) -> CaseFacts:
        """Return the facts of a checked volume."""
        file = task.file
        row = self.listed.rows[file.id]
        subject, state = self.subjects[file.id], self.listed.state(file)
        return CaseFacts(file.id, subject, self.split(file.id), row.class_name, result.facts, state)


def make_plan(listed: PreparationInputs, config: PrepareConfig, sources_as: DomainConfig | None, folder: Path) -> Plan:
    """Return the plan of a preparation, with a task for each volume, whose cache file is in ``folder``."""
    settings = settings_of(config, listed, sources_as)
    files = listed.labelled
    # of all shards, so that they agree on the split
    subjects = {file.id: listed.subject(file, config.subject) for file in listed.cases.files}
    splits = splits_of(subjects.values(), config.seed, config.validation, config.test)
    states = {file.id: [settings, file.domain, listed.state(file)] for file in files}
    tasks = [_task_of(listed, file, config, settings, folder / f"{key_of(states[file.id])}.npz") for file in files]
    return Plan(listed, config, settings, subjects, splits, states, tasks)


def _task_of(
    listed: PreparationInputs, file: VolumeFile, config: PrepareConfig, settings: dict[str, Any], cache_path: Path
) -> PreprocessingTask:
    return PreprocessingTask(
        file,
        grid_rule(settings, file.domain),
        _rules(settings["domains" if file.domain == "source" else "channels"]),
        config.fill,
        cache_path,
        listed.masks.get(file.id),
        _rules(settings.get("pairs", [])),
        listed.cases.label_names,
        listed.cases.channels if file.domain != "source" else listed.cases.sources,
        listed.cases.sources if file.sources else (),
    )


def grid_rule(settings: Mapping[str, Any], domain: str = "") -> GridRule:
    """Return the grid of the volumes of a preparation, or of one of its domains."""
    own = settings.get("source_grid", settings) if domain == "source" else settings
    spacing = None if own["spacing"] is None else tuple(own["spacing"])
    return GridRule(
        tuple(own["size"]), settings["orientation"], settings["axis"], spacing, own["fit"], settings["trim"]
    )


def grid_lines(settings: Mapping[str, Any]) -> list[str]:
    """Describe the grid of each of two domains, one line each."""
    if "domains" not in settings:
        return []
    return [f"grid of the {domain} domain: {grid_rule(settings, domain)}" for domain in ("source", "target")]


@dataclass(frozen=True)
class Checked:
    """Result of the checks of all files."""

    results: dict[str, CheckResult]
    """Of each volume, by id."""
    usable: dict[str, str]
    """SHA-256 of each usable volume, by id."""
    problems: list[str]
    """Why the others are not usable, one line each."""
    remarks: list[str]


def check_all(plan: Plan, folder: Path | None, progress: bool) -> Checked:
    """Check every file, unless that was done before a kill and its results are in ``folder``."""
    results = None if folder is None else _load_results(folder, plan)
    if results is None:
        workers = count_workers([task.file for task in plan.tasks], plan.config)
        found = map_files(check_file, plan.tasks, workers, "Checking", progress)
        results = {task.file.id: result for task, result in zip(plan.tasks, found, strict=True)}
    return _sort_out(plan.tasks, results)


def _sort_out(tasks: list[PreprocessingTask], results: dict[str, CheckResult]) -> Checked:
    """Sort usable files from others; a copy of another file, or of its voxels in another format, is a problem."""
    usable: dict[str, str] = {}
    problems: list[str] = []
    first: dict[Any, VolumeFile] = {}
    for task in tasks:
        result = results[task.file.id]
        if result.error:
            problems.append(result.error)
            continue
        voxels = tuple(fact.voxels for fact in result.facts)
        copied = result.hash if result.hash in first else voxels if all(voxels) else None
        if copied in first:
            what = "is the same file as" if copied == result.hash else "has the same voxels as"
            problems.append(_copy_of(task.file, first[copied], what))
        else:
            first |= dict.fromkeys((result.hash, voxels), task.file)
            usable[task.file.id] = result.hash
    remarks = [remark for result in results.values() for remark in result.remarks]
    shapes: dict[GridRule, list[tuple[int, ...]]] = {}
    for task in tasks:
        facts = results[task.file.id].facts
        shapes.setdefault(task.grid, []).extend(fact.shape for fact in facts[:1])
    sizes = [line for grid, own in shapes.items() for line in _image_sizes(own, grid)]
    return Checked(results, usable, problems, [*remarks, *sizes])


def _copy_of(file: VolumeFile, first: VolumeFile, what: str) -> str:
    """Return a line on a volume that is in the list already."""
    if file.path == first.path:
        return f"{file.path}: has the ids {first.id} and {file.id}; leave one out"
    return f"{file.path}: {what} {first.path} (ids {first.id} and {file.id}); leave one out"


def _image_sizes(shapes: Iterable[tuple[int, ...]], grid: GridRule) -> list[str]:
    """Return a remark if single slices on one grid have several sizes."""
    sizes = sorted({shape[1:] for shape in shapes if shape[0] == 1}, key=np.prod)
    if len(sizes) < 2:
        return []
    least, most = (f"{rows} x {columns}" for rows, columns in (sizes[0], sizes[-1]))
    done = "resized" if grid.fit == "resize" else "cropped or padded"
    return [
        f"images of {len(sizes)} sizes, from {least} to {most} pixels, are {done} to {grid.size[1]} x {grid.size[2]}"
    ]


def save_results(folder: Path, plan: Plan, checked: Checked) -> None:
    """Save the results of the checks, so that they need not be repeated after a kill."""
    results = {
        name: {"hash": one.hash, "remarks": list(one.remarks), "facts": to_plain(one.facts)}
        for name, one in checked.results.items()
        if not one.error
    }
    write_text(folder / CHECKED, json.dumps({"state": plan.key, "results": results}))


def _load_results(folder: Path, plan: Plan) -> dict[str, CheckResult] | None:
    """Return the results of a check before a kill, unless a file or setting has changed."""
    try:
        saved = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    all_usable = len(saved["results"]) == len(plan.tasks)  # otherwise check again, to report the unusable files
    if not all_usable or saved["state"] != plan.key:
        return None
    return {
        name: CheckResult(one["hash"], remarks=tuple(one["remarks"]), facts=from_plain(one["facts"]))
        for name, one in saved["results"].items()
    }


def key_of(state: Any) -> str:
    """Return a hash of plain JSON types, as a file name."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]


def count_workers(files: list[VolumeFile], config: PrepareConfig) -> int:
    """Return the number of processes that is worth starting for the size of the input."""
    parts = (part for file in files for path in file.files for part in parts_of(path))
    return min(config.workers, 1 + sum(part.stat().st_size for part in parts if exists(part)) // BYTES_PER_WORKER)
