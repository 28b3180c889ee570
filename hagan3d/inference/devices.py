"""The device of inference."""

import torch

from hagan3d.ops.device import find_device, set_tf32


def inference_device(name: str) -> torch.device:
    """Return the device named ``auto``, ``cpu`` or ``cuda``, set to full float32: a window equals those slices.

    Raises:
        InputError: If there is no GPU.
    """
    set_tf32(False)
    return find_device("--device", name)
