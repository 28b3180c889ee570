"""The CUDA kernels without a GPU: compiled for the host, they pass the tests of the operators in place of the CPU's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hagan3d

ROOT = Path(__file__).parents[2]
BUILD = Path(__file__).parent / "cuda_on_host" / "build.py"
SLOW = "recovers"  # hundreds of steps over many voxels: nothing that one step would not show
SUITES = ("test_ggd.py", "test_rms_norm.py", "test_subvolume.py", "test_kernels.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the package, whose library has the CUDA kernels in place of those for the CPU."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("cuda_on_host")
    package = Path(hagan3d.__file__).parent
    shutil.copytree(package, folder / "hagan3d", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    subprocess.run([sys.executable, BUILD, ROOT / "csrc", folder / "hagan3d" / "_C.so"], check=True)
    return folder


def python(place, *words):
    """What a Python prints that imports the package from there."""
    surroundings = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    surroundings.pop("CI", None)  # the library of the GPU is not there, and its test is skipped
    return subprocess.run([sys.executable, *words], cwd=place, env=surroundings, capture_output=True, text=True)


@pytest.mark.slow
def test_the_kernels_for_cuda_pass_the_tests_of_the_operators(place):
    suites = [str(Path(__file__).parent / name) for name in SUITES]
    done = python(place, "-m", "pytest", "-p", "no:cacheprovider", "-k", f"not {SLOW}", *suites)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 200


@pytest.mark.slow
def test_a_barrier_that_not_all_threads_reach_is_found(place, tmp_path):
    source = tmp_path / "parted.cpp"
    source.write_text(
        '#include "cuda_runtime.h"\n'
        "int main() { on_host::launch(1, 64, 0, nullptr, [] { if (threadIdx.x != 3) __syncthreads(); }); }"
    )
    program = tmp_path / "parted"
    subprocess.run(["c++", "-std=c++20", f"-I{BUILD.parent}", source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode != 0
    assert "parted before a barrier" in done.stderr
