"""The commands `prepare` and `phantoms`: output, results, and status 2 for bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

from hagan3d import cli, phantoms, prepare
from hagan3d.data.store.store import Store

WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("h5py", "monai", "SimpleITK", "pydicom"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from hagan3d.data import pictures
from hagan3d.data.io import geometry, volumes
from hagan3d.data.preprocess import intensity
from hagan3d.data.store import description
"""


def test_phantoms_then_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "phantoms"
    assert cli.run(phantoms.main, ["--out", str(out), "--num", "3", "--size", "32", "32", "32", "--workers", "1"]) == 0
    arguments = ["--input", f"{out}/volumes", "--output", f"{tmp_path}/a.h5", "--size", "32", "32", "32", "--intensity"]
    arguments += ["window", "--labels", f"{out}/attributes.csv", "--workers", "1"]
    assert cli.run(prepare.main, arguments) == 0
    assert "3 volumes" in capsys.readouterr().out
    store = Store(tmp_path / "a.h5")
    assert store.class_names == ("0", "1", "2") and store.description().channels[0].units == "HU"
    assert "emphysema_percent" in store.columns
    assert cli.run(prepare.main, arguments) == 0
    assert "is already there" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(prepare.main, ["--input", f"{tmp_path}/gone", "--output", f"{tmp_path}/a.h5"]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {tmp_path}/gone: does not exist\n" and not list(tmp_path.iterdir())


def test_what_generation_needs_imports_without_the_readers():
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", WITHOUT], cwd=root, check=True)


@pytest.mark.parametrize("command", ["prepare", "phantoms"])
def test_help_needs_none_of_the_slow_libraries(command: str):
    slow = {"torch", "numpy", "h5py", "scipy", "SimpleITK", "nibabel"}
    code = f"import sys, hagan3d.{command} as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += f"assert not {slow} & set(sys.modules), {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, capture_output=True)
