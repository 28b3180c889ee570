"""The device of a run, and the precision of float32 on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from hagan3d.errors import InputError

_planned = ""


def device_kind(x: Tensor) -> str:
    """Return ``cpu`` or ``cuda``: the device of ``x``, or the one that `planned_for` has set."""
    return _planned or x.device.type


def is_planning() -> bool:
    """Return whether operators are run inside `planned_for`."""
    return bool(_planned)


@contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Let operators on fake CPU tensors take the branches of this kind of device, which need not be here.

    Fake tensors on a GPU cannot be differentiated without one: autograd asks for its context.
    """
    global _planned
    before, _planned = _planned, kind
    try:
        yield
    finally:
        _planned = before


def find_device(option: str, name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu`` or ``cuda``; a GPU with its index, which some calls of torch require.

    Args:
        option: Setting that names it, for the message.
        name: ``auto`` is the current GPU, or the CPU if torch sees none.

    Raises:
        InputError: If there is no GPU, or the name is another.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"{option} {name}: must be auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among several GPUs")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{option} cuda: torch sees no GPU here; use {option} cpu, or see `hagan3d doctor`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def has_bf16(kind: str) -> bool:
    """Return whether the CPU or the GPU of this machine (``cpu``, ``cuda``) has bfloat16 arithmetic.

    CPUs have it with AVX512-BF16 or AMX; without, they are slower in bfloat16 than in float32. GPUs have it from
    compute capability 8.0 on; on a machine without a GPU, one of these is assumed.
    """
    if kind == "cuda":
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def to_device(values: Tensor | np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy values of the host to a device; the host does not wait for what a GPU has to do before."""
    x = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    x = x if dtype is None else x.to(dtype)
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)


def set_tf32(is_on: bool) -> None:
    """Choose whether GPUs compute float32 convolutions and matrix products with 10 bits of mantissa (TF32), not 23.

    It affects GPUs from Ampere on; others have no TF32. PyTorch's default has it on for convolutions alone.
    """
    # One interface alone: torch raises where settings by `allow_tf32` and by `fp32_precision` are mixed.
    torch.backends.cudnn.allow_tf32 = is_on
    torch.backends.cuda.matmul.allow_tf32 = is_on


def has_tf32() -> bool:
    """Return whether float32 convolutions on GPUs are computed in TF32."""
    return torch.backends.cudnn.allow_tf32
