"""Metadata of volumes: the labels CSV, subject ids, and the split into training, validation and test set."""

import csv
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hagan3d.data.names import canonical
from hagan3d.errors import InputError

ID_COLUMNS = ("id", "mrid", "volume", "filename", "file", "participant_id", "subject_id", "patient_id")
SUBJECT_COLUMNS = ("subject", "subject_id", "participant_id", "patient", "patient_id")
NAMES = ("id", "subject")  # columns of a table of files whose cells are names, not paths
MISSING = ("", "n/a", "na", "nan", "nat", "none", "null", "nil", "missing", "unknown", "-", "--", ".", "?")
"""Cells that hold no value, in lower case."""
LEAST_HELD_OUT = 5  # subjects, without which a model cannot be evaluated
MOST_HELD_OUT = 0.25  # of the subjects, where the fractions of the settings would hold out fewer
MAX_LISTED = 5  # names listed in a message; the others are counted


@dataclass(frozen=True)
class LabelRow:
    """One line of the labels CSV."""

    class_name: str | None = None
    subject: str | None = None
    columns: dict[str, float] = field(default_factory=dict)
    """Values of the numeric columns, NaN if missing."""
    id: str = ""
    """Id of the row, which may be the beginning of the ids of several volumes: then they are of one subject."""


@dataclass(frozen=True)
class LabelTable:
    """The labels CSV."""

    rows: dict[str, LabelRow] = field(default_factory=dict)
    """Rows by id."""
    class_names: tuple[str, ...] = ()
    """All classes of the file, sorted; numeric names by value."""
    columns: tuple[str, ...] = ()
    """Names of the numeric columns."""
    remarks: tuple[str, ...] = ()
    """Which columns are not used, one line each."""

    @property
    def hash(self) -> str:
        """SHA-256 of all values that are used. The hashed text is part of store fingerprints and must not change."""
        rows = ", ".join(
            f"({key!r}, Row(class_name={row.class_name!r}, subject={row.subject!r}, numbers={row.columns!r}))"
            for key, row in sorted(self.rows.items(), key=lambda item: item[0])
        )
        return hashlib.sha256(f"([{rows}], {self.class_names!r}, {self.columns!r})".encode()).hexdigest()

    def label(self, row: LabelRow) -> int:
        """Return the class index of a row, -1 without a class."""
        return -1 if row.class_name is None else self.class_names.index(row.class_name)


def read_labels(path: Path, class_column: str) -> LabelTable:
    """Read a labels CSV, or a .tsv with tabs as in BIDS.

    The id column is named id (or MRID, filename, participant_id, ...). The class, the subject and columns whose cells
    are all numbers or missing are read, other columns are named in remarks. A missing cell (empty, n/a, nan, ...) is
    NaN, or no class. Classes that are equal as numbers (1, 1.0, 01) are one class. Texts are in composed Unicode.

    Raises:
        InputError: If the file does not exist, has no id column, a repeated id, or no such class column.
    """
    header, lines = read_table(path)
    lines = [{name: canonical(cell) for name, cell in line.items()} for line in lines]
    names = {name.casefold(): name for name in header}
    id_column = next((names[name] for name in ID_COLUMNS if name in names), None)
    if id_column is None:
        raise InputError(f"{path}: no id column among {header}; name one `id`")
    chosen = names.get(canonical(class_column).casefold())
    if chosen is None and class_column != "class":
        raise InputError(f"{path}: no column {class_column!r} among {header}; use --class_column with one of them")
    subject = next((names[name] for name in SUBJECT_COLUMNS if name in names and names[name] != id_column), None)
    others = [name for name in header if name not in (id_column, chosen, subject)]
    columns = tuple(name for name in others if _is_numeric([line[name] for line in lines]))
    remarks = tuple(_unused(path, name, [line[name] for line in lines]) for name in others if name not in columns)
    remarks += missing_values(path, lines, id_column, [*columns, *filter(None, (chosen, subject))])
    class_of = _canonical_classes([line[chosen] for line in lines] if chosen else [])
    remarks += alike(path, chosen, "classes", class_of.values()) if chosen else ()
    remarks += alike(path, subject, "subjects", [line[subject] for line in lines]) if subject else ()
    rows: dict[str, LabelRow] = {}
    for line in lines:
        if line[id_column] in rows or not line[id_column]:
            raise InputError(f"{path}: the id {line[id_column]!r} is repeated or empty; use one line per id")
        rows[line[id_column]] = LabelRow(
            class_of.get(line[chosen]) if chosen else None,
            None if subject is None else known(line[subject]),
            {name: _to_float(line[name]) for name in columns},
            line[id_column],
        )
    classes = {row.class_name for row in rows.values() if row.class_name is not None}
    return LabelTable(rows, tuple(sorted(classes, key=_class_order)), columns, remarks)


