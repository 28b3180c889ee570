"""Who a volume belongs to and what is known of it: the labels CSV, subjects, and the split they decide."""

import csv
import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from hagan3d.errors import InputError

ID_COLUMNS = ("id", "mrid", "volume", "filename", "file", "participant_id", "subject_id", "patient_id")
SUBJECT_COLUMNS = ("subject", "subject_id", "participant_id", "patient", "patient_id")
SHOWN = 5  # ids named in a message before it says how many more


@dataclass(frozen=True)
class Row:
    """One line of a labels file."""

    class_name: str | None = None
    subject: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """A labels file, whole."""

    rows: dict[str, Row] = field(default_factory=dict)
    """By id."""
    class_names: tuple[str, ...] = ()
    """All classes of the file, sorted; numbers by value."""
    columns: tuple[str, ...] = ()
    """Names of the numeric columns."""

    @property
    def hash(self) -> str:
        """Changes with any value that is used."""
        return hashlib.sha256(repr((sorted(self.rows.items()), self.class_names, self.columns)).encode()).hexdigest()

    def label(self, row: Row) -> int:
        """Index of a row's class, -1 without one."""
        return -1 if row.class_name is None else self.class_names.index(row.class_name)


def read_labels(path: Path, class_column: str) -> Labels:
    """Read a labels CSV.

    Its column of ids is named id (or MRID, filename, participant_id, ...); the class, a subject and any columns whose
    cells are all numbers or empty are kept, other columns are passed over. An empty cell is NaN, or no class.

    Raises:
        InputError: If the file does not exist, has no ids, an id twice, or no such class column.
    """
    header, lines = read_table(path)
    names = {name.lower(): name for name in header}
    id_column = next((names[name] for name in ID_COLUMNS if name in names), None)
    if id_column is None:
        raise InputError(f"{path}: no column of ids among {header}; name one `id`")
    chosen = names.get(class_column.lower())
    if chosen is None and class_column != "class":
        raise InputError(f"{path}: no column {class_column!r} among {header}")
    subject = next((names[name] for name in SUBJECT_COLUMNS if name in names and names[name] != id_column), None)
    others = [name for name in header if name not in (id_column, chosen, subject)]
    columns = tuple(name for name in others if _numeric([line[name] for line in lines]))
    rows: dict[str, Row] = {}
    for line in lines:
        if line[id_column] in rows or not line[id_column]:
            raise InputError(
                f"{path}: has the id {line[id_column]!r} twice, or a line without one; want one line per id"
            )
        rows[line[id_column]] = Row(
            (line[chosen] or None) if chosen else None,
            (line[subject] or None) if subject else None,
            {name: _number(line[name]) for name in columns},
        )
    classes = {row.class_name for row in rows.values() if row.class_name is not None}
    return Labels(rows, tuple(sorted(classes, key=_class_order)), columns)


def match_rows(labels: Labels, ids: list[str]) -> tuple[dict[str, Row], list[str], list[str]]:
    """Find the row of every volume: that of its id, else of the longest id it begins with (up to a word's end).

    Returns:
        Rows by volume id, volumes without a row, and rows without a volume.
    """
    found = {name: key for name in ids if (key := _row_of(name, labels.rows)) is not None}
    used = set(found.values())
    return (
        {name: labels.rows[key] for name, key in found.items()},
        [name for name in ids if name not in found],
        [key for key in labels.rows if key not in used],
    )


def subject_of(volume_id: str, rule: str | None) -> str:
    """Name the subject a volume is of, where no labels file does.

    Args:
        volume_id: Id of the volume.
        rule: None: every volume is a subject. `pairs`: numbers 2k-1 and 2k (the last number in the id) are one subject.
            Otherwise a regular expression with one group, searched for in the id.

    Raises:
        InputError: If the rule is no such expression or does not fit the id.
    """
    if rule is None:
        return volume_id
    if rule == "pairs":
        numbers = list(re.finditer(r"\d+", volume_id))
        if not numbers:
            raise InputError(f"{volume_id}: has no number, so --subject pairs does not fit")
        last = numbers[-1]
        return f"{volume_id[: last.start()]}{(int(last[0]) + 1) // 2}{volume_id[last.end() :]}"
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise InputError(f"subject {rule!r}: is no regular expression ({error})") from error
    if pattern.groups != 1:
        raise InputError(f"subject {rule!r}: want a regular expression with one group in brackets, or `pairs`")
    match = pattern.search(volume_id)
    if match is None or not match[1]:
        raise InputError(f"{volume_id}: the subject rule {rule!r} does not fit")
    return match[1]


def split_of(subject: str, seed: int, validation: float, test: float) -> str:
    """Draw "train", "validation" or "test" for a subject, by a hash of (seed, subject) and nothing else."""
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if u < test else "validation" if u < test + validation else "train"


def some(names: list[str]) -> str:
    """Name a few, and say how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the lines of a CSV file, stripped.

    Raises:
        InputError: If it does not exist, is none, has no lines, or lines of other lengths.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist or is a folder; want a CSV file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = [[cell.strip() for cell in line] for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file ({error})") from error
    if len(table) < 2:
        raise InputError(f"{path}: has no lines below its header")
    header = table[0]
    odd = next((number for number, line in enumerate(table, 1) if len(line) != len(header)), None)
    if odd is not None or len(set(header)) < len(header):
        where = f"line {odd} has another number of cells than the header" if odd else "two columns have one name"
        raise InputError(f"{path}: {where}; want commas between cells and one line per volume")
    return header, [dict(zip(header, line, strict=True)) for line in table[1:]]


def _row_of(name: str, rows: dict[str, Row]) -> str | None:
    if name in rows:
        return name
    begins = [key for key in rows if name.startswith(key) and not name[len(key)].isalnum()]
    return max(begins, key=len, default=None)


def _numeric(cells: list[str]) -> bool:
    try:
        return any(cells) and all(math.isfinite(float(cell)) for cell in cells if cell)
    except ValueError:
        return False


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def _class_order(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if _numeric([name]) else (1, 0.0, name)
