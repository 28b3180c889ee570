"""Loading of the compiled libraries, and the reason if one is missing or does not run on this GPU."""

from pathlib import Path

import torch
from torch import Tensor

from hagan3d.ops.device import device_kind, is_planning

_FOLDER = Path(__file__).parents[1]
_NO_DEVICE = "no CUDA device"


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
        return _NO_DEVICE
    return _NO_CPU or _load("_C_cuda.so") or _launch()  # the schemas are in the CPU library


def _launch() -> str:
    """Run one tiny kernel; return the reason if it fails, as on a GPU that nothing was compiled for."""
    try:
        x, channel = torch.ones(1, 1, 1, 1, 1, device="cuda"), torch.ones(1, device="cuda")
        torch.ops.hagan3d.rms_norm(x, channel, channel, False, 1e-6).item()
    except RuntimeError as error:
        major, minor = torch.cuda.get_device_capability()
        return f"do not run on compute capability {major}.{minor}: {str(error).splitlines()[0]}"
    return ""


_NO_CPU = _load("_C.so")
_NO_CUDA: str | None = None  # None: not tried yet
LOADED = not _NO_CPU  # whether the schemas exist, so that autograd and fake kernels can be registered


def _no_cuda() -> str:
    """Return why there are no CUDA kernels, or an empty string.

    They are tried when they are needed first: by then a process has chosen its GPU, and one without need opens none.
    """
    global _NO_CUDA
    if _NO_CUDA is None:
        _NO_CUDA = _load_cuda()
    return _NO_CUDA


def has_kernels(x: Tensor) -> bool:
    """Return whether compiled kernels exist for the device of ``x``; a GPU that is planned for has them."""
    if device_kind(x) == "cuda":
        return LOADED if is_planning() else not _no_cuda()
    return device_kind(x) == "cpu" and not _NO_CPU


def backend() -> str:
    """Describe in one line, for the log of a run, which implementation of the operators this process uses."""
    if _NO_CPU:
        return f"PyTorch references (compiled operators {_NO_CPU})"
    reason = _no_cuda()
    if reason == _NO_DEVICE:
        return "compiled CPU kernels"
    if reason:
        return f"compiled CPU kernels; PyTorch references on CUDA (compiled operators {reason})"
    return "compiled CPU and CUDA kernels"


def missing_kernels(device: torch.device) -> str:
    """Return why the references compute the operators on a device, which is slower; else an empty string."""
    return _no_cuda() if device.type == "cuda" else _NO_CPU
