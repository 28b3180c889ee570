"""Findings of a diagnosis: as a page, and as JSON."""

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from hagan3d.data.io.files import write_text
from hagan3d.errors import InputError

Status = Literal["ok", "FAILED", "note"]


@dataclass(frozen=True)
class Finding:
    """One checked fact."""

    check: str
    status: Status
    detail: str
    values: dict[str, float] = field(default_factory=dict)
    """Measured values."""


Check = Callable[[], Iterator[Finding]]


def run_check(name: str, check: Check) -> Iterator[Finding]:
    """Yield the findings of a check; an error that it raises is a failure, and the checks after it still run."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installation is what this looks for
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Finding(name, "FAILED", f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})")


def page(findings: list[Finding]) -> str:
    """Return the findings as text to read, or to paste into an issue."""
    lines = [f"{finding.status:<7}{finding.check:<27}{finding.detail}" for finding in findings]
    failed = sum(finding.status == "FAILED" for finding in findings)
    verdict = f"{failed} of {len(findings)} checks failed" if failed else f"all {len(findings)} checks passed"
    return "\n".join([*lines, verdict])


def write_json(findings: list[Finding], path: Path) -> None:
    """Write the findings, whole or not at all."""
    check_report(path)
    write_text(path, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")


def check_report(path: Path) -> None:
    """Raise InputError if a file is there that holds no findings, and would be replaced."""
    if not path.exists():
        return
    try:
        keys = {field.name for field in fields(Finding)}
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, list) and found and all(isinstance(row, dict) and set(row) == keys for row in found):
            return
    except (ValueError, TypeError, OSError):
        pass
    raise InputError(f"{path}: exists and is no report of doctor; use another --out")