def match_rows(labels: LabelTable, ids: list[str]) -> tuple[dict[str, LabelRow], list[str], list[str]]:
    """Match volumes to rows by id, else by the longest row id that is a prefix (ending at a word boundary).

    Returns:
        Rows by volume id, volumes without a row, and rows without a volume.
    """
    matches = {name: key for name in ids if (key := _match_row(canonical(name), labels.rows)) is not None}
    used = set(matches.values())
    return (
        {name: labels.rows[key] for name, key in matches.items()},
        [name for name in ids if name not in matches],
        [key for key in labels.rows if key not in used],
    )


def subject_of(volume_id: str, rule: str | None) -> str:
    """Derive the subject id from a volume id, where the labels CSV has no subject.

    Args:
        volume_id: Id of the volume.
        rule: None: every volume is a subject of its own. `pairs`: volumes 2k-1 and 2k (last number in the id) are of
            one subject. Otherwise a regular expression with one group, searched for in the id.

    Raises:
        InputError: If the rule is not such an expression or does not match the id.
    """
    if rule is None:
        return volume_id
    if rule == "pairs":
        numbers = list(re.finditer(r"\d+", volume_id))
        if not numbers:
            raise InputError(f"subject: --subject pairs needs a number in every id, got {volume_id!r}")
        last = numbers[-1]
        return f"{volume_id[: last.start()]}{(int(last[0]) + 1) // 2}{volume_id[last.end() :]}"
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise InputError(f"subject: must be a regular expression or `pairs`, got {rule!r} ({error})") from error
    if pattern.groups != 1:
        raise InputError(f"subject: must be a regular expression with one group, or `pairs`, got {rule!r}")
    match = pattern.search(volume_id)
    if match is None or not match[1]:
        raise InputError(
            f"subject: {rule!r} does not match the id {volume_id!r}; use an expression that matches every id"
        )
    return match[1]


def splits_of(subjects: Iterable[str], seed: int, validation: float, test: float) -> dict[str, str]:
    """Assign each subject to "train", "validation" or "test" by a hash of (seed, subject).

    The split does not depend on the order of subjects, so that shards agree. Where the fractions hold out fewer than
    `LEAST_HELD_OUT` of 20 subjects or more, the next ones by hash are held out, too. Of as many, new subjects never
    move old ones out of training.
    """
    hashes = {subject: _hash(subject, seed) for subject in subjects}
    splits = {
        subject: "test" if u < test else "validation" if u < test + validation else "train"
        for subject, u in hashes.items()
    }
    if validation + test > 0 and len(splits) >= LEAST_HELD_OUT / MOST_HELD_OUT:
        for subject in sorted(hashes, key=lambda name: (hashes[name], name))[:LEAST_HELD_OUT]:
            if splits[subject] == "train":
                splits[subject] = "validation" if validation else "test"
    return splits


