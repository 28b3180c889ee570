"""Losses of restoration: normalized MSE, frequency loss, Charbonnier, total variation along D."""

import torch
from torch import Tensor

from hagan3d.losses.voxels import masked_mean


def nmse(fake: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Normalized error: norm of the error over norm of the target of each volume, averaged, a scalar.

    The published name is normalized mean squared error, but norms are not squared there (tensorlayer/DAGAN, train.py).

    Args:
        fake: Restored volumes ``[B, C, D, H, W]`` in [-1, 1], which count as they are: background is -1.
        real: Targets.
        mask: Voxels of both norms ``[B, 1, D, H, W]``; None: all.

    Source: Yang et al., DAGAN, IEEE TMI 37(6), 2018, equation 9.
    """
    weights = torch.ones_like(real) if mask is None else (mask > 0).to(real.dtype).expand_as(real)
    error, power = ((weights * x.square()).flatten(1).sum(1) for x in (fake - real, real))
    return ((error + 1e-12) / power.clamp(min=1e-6)).sqrt().mean()  # the root has no gradient at 0


def frequency_l2(fake: Tensor, real: Tensor) -> Tensor:
    """Frequency loss: mean squared difference of spectral magnitudes of ``[B, C, D, H, W]``, a scalar, float32.

    Of magnitudes, since the squared difference of complex spectra equals that of the volumes (Parseval). The half
    spectrum of a real volume represents the whole: all but its first and (of an even side) last plane count twice.

    Source: Yang et al., DAGAN, IEEE TMI 37(6), 2018, equation 10.
    """
    with torch.autocast(fake.device.type, enabled=False):
        one, other = (_magnitude(x) for x in (fake, real))
        twice = torch.full((one.shape[-1],), 2.0, device=fake.device, dtype=one.dtype)
        twice[0] = 1
        if fake.shape[-1] % 2 == 0:
            twice[-1] = 1
        return ((one - other).square() * twice).sum() / fake.numel()


def gradient_difference(fake: Tensor, real: Tensor) -> Tensor:
    """Gradient difference loss: mean of (|d real| - |d fake|)^2 over voxels, summed over the axes, a scalar.

    d is the difference of neighbouring voxels of ``[B, C, D, H, W]`` along an axis; an axis of one voxel has none.

    Source: Nie et al., Medical Image Synthesis with Context-Aware Generative Adversarial Networks, MICCAI 2017, eq. 4.
    """
    axes = [axis for axis in (2, 3, 4) if fake.shape[axis] > 1]
    return torch.stack([(real.diff(dim=axis).abs() - fake.diff(dim=axis).abs()).square().mean() for axis in axes]).sum()


def charbonnier(fake: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Charbonnier loss: mean of sqrt(error^2 + 1e-6), an L1 loss that is smooth at 0, a scalar; see `masked_mean`.

    Source: Charbonnier et al., Two deterministic half-quadratic regularization algorithms, ICIP 1994.
    """
    return masked_mean(((fake - real).square() + 1e-6).sqrt(), mask)


def slice_tv(fake: Tensor, real: Tensor, kind: str = "l2") -> Tensor:
    """Total variation along axis D, a scalar.

    Args:
        fake: Restored volumes ``[B, C, D, H, W]``.
        real: Targets; used by ``match`` alone.
        kind: ``l2``: mean squared difference of adjacent slices; ``l1``: mean absolute one; ``match``: L1 between that
            difference and the target's, which is 0 for the target itself.

    Source: total variation of Rudin et al., Physica D 60, 1992, along one axis.
    """
    differences = fake.diff(dim=2)
    if kind == "match":
        return (differences - real.diff(dim=2)).abs().mean()
    return differences.abs().mean() if kind == "l1" else differences.square().mean()


def _magnitude(x: Tensor) -> Tensor:
    """Magnitude of the half spectrum; its gradient at 0 is 0."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.fft.rfftn(wide, dim=(2, 3, 4), norm="ortho").abs()
