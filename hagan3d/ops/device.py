"""The device of a run, and the precision of float32 on it."""

import torch

from hagan3d.errors import InputError


def find_device(option: str, name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu`` or ``cuda``; a GPU with its index, which some calls of torch require.

    Args:
        option: Setting that names it, for the message.
        name: ``auto`` is the current GPU, or the CPU if torch sees none.

    Raises:
        InputError: If there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{option} cuda: torch sees no GPU here; use {option} cpu, or see `hagan3d doctor`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


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
