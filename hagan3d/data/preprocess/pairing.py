"""Pairs of source and target from a table or two folders, and two unpaired domains."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hagan3d.data.io.files import exists, named_in
from hagan3d.data.io.listing import find_volumes, folders_of, unread_files
from hagan3d.data.io.registry import stem_of
from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.names import canonical
from hagan3d.data.preprocess.cases import RESERVED, SEGMENTATION, Cases, check_different, check_label_names, check_named
from hagan3d.data.preprocess.metadata import abbreviate, alike, known, read_table
from hagan3d.errors import InputError

COLUMNS = (
    "use the columns id, source and target (of several channels: source_t1, source_t2, ...), seg, mask and subject"
)


def find_pairs(inputs: Sequence[Path | str], label_names: tuple[str, ...] = ()) -> Cases:
    """List pairs from one CSV or two folders.

    The CSV has the columns id, source and target, and optionally seg (a label map of the target), mask and subject.
    Several channels have a column each, whose name begins with source_ or target_, as in source_t1, source_flair,
    target_t2. Paths in it are relative to its folder. In two folders, a source and its target have the same path below
    their folder, without ending.

    Args:
        inputs: The CSV or the folders.
        label_names: Names of the labels of the label maps in column `seg`, in the order of their values.

    Returns:
        Targets with their sources, sorted by id.

    Raises:
        InputError: If a source or target is missing, a column is unknown, an id is repeated, or a path does not exist.
    """
    paths = [Path(item) for item in inputs]
    if len(paths) == 1 and not paths[0].is_dir():
        return _in_table(paths[0], label_names)
    if len(paths) == 2 and all(path.is_dir() or not exists(path) for path in paths):
        return _in_folders(*paths)
    raise InputError(
        f"--pairs: must be one CSV file or two folders (sources, targets), got {' '.join(map(str, inputs))}"
    )


def find_domains(inputs: Sequence[Path | str]) -> Cases:
    """List the volumes of two folders, the unpaired source and target domains.

    Returns:
        Volumes with ids ``source_NAME`` and ``target_NAME``; those of the same name, or of the same path below their
        folder, are of one subject.

    Raises:
        InputError: If there are not two folders, or a domain has fewer than two volumes.
    """
    if len(inputs) != 2:
        raise InputError(f"--domains: must be two folders (sources, targets), got {len(inputs)}")
    listed: list[VolumeFile] = []
    subjects: dict[str, str] = {}  # by path below the folder
    for path, domain in zip(map(Path, inputs), ("source", "target"), strict=True):
        files = find_volumes(path)
        if len(files) < 2:
            raise InputError(f"{path}: the {domain} domain must have at least 2 volumes, got 1; add more")
        for one in files:
            subject = subjects.setdefault(_name_in(path, one.path), one.id)
            listed.append(VolumeFile(one.path, f"{domain}_{one.id}", subject=subject, domain=domain))
    return Cases(listed, sources=("source",), remarks=tuple(unread_files(inputs)))


def _in_table(path: Path, label_names: tuple[str, ...]) -> Cases:
    header, lines = read_table(path, RESERVED)
    names = {name.lower(): name for name in header}
    sources, targets = (_channels_of(kind, list(names)) for kind in ("source", "target"))
    found = {"id": "id" in names, "source": sources, "target": targets}
    missing = [name for name in found if not found[name]]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} among {header}; {COLUMNS}")
    maps = (SEGMENTATION,) if SEGMENTATION in names else ()
    check_named(path, bool(maps), label_names)
    unknown = sorted({*names} - {"id", "mask", "subject", *sources, *targets, *maps})
    if unknown:
        raise InputError(f"{path}: the column {unknown[0]!r} has no meaning here; {COLUMNS}")
    cells = [{key: line[name] for key, name in names.items()} for line in lines]
    _check_ids(path, cells)
    unmasked = [line["id"] for line in cells if not line.get("mask")]
    if 0 < len(unmasked) < len(cells):
        raise InputError(f"{path}: has no mask for {abbreviate(unmasked)}, but for others; use one for each, or none")
    files = sorted((_to_file(path, line, sources, targets, maps) for line in cells), key=lambda file: file.id)
    remarks = alike(path, "subject", "subjects", [line.get("subject", "") for line in cells])
    remarks += tuple(unread_files(folders_of(files), [path]))
    return Cases(files, targets, check_label_names(label_names), sources=sources, remarks=remarks)


def _channels_of(kind: str, columns: list[str]) -> tuple[str, ...]:
    """Return the columns of the channels of sources or targets, ``kind`` or ``kind_...``, in their order."""
    return tuple(name for name in columns if name == kind or name.startswith(f"{kind}_"))


def _check_ids(path: Path, cells: list[dict[str, str]]) -> None:
    for line in cells:
        if not line["id"]:
            raise InputError(f"{path}: has a line without an id; {COLUMNS}")
    for name, count in Counter(line["id"] for line in cells).items():
        if count > 1:
            subjects = sorted({line.get("subject", "") for line in cells if line["id"] == name})
            who = f" for other subjects ({', '.join(subjects)})" if len(subjects) > 1 else ""
            raise InputError(f"{path}: has the id {name!r} {count} times{who}; use one pair per id")


def _to_file(
    path: Path, line: dict[str, str], sources: tuple[str, ...], targets: tuple[str, ...], maps: tuple[str, ...]
) -> VolumeFile:
    """Convert one line of a table."""
    files: dict[str, Path] = {}
    for name in (*sources, *targets, *maps, "mask"):
        cell = line.get(name, "")
        if not cell and name != "mask":
            raise InputError(f"{path}: {line['id']} has no {name}; fill it in, or remove the line")
        if cell:
            files[name] = named_in(path.parent, cell)
            if not exists(files[name]):
                raise InputError(f"{path}: the {name} of {line['id']}, {files[name]}, does not exist")
    check_different(line["id"], {name: files[name] for name in (*sources, *targets)})
    first, *others = (files[name] for name in targets)
    return VolumeFile(
        first,
        line["id"],
        channels=tuple(others),
        sources=tuple(files[name] for name in sources),
        mask=files.get("mask"),
        label_map=files.get(SEGMENTATION),
        subject=known(line.get("subject")),
    )


def _in_folders(sources: Path, targets: Path) -> Cases:
    """Pair the files of two folders by their paths below them: the shortened ids of two patients may agree."""
    listed, partners = (
        {_name_in(folder, one.path): one for one in find_volumes(folder)} for folder in (targets, sources)
    )
    for folder, own, other in ((targets, listed, partners), (sources, partners, listed)):
        missing = sorted(set(other) - set(own))
        if missing:
            raise InputError(f"{folder}: no file matches {abbreviate(missing)}; use equal names and subfolders in both")
    for name, one in listed.items():
        check_different(name, {"source": partners[name].path, "target": one.path})
    files = [VolumeFile(one.path, one.id, sources=(partners[name].path,)) for name, one in listed.items()]
    return Cases(files, ("target",), sources=("source",), remarks=tuple(unread_files([sources, targets])))


def _name_in(folder: Path, path: Path) -> str:
    """Return the path of a volume below the folder it was found in, without ending; in a list, its whole path."""
    above = path.parent if path == folder else folder  # a folder of slices is a volume itself
    place = path.relative_to(above) if path.is_relative_to(above) else path
    return canonical((place.parent / stem_of(path)).as_posix())
