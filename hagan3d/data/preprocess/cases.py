"""Cases of several channels with label maps: an nnU-Net data set, or a CSV with a column per channel."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hagan3d.data.io.files import exists, named_in, same_file
from hagan3d.data.io.listing import folders_of, unread_files
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.names import canonical
from hagan3d.data.preprocess.metadata import abbreviate, alike, known, missing_values, read_table
from hagan3d.data.store.format import MAX_LABELS
from hagan3d.errors import InputError

IMAGE = "image"  # name of the channel of volumes whose channels are not named
SEGMENTATION = "seg"  # name of a table's column of label maps
RESERVED = ("id", "subject", SEGMENTATION)
KEYS = ("channel_names", "labels", "file_ending")  # of an nnU-Net dataset.json


@dataclass(frozen=True)
class Cases:
    """Volumes with the names of their channels and labels."""

    files: list[VolumeFile]
    channels: tuple[str, ...] = (IMAGE,)
    label_names: tuple[str, ...] = ()
    """Names of the labels of label maps, in the order of their values; empty: no label maps."""
    sources: tuple[str, ...] = ()
    """Names of the channels of the sources of pairs."""
    remarks: tuple[str, ...] = ()
    """Which files are not read, one line each."""

    def __post_init__(self) -> None:
        for names in ((*self.channels, *([SEGMENTATION] if self.label_names else [])), self.sources):
            if same := same_file(names):
                raise InputError(
                    f"the channels {same[0]!r} and {same[1]!r} would be written to files of one name; rename one"
                )


def find_nnunet(folder: Path) -> Cases:
    """List the training cases of an nnU-Net data set (version 2).

    Args:
        folder: Holds dataset.json, `imagesTr/CASE_0000.nii.gz` with a file per channel, and `labelsTr/CASE.nii.gz`.

    Raises:
        InputError: If dataset.json is not usable, or files of a case are missing: one line for each.
    """
    about = _read_dataset(folder / "dataset.json")
    ending, names = about["file_ending"], about["channel_names"]
    channels = tuple(canonical(str(names[key])) for key in sorted(names, key=int))
    images, maps = folder / "imagesTr", folder / "labelsTr"
    for part in (images, maps):
        if not part.is_dir():
            raise InputError(f"{part}: does not exist; an nnU-Net data set has the folders imagesTr and labelsTr")
    ids = sorted({path.name[: -len(ending) - 5] for path in images.iterdir() if _is_image(path, ending)})
    if not ids:
        raise InputError(f"{images}: no file is named CASE_0000{ending}, as nnU-Net expects")
    problems, files = [], []
    for case in ids:
        parts = [images / f"{case}_{number:04d}{ending}" for number in range(len(channels))]
        label_map = maps / f"{case}{ending}"
        missing = [path for path in [*parts, label_map] if not exists(path)]
        problems += [f"{path}: does not exist, but case {case} needs it; add it or remove the case" for path in missing]
        files.append(VolumeFile(parts[0], canonical(case), channels=tuple(parts[1:]), label_map=label_map))
    if problems:
        raise InputError("\n".join(problems))
    names = _checked_names(folder / "dataset.json", channels)
    return Cases(files, names, _label_names(folder, about["labels"]), remarks=_unread(folder, files))


def _unread(folder: Path, files: list[VolumeFile]) -> tuple[str, ...]:
    """Return remarks on files of a data set that belong to no training case."""
    read = {part for file in files for path in file.files for part in parts_of(path)}
    remarks = []
    for part in ("imagesTr", "labelsTr"):
        others = sorted(path.name for path in (folder / part).iterdir() if path not in read and path.name[0] != ".")
        if others:
            remarks.append(f"{folder / part}: {len(others)} files are not read: {abbreviate(others)}")
    return tuple(remarks)


def find_table(path: Path, label_names: tuple[str, ...]) -> Cases:
    """List the cases of a CSV: the columns id, optionally subject and seg, and one column of files per channel.

    Args:
        path: The CSV; paths in it are relative to its folder.
        label_names: Names of the labels of the label maps in column `seg`, in the order of their values.

    Raises:
        InputError: If a column is missing or a file does not exist: one line for each.
    """
    header, lines = read_table(path, RESERVED)
    channels = tuple(name for name in header if name not in RESERVED)
    has_maps = SEGMENTATION in header
    if "id" not in header or not channels:
        raise InputError(f"{path}: must have the column id and a column of files per channel, got {', '.join(header)}")
    if {"source", "target"} <= {name.casefold() for name in header}:
        raise InputError(f"{path}: has the columns source and target, of pairs; use it as --pairs")
    if any(name.casefold() == "mask" for name in channels):
        raise InputError(
            f"{path}: has a column mask, which would be an image channel; use --masks FOLDER, or name it otherwise"
        )
    check_named(path, has_maps, label_names)
    _check_cells(path, lines, (*channels, *([SEGMENTATION] if has_maps else [])))
    files = [_case(path.parent, line, channels) for line in sorted(lines, key=lambda line: line["id"])]
    remarks = alike(path, "subject", "subjects", [line.get("subject", "") for line in lines])
    remarks += missing_values(path, lines, "id", ["subject"] if "subject" in header else [])
    remarks += tuple(unread_files(folders_of(files), [path]))
    return Cases(files, channels, check_label_names(label_names), remarks=remarks)


def check_named(path: Path, has_maps: bool, label_names: tuple[str, ...]) -> None:
    """Raise InputError unless labels are named for a table with the column seg, and for no other."""
    if has_maps != bool(label_names):
        what = "has the column seg, so name its labels" if has_maps else "has no column seg, so leave out the labels"
        raise InputError(f"{path}: {what} (--label_names background liver tumour, in the order of their values)")


def find_channels(path: Path, names: Sequence[str]) -> list[VolumeFile]:
    """List volumes whose channels are columns of a CSV: id and ``names``, in upper or lower case; others are ignored.

    Raises:
        InputError: If a column is missing or a file does not exist: one line for each.
    """
    header, lines = read_table(path, ("id", *names))
    missing = [name for name in ("id", *names) if name not in header]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r} among {', '.join(header)}; use the columns id, {', '.join(names)}"
        )
    cells = [{name: line[name] for name in ("id", *names)} for line in lines]
    _check_cells(path, cells, tuple(names))
    return [_case(path.parent, line, tuple(names)) for line in sorted(cells, key=lambda line: line["id"])]


def _slashes(name: str) -> str:
    """Return advice on a path that is written with the separators of another system."""
    return "; write / between folders" if "\\" in name else ""


def _check_cells(path: Path, lines: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    """Raise InputError unless ids are unique and every column names a file that exists."""
    ids = [line["id"] for line in lines]
    repeated = sorted({name for name in ids if not name or ids.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: the id {repeated[0]!r} is repeated or empty; use one line per id")
    problems = [
        f"{path}: {line['id']} has no {name}; fill it in, or remove the line"
        if not line[name]
        else f"{path}: the {name} of {line['id']}, {path.parent / line[name]}, does not exist{_slashes(line[name])}"
        for line in lines
        for name in columns
        if not line[name] or not exists(named_in(path.parent, line[name]))
    ]
    if problems:
        raise InputError("\n".join(problems))


def check_label_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of labels; InputError if they are not usable."""
    if names and (len(names) < 2 or len(names) > MAX_LABELS or len(set(names)) < len(names)):
        raise InputError(f"label_names: must be 2 to {MAX_LABELS} different names, background first, got {list(names)}")
    return names


