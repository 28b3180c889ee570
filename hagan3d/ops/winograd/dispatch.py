"""Where Winograd convolutions replace PyTorch's: one predicate with all thresholds, and the switch to turn them off.

Set ``HAGAN3D_WINOGRAD=0`` before Python starts to use PyTorch's convolutions (oneDNN) everywhere. ``conv`` or
``upsample`` leaves only that one on.
"""

import os

import torch
from torch import Tensor

from hagan3d.ops.extension import has_kernels

SWITCH = "HAGAN3D_WINOGRAD"
CONV, UPSAMPLE = "conv", "upsample"
_SETTINGS = {"0": frozenset[str](), "1": frozenset({CONV, UPSAMPLE}), CONV: {CONV}, UPSAMPLE: {UPSAMPLE}}

# PyTorch takes its slow kernels, not oneDNN, for a single volume with C x D x H up to this.
SLOW_CONV_SIZE = 20480

# Thresholds measured on CPU in float32 by benchmarks/kernels.py. A convolution gains
# - with many channels on both sides, if a slice has enough voxels per channel to amortise the weight transform;
# - with few output channels, for which oneDNN has no blocked kernel;
# - in place of PyTorch's slow kernels, from fewer channels on.
MANY_CHANNELS, SLICE_VOXELS_PER_CHANNEL = 32, 4
FEW_OUT_CHANNELS, TO_FEW_IN_CHANNELS = 4, 16
SLOW_CHANNELS, VOXELS_PER_CHANNEL = 8, 4
# An up-convolution gains on more than this many input voxels, if a slice of the input has enough values or there are
# enough input channels.
UPSAMPLE_VOXELS, UPSAMPLE_CHANNELS, UPSAMPLE_SLICE_VALUES = 32, 64, 1 << 14


def enabled_parts(setting: str) -> frozenset[str]:
    """Return the parts that a value of the environment variable switches on.

    Raises:
        ValueError: If the value is invalid.
    """
    if setting not in _SETTINGS:
        raise ValueError(f"{SWITCH}: must be one of {', '.join(_SETTINGS)}, got {setting!r}")
    return frozenset(_SETTINGS[setting])


ENABLED = enabled_parts(os.environ.get(SWITCH, "1"))


def has_winograd(x: Tensor, part: str = CONV) -> bool:
    """Return whether a Winograd kernel exists: CPU, compiled, switched on, float32 or float64, no autocast."""
    if x.device.type != "cpu" or part not in ENABLED or not has_kernels(x):
        return False
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def use_winograd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: tuple[int, int, int] = (1, 1, 1),
    upsample: bool = False,
) -> bool:
    """Return whether a Winograd kernel is available and faster for a 3^3 convolution of stride 1.

    Apart from single volumes that PyTorch would convolve with its slow kernels, the answer does not depend on the
    number of slices D, so that a sub-volume is computed as the volume is.

    Args:
        x: ``[B, C_in, D, H, W]``.
        weight: ``[C_out, C_in, *kernel]``.
        bias: ``[C_out]`` or None.
        padding: Zeros at both ends of D, H, W.
        upsample: Whether nearest x2 upsampling precedes the convolution.
    """
    if upsample:
        return _upsample_gains(x, weight) and has_winograd(x, UPSAMPLE)
    return _fits(x, weight, bias, padding) and has_winograd(x, CONV) and _conv_gains(x, weight, bias)


def is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether only the input of a convolution needs a gradient."""
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and x.requires_grad and not learns


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> bool:
    """Return whether the shapes are those of the kernel; PyTorch reports the ones that no convolution accepts."""
    if x.ndim != 5 or weight.shape[1:] != (x.shape[1], 3, 3, 3) or x.dtype != weight.dtype:
        return False
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != x.dtype):
        return False
    return padding[0] <= 2 and padding[1:] == (1, 1) and x.shape[2] + 2 * padding[0] >= 3


def _conv_gains(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    B, C, D, H, W = x.shape
    few, many = sorted(weight.shape[:2])
    if few >= MANY_CHANNELS and many * SLICE_VOXELS_PER_CHANNEL <= H * W:
        return True
    if len(weight) <= FEW_OUT_CHANNELS and C >= TO_FEW_IN_CHANNELS:
        return True
    channels = few if is_frozen(x, weight, bias) else C  # the backward convolution, too, if there is one
    is_slow = B == 1 and channels * D * H <= SLOW_CONV_SIZE and many * VOXELS_PER_CHANNEL <= D * H * W
    return is_slow and few >= SLOW_CHANNELS


def _upsample_gains(x: Tensor, weight: Tensor) -> bool:
    c_out, c_in = weight.shape[:2]
    if x[:, 0].numel() <= UPSAMPLE_VOXELS:
        return False
    return x[0, :, 0].numel() >= UPSAMPLE_SLICE_VALUES or (c_in >= UPSAMPLE_CHANNELS and c_out > FEW_OUT_CHANNELS)
