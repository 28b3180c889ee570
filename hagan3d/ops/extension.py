"""Loading of the compiled libraries, and the reason if one is missing."""

from pathlib import Path

import torch
from torch import Tensor

_FOLDER = Path(__file__).parents[1]


def _load(name: str) -> str:
    """Load one library; return the reason if it is missing, else an empty string."""
    path = _FOLDER / name
    if not path.exists():
        return "not built"
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return f"cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def _load_cuda() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device"
    return _NO_CPU or _load("_C_cuda.so")  # the schemas are in the CPU library


_NO_CPU = _load("_C.so")
_NO_CUDA = _load_cuda()
LOADED = not _NO_CPU  # whether the schemas exist, so that autograd and fake kernels can be registered


def has_kernels(x: Tensor) -> bool:
    """Return whether compiled kernels exist for the device of ``x``."""
    return (x.device.type == "cpu" and not _NO_CPU) or (x.device.type == "cuda" and not _NO_CUDA)


def backend() -> str:
    """Describe in one line, for the log of a run, which implementation of the operators this process uses."""
    if _NO_CPU:
        return f"PyTorch references (compiled operators {_NO_CPU})"
    if _NO_CUDA == "no CUDA device":
        return "compiled CPU kernels"
    if _NO_CUDA:
        return f"compiled CPU kernels; PyTorch references on CUDA (compiled operators {_NO_CUDA})"
    return "compiled CPU and CUDA kernels"
