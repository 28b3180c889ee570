"""The up-convolution: nearest x2 upsampling and a 3^3 convolution as one transposed convolution of 4^3 taps."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

METHODS = ("auto", "plain", "transposed")

_folds: ContextVar[dict[tuple[int, int, bool], tuple[Tensor, Tensor]] | None] = ContextVar("folds", default=None)


def upsample_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int = 0, method: str = "auto") -> Tensor:
    """Upsample by nearest x2, convolve with a 3^3 kernel and padding 1, cut ``trim`` slices off each end of axis D.

    Args:
        x: Feature maps ``[B, C_in, D, H, W]``.
        weight: Kernel ``[C_out, C_in, 3, 3, 3]``, kept in its own precision under autocast until it is folded.
        bias: ``[C_out]`` or None.
        trim: 0, 1 or 2 output slices to leave out at both ends of D.
        method: ``plain`` makes the upsampled tensor, the others do not; ``auto`` takes what was measured fastest.

    Returns:
        ``[B, C_out, 2 * D - 2 * trim, 2 * H, 2 * W]``. Any number of times differentiable.

    Raises:
        ValueError: If the shapes disagree or ``method`` or ``trim`` is none of those named.

    Source: the sub-pixel identity; per axis the taps (w0, w1, w2) become (w2, w1 + w2, w0 + w1, w0).
    """
    _check(x, weight, bias, trim, method)
    if method == "plain":
        return upsample_conv3d_reference(x, weight, bias, trim)
    return F.conv_transpose3d(x, _shared_fold(weight), bias, stride=2, padding=(1 + trim, 1, 1))


def upsample_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int = 0) -> Tensor:
    """``upsample_conv3d`` as the two steps it stands for, unchecked."""
    y = F.conv3d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return y[:, :, trim : y.shape[2] - trim]


def fold_weight(weight: Tensor) -> Tensor:
    """Fold a 3^3 kernel ``[C_out, C_in, 3, 3, 3]`` into that of the transposed form ``[C_in, C_out, 4, 4, 4]``.

    Sums of slices, so that autocast leaves the precision alone and a gradient of any order passes.
    """
    for dim in (2, 3, 4):
        w0, w1, w2 = weight.unbind(dim)
        weight = torch.stack((w2, w1 + w2, w0 + w1, w0), dim)
    return weight.transpose(0, 1)


@contextmanager
def shared_folds() -> Iterator[None]:
    """Fold every weight once inside this context, which must not change a weight."""
    token = _folds.set({})
    try:
        yield
    finally:
        _folds.reset(token)


def _shared_fold(weight: Tensor) -> Tensor:
    folds = _folds.get()
    if folds is None:
        return fold_weight(weight)
    key = (id(weight), weight._version, torch.is_grad_enabled() and weight.requires_grad)
    if key not in folds:
        folds[key] = (weight, fold_weight(weight))  # the weight is held: its id stays its own
    return folds[key][1]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, trim: int, method: str) -> None:
    if x.ndim != 5 or weight.shape != (weight.shape[0], x.shape[1], 3, 3, 3):
        raise ValueError(
            f"want x [B, C_in, D, H, W] and weight [C_out, C_in, 3, 3, 3], got {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"want bias [{weight.shape[0]}], got {tuple(bias.shape)}")
    if trim not in (0, 1, 2) or 2 * x.shape[2] <= 2 * trim:
        raise ValueError(f"want trim 0, 1 or 2 and less than D = {x.shape[2]}, got {trim}")
    if method not in METHODS:
        raise ValueError(f"want a method among {', '.join(METHODS)}, got {method}")