def _case(folder: Path, line: dict[str, str], channels: tuple[str, ...]) -> VolumeFile:
    files = {name: named_in(folder, line[name]) for name in channels}
    check_different(line["id"], files)
    first, *others = files.values()
    label_map = named_in(folder, line[SEGMENTATION]) if SEGMENTATION in line else None
    subject = known(line.get("subject"))
    return VolumeFile(first, line["id"], channels=tuple(others), label_map=label_map, subject=subject)


def check_different(id: str, files: Mapping[str, Path]) -> None:
    """Raise InputError if two channels of one volume are the same file."""
    names: dict[str, str] = {}
    for name, path in files.items():
        other = names.setdefault(os.path.realpath(path), name)
        if other != name:
            raise InputError(f"{path}: is both the {other} and the {name} of {id}; use a file for each")


def _read_dataset(path: Path) -> dict[str, Any]:
    """Read and check dataset.json."""
    if not path.is_file():
        raise InputError(f"{path}: does not exist; --nnunet takes the folder of an nnU-Net data set")
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); repair it") from error
    if isinstance(about, dict) and "modality" in about and "channel_names" not in about:
        raise InputError(f"{path}: of nnU-Net version 1; convert it (nnUNetv2_convert_MSD_dataset), or use a CSV")
    missing = [key for key in KEYS if not isinstance(about, dict) or not about.get(key)]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; a data set of nnU-Net has {', '.join(KEYS)}")
    if not isinstance(about["file_ending"], str) or not isinstance(about["labels"], dict):
        raise InputError(f"{path}: file_ending must be text such as .nii.gz, and labels must map names to integers")
    names = about["channel_names"]
    if not isinstance(names, dict) or sorted(names) != sorted(str(number) for number in range(len(names))):
        raise InputError(f"{path}: channel_names must number the channels from 0, got {names}")
    return dict(about)


def _checked_names(path: Path, channels: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in channels if channels.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the channel name {twice[0]!r} is used twice; give every channel its own name")
    return channels


def _label_names(folder: Path, labels: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of labels in the order of their values."""
    path = folder / "dataset.json"
    if not all(type(value) is int for value in labels.values()):
        raise InputError(f"{path}: labels must map each name to one integer; regions of several labels are not read")
    ordered = sorted(labels, key=lambda name: labels[name])
    if [labels[name] for name in ordered] != list(range(len(ordered))):
        raise InputError(
            f"{path}: labels must be 0 (background), 1, 2, ... without gaps, got {abbreviate([str(labels)])}"
        )
    if "ignore" in ordered:
        raise InputError(f"{path}: has the label `ignore`, unknown voxels cannot be generated; use complete label maps")
    return check_label_names(tuple(ordered))


def _is_image(path: Path, ending: str) -> bool:
    stem = path.name[: -len(ending)]
    return (
        path.name[0] != "."
        and path.name.endswith(ending)
        and len(stem) > 5
        and stem[-5] == "_"
        and stem[-4:].isdecimal()
    )
