"""What names and headers of files tell of subjects, so that none is in two splits; remarks on what they leave open."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.preprocess.metadata import abbreviate

PARTICIPANT = re.compile(r"(?:^|_)(sub-[0-9A-Za-z]+)(?=[_.]|$)")  # of a name with the entities of BIDS
REMEDY = "name the subjects in a labels CSV, or by --subject, if they are not"


def participants(files: list[VolumeFile]) -> dict[str, set[str]]:
    """Return the participants of BIDS that the id of each volume and the paths of its files name.

    The folders that all files lie in are not looked at: their names do not tell subjects apart.
    """
    paths = {file.id: [os.path.abspath(path) for path in (file.path, *file.channels, *file.sources)] for file in files}
    top = os.path.commonpath([os.path.dirname(path) for own in paths.values() for path in own])
    found = {}
    for name, own in paths.items():
        named = [(name,), *(Path(path).relative_to(top).parts for path in own)]
        found[name] = {participant for parts in named if (participant := _participant_of(parts))}
    return found


def _participant_of(parts: Sequence[str]) -> str | None:
    """Return the participant that the last of some folder and file names that has one names."""
    return next((match[1] for part in reversed(parts) if (match := PARTICIPANT.search(part))), None)


def patients(files: list[VolumeFile]) -> tuple[dict[str, str], list[str]]:
    """Return the subjects of DICOM volumes by id, and remarks: the PatientID.

    Volumes without a PatientID, or all if they have the same, as in anonymized data, are of the subject of their study.
    """
    # not at the top: SimpleITK and pydicom are slow to import
    from hagan3d.data.io.dicom import is_dicom, patient_id

    dicom = {
        file.id: path
        for file in files
        for path in (*file.sources, *file.channels, file.path)
        if path.is_dir() or is_dicom(path)
    }
    named = {id: patient for id, path in dicom.items() if (patient := patient_id(path)) is not None}
    unnamed = {id: path for id, path in dicom.items() if id not in named}
    same = set(named.values())
    found, remarks = named, list[str]()
    if len(named) > 1 and len(same) == 1:
        found = _shared(_studies({id: dicom[id] for id in named}))
        remarks = [_of_studies(f"have the PatientID {same.pop()!r}", len(named), found)]
    if unnamed:
        found = found | _studies_of_unnamed(unnamed, {id: dicom[id] for id in named}, found)
        if len(unnamed) > 1:
            own = {id: found[id] for id in unnamed if id in found}
            remarks.append(_of_studies("have no PatientID", len(unnamed), own))
    return found, remarks


def _studies_of_unnamed(unnamed: dict[str, Path], named: dict[str, Path], found: dict[str, str]) -> dict[str, str]:
    """Return the subjects of DICOM volumes without a PatientID: that of a volume of the same study, else the study."""
    known = {study: found[id] for id, study in _studies(named).items() if id in found}
    studies = _studies(unnamed)
    return _shared(studies) | {id: known[study] for id, study in studies.items() if study in known}


def _studies(paths: dict[str, Path]) -> dict[str, str]:
    """Return the StudyInstanceUID of each DICOM volume that has one, by id."""
    from hagan3d.data.io.dicom import study_uid

    return {id: study for id, path in paths.items() if (study := study_uid(path)) is not None}


def _shared(studies: dict[str, str]) -> dict[str, str]:
    """Return the studies of those volumes that share one with another."""
    counts = Counter(studies.values())
    return {id: study for id, study in studies.items() if counts[study] > 1}


def _of_studies(what: str, count: int, shared: dict[str, str]) -> str:
    """Return the remark on DICOM volumes whose subjects are their studies."""
    apart = count - len(shared) + len(set(shared.values()))
    if apart == 1:
        return f"all {count} DICOM volumes are of one study and {what}: they are taken as one subject; {REMEDY}"
    return (
        f"{count} DICOM volumes {what}: those of one study are taken as one subject, others as different ones ({apart} "
        f"subjects); {REMEDY}"
    )


def split_series(files: list[VolumeFile]) -> list[str]:
    """Return a remark for each DICOM series that several volumes are of, whose slices may belong to one volume."""
    from hagan3d.data.io.dicom import is_dicom, series_uid  # not at the top: SimpleITK and pydicom are slow to import

    volumes: dict[str, dict[str, Path]] = {}
    for file in files:
        for path in (*file.sources, *file.channels, file.path):
            if (path.is_dir() or is_dicom(path)) and (series := series_uid(path)) is not None:
                volumes.setdefault(series, {}).setdefault(os.path.realpath(path), path)
    return [
        f"{', '.join(str(path) for path in paths.values())}: are of one DICOM series, but are read as volumes of their "
        "own; if they hold the slices of one volume, put all of them into one folder"
        for paths in volumes.values()
        if len(paths) > 1
    ]


def same_names(files: Sequence[VolumeFile], given: Sequence[Path]) -> list[str]:
    """Return a remark if volumes have the same names in several of the given folders: they may be of one subject."""
    names: dict[Path, list[Path]] = {}
    folders = set(given)
    for file in files:
        for folder in folders.intersection(file.path.parents):
            names.setdefault(file.path.relative_to(folder), []).append(file.path)
    repeated = [paths for paths in names.values() if len(paths) > 1]
    if not repeated:
        return []
    first, second = repeated[0][:2]
    return [
        f"{first} and {second} have the same name in two folders, as {len(repeated)} in all: they are taken as "
        "different subjects; use --pairs or --domains, or name the subjects in a labels CSV or by --subject, if not"
    ]


def folders_of_several(files: Sequence[VolumeFile], given: Sequence[Path], subjects: dict[str, str]) -> list[str]:
    """Return a remark if folders hold several volumes that are taken as different subjects: each may be of a patient.

    Args:
        files: Volumes that were found in folders.
        given: Those folders; the ones inside them are looked at.
        subjects: Of each volume, by id.
    """
    inside: dict[Path, list[str]] = {}
    for file in files:
        for folder in set(given).intersection(file.path.parents):
            parts = file.path.relative_to(folder).parts[:-1]
            if parts:
                inside.setdefault(folder / parts[0], []).append(subjects[file.id])
    several = [folder for folder, own in inside.items() if len(set(own)) == len(own) > 1]
    if len(several) < 2:
        return []
    return [
        f"{several[0]} and {len(several) - 1} more folders hold several volumes each, which are taken as different "
        "subjects: if a folder is a patient, name the subjects in a labels CSV, or by --subject"
    ]


def kinds_of_names(files: Sequence[VolumeFile]) -> list[str]:
    """Return a remark if files named by BIDS have several suffixes, such as T1w and mask: all become one channel."""
    named = [file for file in files if PARTICIPANT.search(file.id.rpartition("/")[2])]
    counts = Counter(file.id.rpartition("_")[2] for file in named)
    if len(counts) < 2 or len(counts) == len(named):
        return []
    shown = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return [
        f"volumes of several kinds are taken as one channel ({shown}); list the files of one kind in a text file, or "
        "name those of each channel in a CSV"
    ]


def repeated_files(files: Iterable[VolumeFile]) -> list[str]:
    """Return a remark for each file that several cases name: they are taken as one subject, or have one label map."""
    ids: dict[tuple[str, bool], dict[str, Path]] = {}
    for file in files:
        maps = [file.label_map] if file.label_map is not None else []
        for path in dict.fromkeys([file.path, *file.channels, *file.sources, *maps]):
            ids.setdefault((os.path.realpath(path), path in maps), {})[file.id] = path
    return [
        f"{next(iter(own.values()))}: is named by {len(own)} volumes ({abbreviate(list(own))}), which "
        + ("have this label map in common" if is_map else "are taken as one subject")
        for (_, is_map), own in ids.items()
        if len(own) > 1
    ]
