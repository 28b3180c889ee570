"""The device inference runs on."""

import torch

from hagan3d.errors import InputError


def inference_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` names.

    Raises:
        InputError: If there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; take --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