def _hash(subject: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def abbreviate(names: list[str]) -> str:
    """List the first names for a message, and count the others."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def read_table(path: Path, reserved: Iterable[str] = ()) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the lines of a CSV file, stripped; names and ids in composed Unicode, paths as they are.

    Args:
        path: The file.
        reserved: Names of columns that are recognised in upper and lower case, and returned as they are written here.

    Raises:
        InputError: If it does not exist, is not CSV, has no lines, lines of different lengths, or columns whose names
            are equal or differ in case alone.
    """
    table = _read_cells(path)
    if table and len(table[0]) == 1 and any(mark in table[0][0] for mark in ";\t"):
        raise InputError(
            f"{path}: its first line, {table[0][0]!r}, is one cell; use commas between cells (Excel: CSV UTF-8, comma "
            "delimited; a .tsv has tabs)"
        )
    if len(table) < 2:
        raise InputError(f"{path}: has no lines below its header")
    named = [*map(canonical, table[0])]
    spelled = {canonical(name).casefold(): name for name in reserved}
    header = [spelled.get(name.casefold(), name) for name in named]
    uneven = next((number for number, line in enumerate(table, 1) if len(line) != len(header)), None)
    if uneven is not None:
        raise InputError(
            f"{path}: line {uneven} and the header differ in their number of cells; use commas between cells and one "
            "line per volume"
        )
    _check_columns(path, named)
    return header, [
        {name: canonical(cell) if name in NAMES else cell for name, cell in zip(header, line, strict=True)}
        for line in table[1:]
    ]


def _read_cells(path: Path) -> list[list[str]]:
    """Read the lines of a CSV file that are not blank, with stripped cells."""
    if not path.is_file():
        raise InputError(f"{path}: does not exist or is a folder; use a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            return [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8; save it as CSV in UTF-8 (Excel: CSV UTF-8)") from error
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from error


def _check_columns(path: Path, names: Iterable[str]) -> None:
    """Raise InputError if two columns have the same name, in whatever case."""
    columns = dict[str, str]()
    for name in names:
        if name.casefold() in columns:
            other = columns[name.casefold()]
            raise InputError(f"{path}: the columns {other!r} and {name!r} have one name; rename one or leave it out")
        columns[name.casefold()] = name


def _match_row(name: str, rows: dict[str, LabelRow]) -> str | None:
    if name in rows:
        return name
    prefixes = [key for key in rows if name.startswith(key) and not name[len(key)].isalnum()]
    return max(prefixes, key=len, default=None)


def known(cell: str | None) -> str | None:
    """Return a cell of a table, or None if it holds no value."""
    return None if cell is None or _is_missing(cell) else cell


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _is_number(cell: str) -> bool:
    try:
        return "_" not in cell and math.isfinite(float(cell))  # Python would read 1_0 as 10
    except ValueError:
        return False


def _is_numeric(cells: list[str]) -> bool:
    """Return whether a column holds numbers and nothing else but missing cells."""
    values = [cell for cell in cells if not _is_missing(cell)]
    return bool(values) and all(map(_is_number, values))


def _unused(path: Path, name: str, cells: list[str]) -> str:
    """Return a line that says why a column is not used."""
    others = [cell for cell in cells if not _is_missing(cell) and not _is_number(cell)]
    if not others:
        return f"{path}: the column {name} is not used, as all its cells are missing"
    numbers = len(cells) - len(others)
    what = "it holds text" if not numbers else f"{others[0]!r} is no number"
    return f"{path}: the column {name} is not used, as {what}"


def missing_values(path: Path, lines: list[dict[str, str]], id_column: str, columns: list[str]) -> tuple[str, ...]:
    """Return a remark for each column with cells that hold no value."""
    remarks = []
    for name in columns:
        missing = [line[id_column] for line in lines if _is_missing(line[name])]
        if missing:
            remarks.append(f"{path}: {name} is missing in {len(missing)} of {len(lines)} lines: {abbreviate(missing)}")
    return tuple(remarks)


def alike(path: Path, column: str, what: str, cells: Iterable[str]) -> tuple[str, ...]:
    """Return a remark for each set of classes or subjects that are equal but for case, or as numbers."""
    spellings: dict[str | float, set[str]] = {}
    for cell in cells:
        spellings.setdefault(float(cell) if _is_number(cell) else cell.casefold(), set()).add(cell)
    found = [sorted(names) for names in spellings.values() if len(names) > 1 and not _is_missing(min(names))]
    return tuple(
        f"{path}: {', '.join(names)} of the column {column} are {len(names)} {what}: write them alike if they are one"
        for names in found
    )


def _canonical_classes(cells: list[str]) -> dict[str, str]:
    """Return the class of each cell that is not missing: equal numbers are one class, in its shortest spelling."""
    present = sorted({cell for cell in cells if not _is_missing(cell)}, key=lambda cell: (len(cell), cell))
    if not all(map(_is_number, present)):
        return {cell: cell for cell in present}
    first: dict[float, str] = {}
    for cell in present:
        value = float(cell)
        first.setdefault(value, str(int(value)) if value == int(value) else cell)
    return {cell: first[float(cell)] for cell in present}


def _to_float(cell: str) -> float:
    return math.nan if _is_missing(cell) else float(cell)


def _class_order(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if _is_numeric([name]) else (1, 0.0, name)
