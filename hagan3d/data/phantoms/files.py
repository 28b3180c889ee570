"""Files of phantoms, and tables of their ground truth."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hagan3d.config import Size
from hagan3d.config.bounds import MAX_SEED
from hagan3d.data.io.files import write_text
from hagan3d.data.preprocess.workers import map_files
from hagan3d.errors import InputError

TABLES = ("attributes.csv", "cases.csv", "pairs.csv", "labelled_pairs.csv", "dataset.json")
MARK = ".phantoms"  # in a folder of phantoms: what they are
Row = dict[str, float | str]
Task = tuple[Path, int, Size, int]
"""Folder, seed, voxels D, H, W, and number of a phantom."""


def write_all(
    write_one: Callable[[Task], Row],
    out: Path,
    num: int,
    size: Size,
    seed: int,
    *,
    workers: int = 1,
    progress: bool = False,
    title: str = "Phantoms",
) -> list[Row]:
    """Write phantoms with the seeds ``seed``, ``seed + 1``, ..., and their ground truth as attributes.csv.

    Args:
        write_one: Writes one phantom and returns its row of the table.
        out: Folder.
        num: Number of phantoms.
        size: Voxels D, H, W.
        seed: Seed of the first patient.
        workers: Number of processes.
        progress: Whether to show a progress bar on stderr.
        title: Of the progress bar.

    Returns:
        The rows.
    """
    if num < 1 or not 0 <= seed <= MAX_SEED:
        raise InputError(f"--num, --seed: must be at least 1, and 0 to {MAX_SEED}, got {num} and {seed}")
    made = json.dumps({"kind": title, "num": num, "size": size, "seed": seed})
    _check_out(out, made)
    write_text(out / MARK, made)
    tasks = [(out, seed + index, size, index) for index in range(num)]
    rows = list(map_files(write_one, tasks, workers, title, progress))
    write_attributes(out / "attributes.csv", rows)
    return rows


def _check_out(out: Path, made: str) -> None:
    """Raise InputError if a folder has tables or a data set of others, or phantoms of other settings than ``made``."""
    others, mark = [name for name in TABLES if (out / name).exists()], out / MARK
    if others and not mark.exists():
        raise InputError(f"{out}: holds {others[0]}, which is not of phantoms; use another --out")
    if mark.exists() and mark.read_text(encoding="utf-8") not in ("", made):  # older versions left it empty
        raise InputError(f"{out}: holds phantoms of another kind, number, size or seed; use another --out")


def write_attributes(path: Path, rows: Sequence[Mapping[str, float | str]]) -> None:
    """Write a CSV with a row per phantom, whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
