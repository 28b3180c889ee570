"""Build of the compiled operators: the CPU library where a compiler is found, the CUDA library where nvcc is too.

Nothing here asks for a GPU. A library that cannot be built is left out with one line, and the package falls back to
its PyTorch references; ``hagan3d.ops.backend()`` says which it uses.
"""

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

CSRC = Path("csrc")
CUDA_LIBRARY = "hagan3d._C_cuda"
ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0+PTX"
VOLTA = "7.0"  # of the V100: compiled by toolkits up to CUDA 12
TARGET_VERSION = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # PyTorch 2.11
# Without errno and traps loops over exp and log become vector code; infinities and NaN keep their meaning.
CPU_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-Wall", "-Wextra", TARGET_VERSION]
CUDA_FLAGS = ["-O3", "-DUSE_CUDA", TARGET_VERSION]


def main() -> None:
    """Run setuptools with the extensions that this machine can build."""
    _use_toolkit_root()
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", _architectures())
    os.environ.setdefault("MAX_JOBS", "2")
    try:
        extensions, command = _extensions()
    except ImportError as error:
        print(f"hagan3d: compiled operators left out: {error}")
        extensions, command = [], {}
    packages = [*find_packages(include=["hagan3d", "hagan3d.*"]), "hagan3d.configs"]  # the last one lies in configs/
    # The libraries use PyTorch's stable ABI and nothing of CPython: one wheel serves every Python from 3.11 on.
    options = {"bdist_wheel": {"py_limited_api": "cp311"}}
    setup(packages=packages, ext_modules=extensions, cmdclass=command, options=options)


def _use_toolkit_root() -> None:
    """Point CUDA_HOME at the toolkit itself, for an ``nvcc`` on PATH can be a wrapper that lives elsewhere."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or "CUDA_HOME" in os.environ:
        return
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    if top:
        os.environ["CUDA_HOME"] = str(Path(top.group(1).strip()).resolve())


def _architectures() -> str:
    """Return the compute capabilities to compile for: Volta too, where the toolkit still can."""
    nvcc = Path(os.environ["CUDA_HOME"], "bin", "nvcc") if "CUDA_HOME" in os.environ else shutil.which("nvcc")
    try:
        version = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ARCHITECTURES
    release = re.search(r"release (\d+)", version)
    return f"{VOLTA};{ARCHITECTURES}" if release and int(release[1]) < 13 else ARCHITECTURES


def _extensions() -> tuple[list[Any], dict[str, Any]]:
    """Give what is to be built, and by which commands."""
    from torch.utils import cpp_extension

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU

    class BuildWhatWorks(cpp_extension.BuildExtension):  # type: ignore[misc]
        """Leave out a library whose build fails: the other one and the package are still of use."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except (RuntimeError, FileNotFoundError) as error:  # torch refuses a toolkit before it compiles anything
                rest = [ext for ext in self.extensions if ext.name != CUDA_LIBRARY]
                if os.environ.get("CI") or len(rest) == len(self.extensions):
                    raise
                reason, *versions = error.args
                print(f"hagan3d: {CUDA_LIBRARY} left out: {str(reason) % tuple(versions) if versions else reason}")
                self.extensions = rest
                super().build_extensions()

        def build_extension(self, ext: Any) -> None:
            try:
                super().build_extension(ext)
            except Exception as error:
                if os.environ.get("CI"):
                    raise
                self._remove(ext)
                print(f"hagan3d: {ext.name} left out, its build failed: {error}")

        def _remove(self, ext: Any) -> None:
            """Remove what an earlier build left, which is of other sources."""
            file = self.get_ext_filename(self.get_ext_fullname(ext.name))
            for folder in (self.build_lib, "."):
                Path(folder, file).unlink(missing_ok=True)

        def copy_extensions_to_source(self) -> None:
            self.extensions = [ext for ext in self.extensions if self._built(ext)]
            super().copy_extensions_to_source()

        def _built(self, ext: Any) -> bool:
            return Path(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name))).exists()

    if "HAGAN3D_NO_BUILD" in os.environ:  # the Makefile builds in place instead, where a second build is incremental
        return [], {}
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        print("hagan3d: compiled operators left out: no C++ compiler")
        return [], {}
    return _libraries(), {"build_ext": BuildWhatWorks.with_options(no_python_abi_suffix=True)}


def _libraries() -> list[Any]:
    """Give the CPU library, and that for CUDA where torch has it and a toolkit is found."""
    import torch
    from torch.utils import cpp_extension

    common = {
        "include_dirs": [str(CSRC.resolve())],
        "py_limited_api": True,
        "depends": sorted(map(str, CSRC.rglob("*.h"))),
    }
    cpu = cpp_extension.CppExtension(
        "hagan3d._C",
        sorted(map(str, [*CSRC.glob("*.cpp"), *(CSRC / "cpu").rglob("*.cpp")])),
        extra_compile_args=CPU_FLAGS,
        **common,
    )
    if not (torch.version.cuda and cpp_extension.CUDA_HOME):
        return [cpu]
    cuda = cpp_extension.CUDAExtension(
        CUDA_LIBRARY,
        sorted(map(str, (CSRC / "cuda").glob("*.cu"))),
        library_dirs=[str(Path(cpp_extension.CUDA_HOME, "lib"))],
        extra_compile_args={"cxx": CPU_FLAGS, "nvcc": CUDA_FLAGS},
        **common,
    )
    return [cpu, cuda]


main()
