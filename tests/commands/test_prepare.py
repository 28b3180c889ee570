"""The commands `prepare` and `phantoms`: output, results, and status 2 for bad input."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hagan3d import cli, phantoms, prepare
from hagan3d.data.store.store import Store
from hagan3d.run_settings import parse_run

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


@pytest.mark.parametrize(("size", "settings"), [("32 32 32", "hagan_32"), ("32 96 64", "hagan_64")])
def test_the_next_line_trains_the_config_for_the_size(size: str, settings: str, tmp_path: Path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((40, 40, 40), np.float32))
    arguments = ["--input", f"{tmp_path}/a.npy", "--output", f"{tmp_path}/a.h5", "--spacing", "1", "1", "1"]
    assert cli.run(prepare.main, [*arguments, "--size", *size.split(), "--workers", "1", "--validation", "0"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    own_size = "" if size == "32 32 32" else f" --data.size {size}"
    assert line == f"next: hagan3d train --config {settings} --data.store {tmp_path}/a.h5{own_size} --out RUN"
    config, _ = parse_run("train", "", (), line.split()[3:-2], lambda parser: None)
    assert " ".join(map(str, config.data.size)) == size and config.method.objective == "relativistic"


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.run(prepare.main, ["--input", f"{tmp_path}/gone", "--output", f"{tmp_path}/a.h5"]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {tmp_path}/gone: does not exist\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        (".nan 1 1", "spacing: must be above 0, got [nan, 1.0, 1.0]"),
        (".nan", "spacing .nan: must be several numbers with blanks between them or null"),
    ],
)
def test_a_spacing_that_is_none_is_one_line(spacing: str, reason: str, tmp_path: Path, capsys):
    words = ["--input", str(tmp_path), "--output", f"{tmp_path}/a.h5", "--spacing", *spacing.split()]
    assert cli.run(prepare.main, words) == 2
    assert capsys.readouterr().err == f"error: {reason}\n"


def test_what_generation_needs_imports_without_the_readers():
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", WITHOUT], cwd=root, check=True)


@pytest.mark.parametrize("command", ["prepare", "phantoms"])
def test_help_needs_none_of_the_slow_libraries(command: str):
    slow = {"torch", "numpy", "h5py", "scipy", "SimpleITK", "nibabel"}
    code = f"import sys, hagan3d.{command} as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += f"assert not {slow} & set(sys.modules), {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, capture_output=True)


def test_too_few_held_out_subjects_are_told_at_once(tmp_path: Path, capsys):
    for number in range(12):
        np.save(tmp_path / f"a{number}.npy", np.random.default_rng(number).random((32, 32, 32), np.float32))
    arguments = ["--input", str(tmp_path), "--size", "32", "32", "32", "--spacing", "1", "1", "1", "--workers", "1"]
    told = "of 12 subjects are held out, and `evaluate` needs 5"
    assert cli.run(prepare.main, [*arguments, "--output", f"{tmp_path}/a.h5"]) == 0
    shown = capsys.readouterr().err
    splits = Store(tmp_path / "a.h5").splits
    assert f"{len(splits) - splits.count('train')} {told}" in shown
    assert cli.run(prepare.main, [*arguments, "--output", f"{tmp_path}/b.h5", "--validation", "0"]) == 0
    assert told not in capsys.readouterr().err
    assert cli.run(prepare.main, [*arguments, "--output", f"{tmp_path}/c.h5", "--validation", "0.99999"]) == 0
    shown = capsys.readouterr()
    assert "all 12 subjects are held out, none is left for training" in shown.err and "next:" not in shown.out
