"""The quickstart notebook leads from a folder of files to a report, with the public API alone."""

import ast
import os
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pytest
from nbclient import NotebookClient
from scipy.ndimage import gaussian_filter

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
FEW = ', features="random", bootstrap=2, kid_subsets=2, pairs=2, reconstructions=1, shown=2)'


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(30):
        array = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 4) * 9000
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / f"scan{number:02}.nii.gz")
    return folder


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_imports_nothing_of_the_package_but_the_package():
    code = "\n".join(cell.source for cell in read_notebook().cells if cell.cell_type == "code")
    names = [node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names += [name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names]
    assert "hagan3d" in names and not any(str(name).startswith("hagan3d.") for name in names)


@pytest.mark.slow
def test_it_runs_from_files_to_the_report(scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for name, value in {"SCANS": scans, "OUT": out, "CONFIG": "hagan_demo", "SIDE": 32}.items():
        monkeypatch.setenv(f"HAGAN3D_{name}", str(value))
    notebook = read_notebook()
    assert not any(cell.get("outputs") for cell in notebook.cells)  # figures of an old run would lie
    for cell in notebook.cells:
        cell.source = cell.source.replace('{"batch_size": 4}', '{"batch_size": 4, "steps": 3, "device": "cpu"}')
        cell.source = cell.source.replace("num=50)", f"num=6{FEW}").replace("validation=0.3", "validation=0.5")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "30 volumes: " in printed and "report.html" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert (out / "evaluation" / "report.html").is_file() and len(list((out / "volumes").glob("*.nii.gz"))) == 4
