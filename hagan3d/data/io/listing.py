"""Lists of the volumes in folders, text files and arguments, with unique ids, and of the files that are not read."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from hagan3d.data.io.files import exists, named_in
from hagan3d.data.io.registry import (
    image_suffixes,
    is_slice,
    parts_of,
    stem_of,
    supported_formats,
    volume_suffixes,
)
from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.names import canonical
from hagan3d.errors import InputError

LIST_SUFFIXES = (".txt", ".lst", ".list")
INDEX = "DICOMDIR"  # of the DICOM files of a disk
MAX_LISTED = 5  # names in a remark


def find_volumes(inputs: Path | str | Iterable[Path | str]) -> list[VolumeFile]:
    """List the volumes in folders (recursively), text files that list paths, and single files.

    A folder of slices is one volume. Images (PNG, TIFF, JPEG) are listed if a folder holds no other volumes. Each line
    of a text file is a path relative to that file; empty lines and lines that begin with # are ignored.

    Returns:
        Volumes with unique ids, sorted by id.

    Raises:
        InputError: If a path does not exist, is no text in UTF-8, or there is no volume.
    """
    given = _paths(inputs)
    paths = {os.path.abspath(path): path for item in given for path in _expand(item)}
    if not paths:
        names = ", ".join(str(item) for item in given) or "the input"
        raise InputError(f"{names}: no volume found; supported are {supported_formats()}")
    for path in paths.values():
        _check_text(path)
    return sorted(_with_ids(list(paths.values())), key=lambda file: file.id)


def unread_files(inputs: Path | str | Iterable[Path | str], used: Iterable[Path] = ()) -> list[str]:
    """Return a remark for each folder of the inputs on the files in it that `find_volumes` does not list.

    Args:
        inputs: As for `find_volumes`; of a table, the folders that it names (`folders_of`).
        used: Files that are read for other purposes, such as tables of labels.
    """
    known = {os.path.abspath(path) for path in used}
    remarks = []
    for folder in _folders_among(_paths(inputs)):
        volumes = scans_in(folder)
        read = {os.path.abspath(part) for path in volumes if not path.is_dir() for part in parts_of(path)}
        series = {os.path.abspath(path) for path in volumes if path.is_dir()}
        names = [
            str(file.relative_to(folder))
            for file in _files_in(folder)
            if os.path.abspath(file) not in read | known
            and not (os.path.abspath(file.parent) in series and is_slice(file))
            and not _belongs_to_store(file)
            and file.name.upper() != INDEX
        ]
        if names:
            more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
            what = "file is" if len(names) == 1 else "files are"
            remarks.append(f"{folder}: {len(names)} {what} not read: {', '.join(names[:MAX_LISTED])}{more}")
        remarks += [f"{link}: not read, as it links to a folder that is read already" for link in _repeated(folder)]
    return remarks


def folders_of(files: Iterable[VolumeFile]) -> list[Path]:
    """Return the folders of slices among the files of volumes."""
    return [path for file in files for path in file.files if path.is_dir()]


def _folders_among(inputs: Iterable[Path]) -> list[Path]:
    """Return the folders among inputs and in their lists, without those that lie in another one or come twice."""
    named = [inner for path in inputs for inner in ([path] if not _is_list(path) else _named_in(path))]
    folders = {os.path.abspath(path): path for path in named if path.is_dir()}
    return [path for real, path in folders.items() if not any(str(above) in folders for above in Path(real).parents)]


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in LIST_SUFFIXES and not path.is_dir()


def _paths(inputs: Path | str | Iterable[Path | str]) -> list[Path]:
    return [Path(inputs)] if isinstance(inputs, Path | str) else [Path(item) for item in inputs]


def _check_text(path: Path) -> None:
    """Raise InputError if a path is no text, which neither a store nor a report can hold."""
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="replace")
        raise InputError(f"{shown}: its name is no text in UTF-8; rename it") from error


def _expand(path: Path) -> list[Path]:
    """Return the volumes that one input stands for."""
    if not exists(path):
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        return scans_in(path)
    if _is_list(path):
        return [volume for item in _named_in(path) for volume in (scans_in(item) if item.is_dir() else [item])]
    return [path]


def scans_in(folder: Path) -> list[Path]:
    """Return the volumes in a folder; images only if there are no others, since pictures often lie next to volumes."""
    volumes = _in_folder(folder, volume_suffixes())
    return volumes or [path for path in _in_folder(folder, image_suffixes()) if not _belongs_to_store(path)]


def _belongs_to_store(path: Path) -> bool:
    """Return whether a file is a store, or its contact sheet or report, which have its name."""
    return path.suffix in (".h5", ".png", ".json") and path.with_suffix(".h5").exists()


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return volume files and folders of slices at any depth, sorted; hidden files are ignored.

    A broken symbolic link is listed like a file, so that reading it reports the link.
    """
    found: list[Path] = []
    for inner in _folders(folder):
        entries = _visible(inner)
        volumes = [entry for entry in entries if not entry.is_dir() and entry.name.lower().endswith(suffixes)]
        if any(is_slice(entry) for entry in entries if entry.is_file() and entry not in volumes):
            volumes.append(inner)
        found += volumes
    return found


def _folders(folder: Path) -> list[Path]:
    """Return a folder and those in it at any depth, each once, even if links lead to it again."""
    return [path for path, is_new in _walk(folder, set()) if is_new]


def _repeated(folder: Path) -> list[Path]:
    """Return the links to folders that `_folders` lists already."""
    return [path for path, is_new in _walk(folder, set()) if not is_new]


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, bool]]:
    real = folder.resolve()
    yield folder, real not in seen
    if real in seen:
        return
    seen.add(real)
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _walk(entry, seen)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files_in(folder: Path) -> Iterator[Path]:
    for inner in _folders(folder):
        yield from (entry for entry in _visible(inner) if not entry.is_dir())


def _named_in(path: Path) -> list[Path]:
    """Return the files and folders that a text file lists."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file; use one path per line") from error
    named = [named_in(path.parent, line) for line in lines if line and not line.startswith("#")]
    missing = [str(item) for item in named if not exists(item)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{path}: lists {missing[0]}{more}, which does not exist")
    return named


def _with_ids(paths: list[Path]) -> list[VolumeFile]:
    """Name every path by its stem, preceded by as many folder names as make all names differ.

    The names are those of the given path: links keep theirs, wherever they lead.
    """
    components = {
        path: tuple(map(canonical, (*Path(os.path.abspath(path)).parent.parts[1:], stem_of(path)))) for path in paths
    }
    files = [VolumeFile(path, components[path][-1]) for path in paths]
    for depth in range(2, max(len(names) for names in components.values()) + 1):
        counts = Counter(file.id for file in files)
        files = [
            replace(file, id="_".join(components[file.path][-depth:])) if counts[file.id] > 1 else file
            for file in files
        ]
    counts = Counter(file.id for file in files)
    duplicates = [file for file in files if counts[file.id] > 1]
    if duplicates:
        first, second = duplicates[:2]
        raise InputError(f"{first.path} and {second.path}: both have the id {first.id!r}; rename one or leave it out")
    return files
