"""The device of inference."""

import torch

from hagan3d.errors import InputError


def inference_device(name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: If there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
