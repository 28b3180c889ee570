"""The build leaves out what a machine cannot build, says so, and keeps the rest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    """The build with a tiny source for each library, and a toolkit whose nvcc only tells its version."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    if torch.version.cuda is None:
        pytest.skip("no GPU is supported by this torch")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("hagan3d", "csrc/cpu", "csrc/cuda", "configs", "toolkit/bin", "toolkit/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hagan3d" / "__init__.py").write_text('__version__ = "0"\n')
    (tmp_path / "csrc" / "ops.cpp").write_text("int answer() { return 42; }\n")
    (tmp_path / "csrc" / "cuda" / "ops.cu").write_text("int answer() { return 43; }\n")
    return tmp_path


def build(project, release, **environment):
    """The output of a build with an nvcc of that release on the path, and the options of this compiler."""
    nvcc = project / "toolkit" / "bin" / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.0"\n')
    nvcc.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST")}
    path = f"{nvcc.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(
        words, cwd=project, env={**kept, "PATH": path, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_toolkit_of_another_version_leaves_the_cpu_library(project):
    pytest.importorskip("ninja")
    done = build(project, "9.2")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("hagan3d:")]
    assert line.startswith("hagan3d: hagan3d._C_cuda left out:")
    assert "9.2" in line
    assert (project / "hagan3d" / "_C.so").exists()
    assert not (project / "hagan3d" / "_C_cuda.so").exists()


@pytest.mark.slow
def test_a_build_that_fails_leaves_no_library_of_other_sources(project):
    pytest.importorskip("ninja")
    assert build(project, "9.2").returncode == 0
    assert (project / "hagan3d" / "_C.so").exists()
    (project / "csrc" / "ops.cpp").write_text("int answer() { return nothing; }\n")
    done = build(project, "9.2")
    assert done.returncode == 0 and "hagan3d._C left out, its build failed" in done.stdout
    assert not list(project.rglob("_C.so"))


@pytest.mark.slow
def test_in_ci_nothing_is_left_out(project):
    done = build(project, "9.2", CI="1")
    assert done.returncode != 0
    assert "mismatches" in done.stderr


@pytest.mark.parametrize(("release", "has_volta"), [("12.8", True), ("13.0", False)])
def test_volta_is_compiled_for_where_the_toolkit_can(project, release, has_volta):
    code = "import os; import setuptools; setuptools.setup = lambda **_: print(os.environ['TORCH_CUDA_ARCH_LIST'])"
    (project / "sitecustomize.py").write_text(code)
    done = build(project, release, PYTHONPATH=str(project), HAGAN3D_NO_BUILD="1")
    assert ("7.0;" in done.stdout) == has_volta, done.stderr
    assert "7.5;" in done.stdout
