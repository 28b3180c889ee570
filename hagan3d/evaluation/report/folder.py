"""The folder of an evaluation: report.html, metrics.json and cached features."""

import json
from pathlib import Path
from typing import Any

from hagan3d.data.io.files import write_text
from hagan3d.errors import InputError

REPORT, METRICS, FEATURE_FOLDER = "report.html", "metrics.json", "features"
CACHE_FILES = f"*-{6 * '[0-9]'}.npz"  # of features of some volumes, not those that `encode` writes


def write_results(out: Path, page: str, values: dict[str, Any]) -> None:
    """Write the report and the results into a folder, each whole or not at all."""
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    write_text(out / REPORT, page)
    write_text(out / METRICS, text)


def is_done(out: Path, key: str, audited: bool, force: bool) -> bool:
    """Return whether a folder holds this very evaluation, with its audit if requested.

    Args:
        out: The folder.
        key: Key of the evaluation.
        audited: Whether the memorisation audit is requested.
        force: Whether to delete another evaluation.

    Raises:
        InputError: If the folder holds another evaluation.
    """
    path = out / METRICS
    if force:
        for old in [path, out / REPORT, *(out / FEATURE_FOLDER).glob(CACHE_FILES)]:
            old.unlink(missing_ok=True)
        return False
    if not path.exists():
        if (out / REPORT).exists() and not (out / FEATURE_FOLDER).is_dir():
            raise InputError(f"{out / REPORT}: exists already; use another --out, or --force to replace it")
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        same, complete = values["key"] == key, "audit" in values or not audited
    except (ValueError, KeyError, TypeError):
        same = complete = False
    if not same:
        raise InputError(f"{path}: of another run, step, store or setting; use another --out, or --force to replace it")
    return complete
