"""Where the Winograd up-convolution replaces PyTorch's: one predicate with all thresholds, and the switch.

Set ``HAGAN3D_WINOGRAD=0`` before Python starts to use PyTorch's convolutions (oneDNN) everywhere.
"""

import os

import torch
from torch import Tensor

from hagan3d.errors import InputError
from hagan3d.ops.device import device_kind
from hagan3d.ops.extension import has_kernels

SWITCH = "HAGAN3D_WINOGRAD"
_SETTINGS = {"0": False, "1": True}

# Thresholds measured on CPU in float32 by benchmarks/kernels.py: it gains on more than this many input voxels, if a
# slice of the input has enough values or there are enough input channels.
VOXELS, CHANNELS, SLICE_VALUES = 32, 64, 1 << 14
FEW_OUT_CHANNELS = 4


def is_on(setting: str) -> bool:
    """Return what a value of the environment variable means.

    Raises:
        InputError: If the value is invalid.
    """
    if setting not in _SETTINGS:
        raise InputError(f"{SWITCH}: must be one of {', '.join(_SETTINGS)}, got {setting!r}")
    return _SETTINGS[setting]


ENABLED = is_on(os.environ.get(SWITCH, "1"))


def has_winograd(x: Tensor) -> bool:
    """Return whether the Winograd kernel exists: CPU, compiled, switched on, float32 or float64, no autocast."""
    if device_kind(x) != "cpu" or not ENABLED or not has_kernels(x):
        return False
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def use_winograd(x: Tensor, weight: Tensor) -> bool:
    """Return whether the Winograd kernel is available and faster for an up-convolution.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, 3, 3, 3]``.
    """
    c_out, c_in = weight.shape[:2]
    if x[:, 0].numel() <= VOXELS or not has_winograd(x):
        return False
    return x[0, :, 0].numel() >= SLICE_VALUES or (c_in >= CHANNELS and c_out > FEW_OUT_CHANNELS)
