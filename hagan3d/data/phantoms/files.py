"""Tables of phantoms: their ground truth, and their files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hagan3d.data.io.files import write_text


def write_attributes(path: Path, rows: Sequence[Mapping[str, float | str]]) -> None:
    """Write a CSV with a row per phantom, whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
