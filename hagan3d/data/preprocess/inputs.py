"""Inputs of a preparation: the volumes of this shard with their labels, subjects and masks."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hagan3d.data.io.files import exists
from hagan3d.data.io.listing import find_volumes, unread_files
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import VolumeFile, num_frames
from hagan3d.data.preprocess import identity
from hagan3d.data.preprocess.cases import Cases, find_nnunet, find_table
from hagan3d.data.preprocess.metadata import LabelRow, LabelTable, abbreviate, match_rows, read_labels, subject_of
from hagan3d.data.preprocess.pairing import find_domains, find_pairs
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.errors import InputError

Inputs = Path | str | Iterable[Path | str] | Cases
TABLE_SUFFIX = ".csv"
BIDS = 2  # rank of a participant of BIDS among the names of a subject
VOLUME = 5  # rank of a volume's own id
FILE = 6  # rank of the path of a file


@dataclass(frozen=True)
class PreparationInputs:
    """The volumes of one shard and their metadata."""

    files: list[VolumeFile]
    rows: dict[str, LabelRow]
    """Line of the labels CSV by volume id; a volume without a line is left out."""
    masks: dict[str, Path]
    """Mask by volume id."""
    labels: LabelTable
    problems: list[str]
    """Mismatches of volumes and the labels CSV, one line each."""
    cases: Cases
    """All volumes of all shards, with the names of channels and labels."""
    patients: dict[str, str]
    """PatientID by volume id, of DICOM of more than one patient; else the study, of volumes that share one."""

    remarks: list[str]
    """What is not used of the labels CSV, and which subjects were assumed, one line each."""

    @property
    def labelled(self) -> list[VolumeFile]:
        """The volumes of this shard that have a line, in order."""
        return [file for file in self.files if file.id in self.rows]

    def subject(self, file: VolumeFile, rule: str | None) -> str:
        """Return the subject id: of the labels CSV, else of the table of files, else by the rule.

        Without a rule, volumes that match one line of the labels CSV are of one subject, as sessions of a participant
        are, and so are volumes of one PatientID or study of DICOM, of one participant of BIDS, or that share a file.
        """
        named = self._named_subject(file)
        if named or rule is not None:
            return named or subject_of(file.id, rule)
        return self.shared_subjects[file.id]

    def _named_subject(self, file: VolumeFile) -> str | None:
        return self.rows.get(file.id, LabelRow()).subject or (None if file.domain else file.subject)

    @cached_property
    def shared_subjects(self) -> dict[str, str]:
        """Return the subject of each volume.

        It is one for volumes that share a line, a participant of BIDS, a name in domains, a PatientID or a file. It is
        named by the subject in a table, else by the first of these that there is, else by the id of the volume.
        """
        counts = Counter(row.id for row in self.rows.values())
        shared = {name: row.id for name, row in self.rows.items() if row.id and counts[row.id] > 1}
        participants = identity.participants(self.cases.files)
        names: dict[tuple[int, str], set[tuple[int, str]]] = {}
        for file in self.cases.files:
            known = (
                self._named_subject(file),
                shared.get(file.id),
                None,  # of BIDS, which may be several
                file.subject if file.domain else None,
                self.patients.get(file.id),
                file.id,
            )
            joined = {(rank, name) for rank, name in enumerate(known) if name}
            joined |= {(BIDS, name) for name in participants[file.id]}
            joined |= {(FILE, os.path.realpath(path)) for path in (file.path, *file.channels, *file.sources)}
            joined |= {other for name in joined for other in names.get(name, ())}
            names |= dict.fromkeys(joined, joined)
        return {file.id: min(names[(VOLUME, file.id)])[1] for file in self.cases.files}

    def state(self, file: VolumeFile) -> str:
        """Return a hash that changes if a file of a volume is changed, replaced, added or removed.

        Names, sizes, times and inodes are looked at, not the content. Dates of content alone would not do: a copy may
        keep the old one.
        """
        parts = [part for path in self.paths(file) for part in parts_of(path)]
        stats = [(str(part), part.stat()) for part in parts if exists(part)]  # what is missing is named by its reader
        facts = [(name, it.st_size, it.st_mtime_ns, it.st_ctime_ns, it.st_ino) for name, it in stats]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def paths(self, file: VolumeFile) -> list[Path]:
        """Return all files of a volume, the mask of its z-score included, each once."""
        return list(dict.fromkeys([*file.files, *([self.masks[file.id]] if file.id in self.masks else [])]))


def find_inputs(
    inputs: Sequence[Path | str] | None,
    pairs: Sequence[Path | str] | None = None,
    domains: Sequence[Path | str] | None = None,
    nnunet: Path | str | None = None,
    label_names: tuple[str, ...] = (),
) -> Inputs:
    """Return the inputs of `prepare` from the options of the command; of the first four exactly one is given.

    Raises:
        InputError: If none or several are given, or they are not usable.
    """
    if sum(given is not None for given in (inputs, pairs, domains, nnunet)) != 1:
        raise InputError("--input, --nnunet, --pairs, --domains: use exactly one of them")
    if pairs is not None:
        return find_pairs(pairs, label_names)
    if nnunet is not None:
        return find_nnunet(Path(nnunet))
    return find_domains(domains) if domains is not None else list(inputs or ())


def collect_inputs(inputs: Inputs, config: PrepareConfig) -> PreparationInputs:
    """List the volumes of this shard and match them with the labels CSV and the masks.

    Raises:
        InputError: If there are no volumes, or the labels CSV or the masks are not usable.
    """
    labels = read_labels(Path(config.labels), config.class_column) if config.labels else LabelTable()
    cases = find_cases(inputs, config)
    _check_intensities(cases, config)
    files = cases.files
    k, n = config.shard_position
    own = files[k - 1 :: n]
    if not own:
        raise InputError(f"shard: {k}/{n} is empty, as there are {len(files)} volumes only; use fewer shards")
    rows, mismatches = _match_labels(files, own, labels, config)
    problems, accepted = ([], mismatches) if config.partial_labels else (mismatches, [])
    patients, remarks = identity.patients(files)
    remarks += [*identity.split_series(files), *identity.repeated_files(files)]
    masks, unused = _find_masks(own, files, config)
    remarks = [*cases.remarks, *labels.remarks, *accepted, *unused, *remarks]
    found = PreparationInputs(own, rows, masks, labels, problems, cases, patients, remarks)
    if config.subject is None and not any(row.subject for row in rows.values()):
        remarks += identity.folders_of_several(files, _folders(inputs), found.shared_subjects)
    return found


def find_cases(inputs: Inputs, config: PrepareConfig) -> Cases:
    """List the volumes of folders, lists, files or a CSV of cases, with the names of their channels.

    Raises:
        InputError: If no volume is found, a table is invalid, or the channel or label names do not fit.
    """
    if isinstance(inputs, Cases):
        cases = inputs
    else:
        given = [Path(inputs)] if isinstance(inputs, Path | str) else [Path(item) for item in inputs]
        if len(given) == 1 and given[0].suffix.lower() == TABLE_SUFFIX:
            cases = find_table(given[0], config.label_names)
        else:
            _check_no_nnunet(given)
            tables = [Path(table) for table in (config.labels,) if table]
            found = find_volumes(given)
            cases = Cases(
                found,
                remarks=(
                    *unread_files(given, tables),
                    *identity.same_names(found, given),
                    *identity.kinds_of_names(found),
                ),
            )
    if config.label_names and not cases.label_names:
        raise InputError("label_names: name the labels of column seg of a CSV; leave them out without one")
    if config.channels == "3d":
        if config.channel_names:
            raise InputError("channel_names: name the channels of 4D files; use them with --channels 4d")
        return cases
    return _with_frames(cases, config.channel_names)


def _folders(inputs: Inputs) -> list[Path]:
    """Return the folders that are searched for volumes."""
    if isinstance(inputs, Cases):
        return []
    given = [inputs] if isinstance(inputs, Path | str) else inputs
    return [Path(item) for item in given if Path(item).is_dir()]


def _check_no_nnunet(given: Sequence[Path]) -> None:
    """Raise InputError if a folder holds an nnU-Net data set, whose label maps would be read as volumes."""
    for folder in given:
        if exists(folder / "dataset.json") and exists(folder / "imagesTr") and exists(folder / "labelsTr"):
            raise InputError(
                f"{folder}: holds an nnU-Net data set, images and label maps; use --nnunet {folder}, or --input "
                f"{folder / 'imagesTr'} for the images alone"
            )


def _with_frames(cases: Cases, names: tuple[str, ...]) -> Cases:
    """Return cases whose channels lie along the last axis of one file each."""
    if len(cases.channels) > 1 or cases.sources:
        raise InputError("channels: 4d takes one file per case; leave it out where channels have files of their own")
    frames = num_frames(cases.files[0].path)
    if frames == 1 or len(names) not in (0, frames):
        wanted = "two or more with --channels 4d" if frames == 1 else f"{len(names)} as --channel_names has"
        raise InputError(f"{cases.files[0].path}: has {frames} channels along its last axis, expected {wanted}")
    numbered = tuple(f"channel-{number}" for number in range(1, frames + 1))
    return replace(cases, files=[replace(file, frames=frames) for file in cases.files], channels=names or numbered)


def _check_intensities(cases: Cases, config: PrepareConfig) -> None:
    """Raise InputError if intensities are set for a channel that does not exist."""
    names = (*cases.channels, *cases.sources)
    unknown = [name for name in config.intensities if name not in names]
    if unknown:
        raise InputError(f"intensities: no channel is named {unknown[0]!r}; the channels are {', '.join(names)}")


def _match_labels(
    files: list[VolumeFile], own: list[VolumeFile], labels: LabelTable, config: PrepareConfig
) -> tuple[dict[str, LabelRow], list[str]]:
    """Return rows by volume id and mismatches; all volumes count, so that every shard reports the same."""
    if not config.labels:
        return {file.id: LabelRow() for file in own}, []
    rows, missing, unknown = match_rows(labels, [file.id for file in files])
    remedy = "" if config.partial_labels else "; correct the id, or accept it with --partial_labels true"
    problems = []
    if missing:
        problems.append(f"{config.labels}: no line for {len(missing)} volumes, {abbreviate(missing)}{remedy}")
    if unknown:
        problems.append(f"{config.labels}: {len(unknown)} lines without a volume, {abbreviate(unknown)}{remedy}")
    return ({file.id: LabelRow() for file in own} if config.partial_labels else {}) | rows, problems


def _find_masks(
    own: list[VolumeFile], files: list[VolumeFile], config: PrepareConfig
) -> tuple[dict[str, Path], list[str]]:
    """Return masks by volume id, of the pairs table or the folder `config.masks`, and remarks on unused ones."""
    if config.masks is None:
        return {file.id: file.mask for file in own if file.mask is not None}, []
    candidates = find_volumes(config.masks)
    masks = {}
    for file in own:
        matches = [mask.path for mask in candidates if _is_mask_of(mask.id, file.id)]
        if len(matches) != 1:
            raise InputError(
                f"{config.masks}: has {len(matches)} masks for {file.id}; use one, whose name begins with that id"
            )
        masks[file.id] = matches[0]
    _check_folders([file.path for file in files], [mask.path for mask in candidates], own, masks)
    unused = [mask.id for mask in candidates if not any(_is_mask_of(mask.id, file.id) for file in files)]
    return masks, [f"{config.masks}: masks of no volume are not used: {abbreviate(unused)}"] if unused else []


def _check_folders(scans: list[Path], candidates: list[Path], own: list[VolumeFile], masks: dict[str, Path]) -> None:
    """Raise InputError if a mask lies in folders of another volume than its own: their short ids may agree."""
    folders, others = _telling_folders(scans), _telling_folders(candidates)
    both = set().union(*folders.values()) & set().union(*others.values())
    for file in own:
        mask = masks[file.id]
        if folders[file.path] & both != others[mask] & both:
            raise InputError(
                f"{mask}: is the mask of {file.id} by its name, but {file.path} lies in other folders; give both the "
                "same"
            )


def _telling_folders(paths: list[Path]) -> dict[Path, set[str]]:
    """Return the names of the folders of each path that are not those of all."""
    parts = {path: set(path.absolute().parent.parts) for path in paths}
    common = set.intersection(*parts.values()) if parts else set()
    return {path: names - common for path, names in parts.items()}


def _is_mask_of(mask_id: str, volume_id: str) -> bool:
    return mask_id.startswith(volume_id) and not mask_id[len(volume_id) : len(volume_id) + 1].isalnum()
