"""The examples on latent space exploration run from the first line to the last, and leave what they say."""

import importlib.util
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from hagan3d import cli

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("latent_exploration", EXAMPLES / "latent_exploration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def varied_run(phantom_run, tmp_path):
    """The tiny model, its generator bent so that volumes have a body, more or less of it by z."""
    import torch

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (path,) = (phantom_run / "checkpoints").glob("*.pt")
    values = torch.load(path, weights_only=True)
    for weights in (values["networks"]["g"], values["ema"]["g"]):
        weights["high.last.weight"] *= 40
    torch.save(values, tmp_path / "run" / "checkpoints" / path.name)
    return tmp_path / "run"


def test_the_script_tells_its_story(script, varied_run, phantom_store, tmp_path, capsys):
    words = ["--run", varied_run, "--store", phantom_store, "--attribute", "body_volume_ml", "--num", 30]
    assert cli.run(script.main, [str(word) for word in (*words, "--out", tmp_path / "out")]) == 0, (
        capsys.readouterr().err
    )
    told = capsys.readouterr().out
    assert [line[:2] for line in told.splitlines() if line[0] != " "] == ["1.", "2.", "3.", "4.", "5.", "6."]
    assert (tmp_path / "out" / "walk.csv").read_text().count("seed-") == 21 * 2  # name and file
    assert (tmp_path / "out" / "between" / "strip.png").exists()
    assert cli.run(script.main, [str(word) for word in (*words, "--out", tmp_path / "out")]) == 2
    assert "holds a walk already" in capsys.readouterr().err


def test_the_notebook_runs(varied_run, phantom_store, tmp_path, monkeypatch):
    for name, value in {"RUN": varied_run, "STORE": phantom_store, "OUT": tmp_path / "out", "NUM": 50}.items():
        monkeypatch.setenv(f"HAGAN3D_{name}", str(value))
    notebook = nbformat.read(EXAMPLES / "latent_exploration.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # figures of an old run would lie
    for cell in notebook.cells:
        cell.source = cell.source.replace('attribute = "lung_volume_ml"', 'attribute = "body_volume_ml"')
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in data for data in shown) == 5 and sum("image/gif" in data for data in shown) == 1
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 2
    assert (tmp_path / "out" / "lungs" / "volumes" / "seed-0_4.nii.gz").exists()
