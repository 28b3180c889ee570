"""Perceptual, content and style losses: differences of feature maps and of their Gram matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def feature_l1(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of feature maps, summed over layers, a scalar.

    Args:
        fake: Feature maps ``[B, C, D, H, W]`` of generated volumes, one per layer.
        real: Those of real volumes; no gradient reaches them.

    Source: Armanious et al., MedGAN, Computerized Medical Imaging and Graphics 79, 2020, equation 3.
    """
    return torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(fake, real, strict=True)]).sum()


def multiscale_l1(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of feature maps, averaged over layers, a scalar; gradients reach both.

    Arguments as in `feature_l1`. Source: Xue et al., SegAN, Neuroinformatics 16, 2018, equations 1 and 2.
    """
    return torch.stack([F.l1_loss(a, b) for a, b in zip(fake, real, strict=True)]).mean()


def content_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of feature maps, summed over layers, a scalar; arguments as in `feature_l1`.

    Source: Armanious et al., MedGAN, 2020, equation 6.
    """
    return torch.stack([F.mse_loss(a, b.detach()) for a, b in zip(fake, real, strict=True)]).sum()


def style_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Squared difference of Gram matrices / (4 C^2), averaged over volumes and summed over layers, a scalar.

    Arguments as in `feature_l1`. Source: Armanious et al., MedGAN, 2020, equations 4 and 5.
    """
    pairs = zip(fake, real, strict=True)
    return torch.stack([(gram(a) - gram(b.detach())).square().sum((1, 2)).mean() / 4 / a.shape[1] ** 2
                        for a, b in pairs]).sum()  # fmt: skip


def gram(x: Tensor) -> Tensor:
    """Gram matrix of ``x [B, C, ...]``, averaged over voxels: ``[B, C, C]``, float32.

    Features are divided by the root of the number of voxels before the product: the sum over a large volume would
    overflow in half precision.
    """
    with torch.autocast(x.device.type, enabled=False):
        flat = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2)
        flat = flat / flat.shape[2] ** 0.5
        return flat @ flat.transpose(1, 2)
