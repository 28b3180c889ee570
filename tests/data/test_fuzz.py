"""Mutated files of every kind are read or refused in one line; the long run is `benchmarks/fuzz.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.samples import KINDS

ROOT = Path(__file__).parents[2]
FUZZ = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py")]


@pytest.mark.slow
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path):
    out = tmp_path / "counts.json"
    done = subprocess.run([*FUZZ, "--count", "40", "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
    counts = json.loads(out.read_text())
    assert done.returncode == 0, done.stdout
    assert counts.keys() == KINDS.keys()
    assert all(sum(found.values()) == 40 and "neither" not in found for found in counts.values())
    assert all(found.get("refused") for found in counts.values())  # the mutations do damage


def test_a_sample_of_every_kind_is_read(tmp_path: Path):
    for name, kind in KINDS.items():
        folder = tmp_path / name
        folder.mkdir()
        assert len(str(kind.read(kind.make(folder)))) > 0
