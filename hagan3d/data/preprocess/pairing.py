"""Which volume belongs to which: pairs of source and target from a table or two folders, and unpaired domains."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hagan3d.data.io.volumes import Source, find_volumes
from hagan3d.data.preprocess.labels import read_table, some
from hagan3d.errors import InputError

WANTED = "want the columns id, source and target, perhaps mask and subject"


def find_pairs(inputs: Sequence[Path | str]) -> list[Source]:
    """List pairs: one CSV (columns id, source, target, perhaps mask and subject), or folders of sources and targets.

    Paths in a table are relative to it. In two folders, a source and its target have one name, up to the ending.

    Returns:
        Targets with their sources as partners, sorted by id.

    Raises:
        InputError: If a partner is missing, an id stands for two subjects or twice, or a path does not exist.
    """
    paths = [Path(item) for item in inputs]
    if len(paths) == 1 and not paths[0].is_dir():
        return _in_table(paths[0])
    if len(paths) == 2:
        return _in_folders(*paths)
    raise InputError(f"--pairs {' '.join(map(str, inputs))}: want one CSV file, or folders of sources and targets")


def find_domains(inputs: Sequence[Path | str]) -> list[Source]:
    """List the volumes of two folders, a source and a target domain, that are not paired.

    Returns:
        Volumes with ids ``source_NAME`` and ``target_NAME``; those of one name are of one subject.

    Raises:
        InputError: If there are not two folders, or a domain has fewer than two volumes.
    """
    if len(inputs) != 2:
        raise InputError(f"--domains: want two, sources and targets, got {len(inputs)}")
    listed: list[Source] = []
    for path, domain in zip(map(Path, inputs), ("source", "target"), strict=True):
        found = find_volumes(path)
        if len(found) < 2:
            raise InputError(f"{path}: the {domain} domain has one volume only; want two or more")
        listed += [Source(one.path, f"{domain}_{one.id}", subject=one.id, domain=domain) for one in found]
    return listed


def _in_table(path: Path) -> list[Source]:
    header, lines = read_table(path)
    names = {name.lower(): name for name in header}
    missing = [name for name in ("id", "source", "target") if name not in names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} among {header}; {WANTED}")
    cells = [{key: line[name] for key, name in names.items()} for line in lines]
    _check_ids(path, cells)
    bare = [line["id"] for line in cells if not line.get("mask")]
    if 0 < len(bare) < len(cells):
        raise InputError(f"{path}: has no mask for {some(bare)}, but for others; want one for each, or none")
    return sorted((_listed(path, line) for line in cells), key=lambda source: source.id)


def _check_ids(path: Path, cells: list[dict[str, str]]) -> None:
    for line in cells:
        if not line["id"]:
            raise InputError(f"{path}: has a line without an id; {WANTED}")
    for name, count in Counter(line["id"] for line in cells).items():
        if count > 1:
            subjects = sorted({line.get("subject", "") for line in cells if line["id"] == name})
            who = f" for other subjects ({', '.join(subjects)})" if len(subjects) > 1 else ""
            raise InputError(f"{path}: has the id {name!r} {count} times{who}; want one pair per id")


def _listed(path: Path, line: dict[str, str]) -> Source:
    """One line of a table."""
    files: dict[str, Path | None] = {}
    for name in ("source", "target", "mask"):
        cell = line.get(name, "")
        if not cell and name != "mask":
            raise InputError(f"{path}: {line['id']} has no {name}; give it, or take the line out")
        files[name] = (path.parent / cell) if cell else None
        if files[name] is not None and not files[name].exists():  # type: ignore[union-attr]
            raise InputError(f"{path}: the {name} of {line['id']}, {files[name]}, does not exist")
    target = files["target"]
    assert target is not None
    return Source(target, line["id"], files["source"], files["mask"], line.get("subject") or None)


def _in_folders(sources: Path, targets: Path) -> list[Source]:
    found = [{one.id: one.path for one in find_volumes(folder)} for folder in (sources, targets)]
    for folder, own, other in ((targets, found[1], found[0]), (sources, found[0], found[1])):
        missing = sorted(set(other) - set(own))
        if missing:
            raise InputError(f"{folder}: has no partner for {some(missing)}; want equal names in both folders")
    return [Source(path, name, found[0][name]) for name, path in sorted(found[1].items())]
