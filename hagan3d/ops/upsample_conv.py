"""Up-convolution: nearest x2 upsampling and a 3^3 convolution fused, without storing the upsampled tensor.

Along one axis, output voxels 2i and 2i + 1 are w0 x[i-1] + (w1 + w2) x[i] and (w0 + w1) x[i] + w2 x[i+1]: two taps on
the small input instead of three on the upsampled one, 8 multiply-adds per output voxel instead of 27.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.ops import forms
from hagan3d.ops.contraction import with_bias_gradient
from hagan3d.ops.conv import Fold, conv3d, conv_transpose3d, plain_conv3d
from hagan3d.ops.device import device_kind
from hagan3d.ops.winograd.dispatch import has_winograd, use_winograd
from hagan3d.ops.winograd.upsample import upsample_conv3d_winograd

METHODS = ("auto", "plain", "transposed", "parity", "winograd")

# Thresholds measured on CPU in float32 by benchmarks/kernels.py. On few voxels, folding the weight costs more than it
# saves: `plain`. For few output channels `parity` is faster than `transposed`. Both gain from channels-last layout on
# many voxels with a moderate number of channels.
_PARITY_CHANNELS = 4
_PLAIN_VOXELS = 64
_CHANNELS_LAST_VOXELS = 4096
_CHANNELS_LAST_CHANNELS = 128


def upsample_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int = 0, method: str = "auto") -> Tensor:
    """Nearest x2 upsampling, then a 3^3 convolution with padding 1; ``trim`` slices are cut off each end of D.

    Args:
        x: Feature maps ``[B, C_in, D, H, W]``.
        weight: Kernel ``[C_out, C_in, 3, 3, 3]``, folded in its own precision also under autocast; or flat, ``[C_out,
            C_in, 1, 3, 3]``, which upsamples H and W alone, by ``plain`` or ``transposed``.
        bias: ``[C_out]`` or None.
        trim: 0, 1 or 2 output slices to omit at both ends of D.
        method: ``plain`` stores the upsampled tensor; ``transposed`` is one transposed convolution with 4^3 taps;
            ``parity`` is a convolution with 2^3 taps and 8 C_out channels, interleaved; ``winograd`` needs 27 products
            per voxel of x, not 64, but more additions (if `has_winograd`; else ``transposed``); ``auto`` selects the
            fastest, by the table of `forms.using` or a fixed rule.

    Returns:
        ``[B, C_out, 2 * D - 2 * trim, 2 * H, 2 * W]``, of a flat kernel ``[B, C_out, D, 2 * H, 2 * W]``; contiguous or
        channels last. Any number of times differentiable.

    Raises:
        ValueError: If the shapes disagree or ``method`` or ``trim`` is invalid.

    Source: Shi et al., Real-time single image super-resolution with sub-pixel convolution, CVPR 2016, for the
    interleaving; the folded taps follow from the formula at the top of this file.
    """
    _check(x, weight, bias, trim, method)
    if method == "auto":
        method = forms.chosen("upsample_conv3d", x, weight, trim) or fixed_method(x, weight)
        x = x if method == "winograd" else _fast_layout(forms.in_layout(x))
    if method == "plain":
        return upsample_conv3d_reference(x, weight, bias, trim)
    if method == "parity" and not _is_flat(weight):
        return _by_parity(x, weight, bias, trim)
    if method == "winograd" and has_winograd(x) and not _is_flat(weight) and _is_of_one_type(x, weight, bias):
        return upsample_conv3d_winograd(x, weight, bias, trim)
    return _by_transposition(x, weight, bias, trim)


def upsample_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int = 0) -> Tensor:
    """``upsample_conv3d`` as two PyTorch operations, without argument checks."""
    along_d = 1 if _is_flat(weight) else 2
    upsampled = F.interpolate(x, scale_factor=(along_d, 2, 2), mode="nearest")
    y = plain_conv3d(upsampled, weight, bias, (1, 1, 1), (along_d - 1, 1, 1))
    return y[:, :, trim : y.shape[2] - trim]


def fold_weight(weight: Tensor) -> Tensor:
    """Fold a 3^3 kernel ``[C_out, C_in, 3, 3, 3]`` into that of the transposed convolution ``[C_in, C_out, 4, 4, 4]``.

    A flat one, ``[C_out, C_in, 1, 3, 3]``, becomes ``[C_in, C_out, 1, 4, 4]``. One product with a constant 0/1 matrix,
    in the precision of the weight also under autocast.
    """
    c_out, c_in = weight.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        folded = weight.transpose(0, 1).reshape(-1, weight[0, 0].numel()) @ _taps(weight)
    return folded.view(c_in, c_out, 1 if _is_flat(weight) else 4, 4, 4)


def unfold_weight(folded: Tensor) -> Tensor:
    """Adjoint of `fold_weight`: gradient in the 3^3 kernel from that in the folded one."""
    c_in, c_out, along_d = folded.shape[:3]
    taps = (c_out, c_in, *((1, 3, 3) if along_d == 1 else (3, 3, 3)))
    with torch.autocast(folded.device.type, enabled=False):
        weight = folded.reshape(c_in * c_out, -1) @ _taps(folded).t()
    return weight.view(c_in, c_out, -1).transpose(0, 1).reshape(taps)


def _taps(weight: Tensor) -> Tensor:
    """Matrix ``[27, 64]`` (flat: ``[9, 16]``) from taps to folded taps; along one axis w2, w1 + w2, w0 + w1, w0."""
    # Computed where the weight is: a copy of constants from the host would wait for all kernels before it.
    place = torch.arange(3, device=weight.device)[:, None] + torch.arange(4, device=weight.device)
    axis = ((place == 2) | (place == 3)).to(weight.dtype)
    taps = torch.kron(axis, axis)
    return taps if _is_flat(weight) else torch.kron(taps, axis)


_FOLDED = Fold(fold_weight, unfold_weight)


def _is_flat(weight: Tensor) -> bool:
    """Return whether a kernel is one of slices, with a single tap along D."""
    return weight.shape[2] == 1


def fold_parities(weight: Tensor) -> Tensor:
    """Fold a 3^3 kernel ``[C_out, C_in, 3, 3, 3]`` into eight kernels with 2^3 taps, ``[8 * C_out, C_in, 2, 2, 2]``.

    Ordered by parity, odd before even along each axis: output voxels 2i - 1 and 2i lie between x[i-1] and x[i].
    """
    for dim in (2, 3, 4):
        w0, w1, w2 = weight.unbind(dim)
        weight = torch.stack((w0 + w1, w2, w0, w1 + w2), dim)
    c_out, c_in = weight.shape[:2]
    return weight.view(c_out, c_in, 2, 2, 2, 2, 2, 2).permute(2, 4, 6, 0, 1, 3, 5, 7).reshape(8 * c_out, c_in, 2, 2, 2)


def unfold_parities(folded: Tensor) -> Tensor:
    """Adjoint of `fold_parities`: gradient in the 3^3 kernel from that in the eight."""
    c_out, c_in = len(folded) // 8, folded.shape[1]
    weight = folded.view(2, 2, 2, c_out, c_in, 2, 2, 2).permute(3, 4, 0, 5, 1, 6, 2, 7).reshape(c_out, c_in, 4, 4, 4)
    for dim in (2, 3, 4):
        w01, w2, w0, w12 = weight.unbind(dim)
        weight = torch.stack((w01 + w0, w01 + w12, w2 + w12), dim)
    return weight


_PARITIES = Fold(fold_parities, unfold_parities)


def _by_transposition(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int) -> Tensor:
    fixed = None if bias is None else bias.detach()
    stride, padding = ((1, 2, 2), (0, 1, 1)) if _is_flat(weight) else ((2, 2, 2), (1 + trim, 1, 1))
    y = conv_transpose3d(x, weight, fixed, stride=stride, padding=padding, fold=_FOLDED)
    return with_bias_gradient(y, bias)


def _by_parity(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int) -> Tensor:
    y = conv3d(x, weight, None if bias is None else bias.repeat(8), padding=(1, 1, 1), fold=_PARITIES)
    # [B, 8 C_out, D + 1, H + 1, W + 1]
    B, _, D, H, W = y.shape
    y = (
        y.view(B, 2, 2, 2, weight.shape[0], D, H, W)
        .permute(0, 4, 5, 1, 6, 2, 7, 3)
        .reshape(B, weight.shape[0], 2 * D, 2 * H, 2 * W)
    )
    return y[:, :, 1 + trim : -1 - trim, 1:-1, 1:-1].contiguous()


def available_methods(x: Tensor, weight: Tensor) -> list[str]:
    """Return the methods that differ for these tensors on their device."""
    if _is_flat(weight):
        return ["plain", "transposed"]
    return ["plain", "transposed", "parity", *(["winograd"] if has_winograd(x) else [])]


def fixed_method(x: Tensor, weight: Tensor) -> str:
    """Return the method that the fixed rule selects."""
    voxels = x[:, 0].numel()
    if not _is_flat(weight) and use_winograd(x, weight):
        return "winograd"
    if device_kind(x) == "cpu" and voxels <= _PLAIN_VOXELS:
        return "plain"
    return "parity" if len(weight) <= _PARITY_CHANNELS and not _is_flat(weight) else "transposed"


def _fast_layout(x: Tensor) -> Tensor:
    few_channels, many_voxels = x.shape[1] <= _CHANNELS_LAST_CHANNELS, x[:, 0].numel() >= _CHANNELS_LAST_VOXELS
    if device_kind(x) == "cpu" and few_channels and many_voxels:
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x


def _is_of_one_type(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether all have one dtype; convolutions of PyTorch refuse others themselves."""
    return x.dtype == weight.dtype and (bias is None or x.dtype == bias.dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int, method: str) -> None:
    kernels = ((3, 3, 3), (1, 3, 3))
    if x.ndim != 5 or weight.ndim != 5 or weight.shape[1] != x.shape[1] or weight.shape[2:] not in kernels:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"expected x [B, C_in, D, H, W] and weight [C_out, C_in, 3 or 1, 3, 3], got {shapes}")
    if trim and _is_flat(weight):
        raise ValueError(f"trim must be 0 for a flat kernel, got {trim}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias [{weight.shape[0]}], got {tuple(bias.shape)}")
    if trim not in (0, 1, 2) or 2 * x.shape[2] <= 2 * trim:
        raise ValueError(f"trim must be 0, 1 or 2 and less than D = {x.shape[2]}, got {trim}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method}")
