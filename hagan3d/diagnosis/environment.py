"""Versions of what is installed, pairs of them that are known to fail, and which operators are used."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator

import torch

from hagan3d import __version__, ops
from hagan3d.diagnosis.report import Finding
from hagan3d.ops.device import has_tf32
from hagan3d.ops.extension import missing_kernels

LEAST_CUDNN = 91500
"""cuDNN 9.15. From 9.8 up to it, bfloat16 and float16 convolutions of volumes leave cuDNN: 3 to 17 times the memory."""
SLOW_CUDNN = 90800


def environment(device: torch.device) -> Iterator[Finding]:
    """Yield the versions, and a failure for each pair that is known to be bad."""
    versions = f"hagan3d {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
    yield Finding("versions", "ok", f"{versions}{platform.system()} {platform.machine()}")
    yield Finding("CUDA", "ok", _cuda_line())
    if device.type == "cuda":
        yield _card(device)
        yield _cudnn(torch.backends.cudnn.version() or 0)
        yield Finding("TF32", "note", f"{'on' if has_tf32() else 'off'} here; train.tf32 sets it for training")
    reason = missing_kernels(device)
    text = f"{ops.backend()}; {_toolkit()}"
    if reason and device.type == "cpu" and shutil.which(os.environ.get("CXX", "c++")) is None:
        yield Finding("operators", "note", f"{text}; no C++ compiler: the references compute the same, slower")
    elif reason:
        remedy = "build them by `make build`, or by `pip install --force-reinstall --no-deps .` in the sources"
        yield Finding("operators", "FAILED", f"{text}; {remedy}")
    else:
        yield Finding("operators", "ok", text)


def _cuda_line() -> str:
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch is built for CUDA {torch.version.cuda}; it sees no GPU"
    return f"torch is built for CUDA {torch.version.cuda}; driver {_driver()}; {torch.cuda.device_count()} GPU(s)"


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip() or "unknown"


def _toolkit() -> str:
    """Describe the CUDA toolkit, which compiles the operators."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "no nvcc"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release ([\d.]+)", text)
    return f"nvcc {release[1]}" if release else "nvcc of unknown version"


def _card(device: torch.device) -> Finding:
    """Return whether torch has kernels for the GPU."""
    major, minor = torch.cuda.get_device_capability(device)
    free, total = torch.cuda.mem_get_info(device)
    memory = f"{total / 1e9:.1f} GB ({free / 1e9:.1f} free)"
    text = f"{torch.cuda.get_device_name(device)}, capability {major}.{minor}, {memory}"
    architectures = [int(name.split("_")[1].rstrip("af")) for name in torch.cuda.get_arch_list() if name[:3] == "sm_"]
    own = 10 * major + minor
    if architectures and not any(a // 10 == major and a <= own for a in architectures):
        return Finding("GPU", "FAILED", f"{text}: this torch has no kernels for it; install one that has")
    return Finding("GPU", "ok", text)


def _cudnn(version: int) -> Finding:
    """Return whether the cuDNN that was loaded is good for volumes."""
    text = f"{version // 10000}.{version // 100 % 100}.{version % 100}" if version else "none"
    if SLOW_CUDNN <= version < LEAST_CUDNN:
        return Finding(
            "cuDNN", "FAILED", f"{text} computes bf16 and fp16 convolutions of volumes without its kernels: use 9.15 on"
        )
    return Finding("cuDNN", "ok" if version else "FAILED", text)
