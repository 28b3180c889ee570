"""The anchor of windows: a small network that translates the low-resolution whole volume, and what a window sees of it.

A window knows nothing of the volume around it. The anchor does, at little cost: 64 voxels a side at most.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.translation import added, widened
from hagan3d.ops import select_subvolume


class Anchor(nn.Module):
    """A residual U-Net from low-resolution sources to low-resolution targets, whatever the recipe."""

    def __init__(self, size: Size, factor: int, model: TranslationConfig) -> None:
        """Build it for low-resolution volumes of ``size`` voxels, each an average of ``factor``^3."""
        super().__init__()
        self.factor, self.adds_source = factor, model.residual
        levels = max(0, num_levels(size, None))
        while any(side % 2**levels for side in size):
            levels -= 1
        heads = [model.target_channels]
        self.unet = ResidualUNet(model.source_channels, heads, width=model.width, levels=levels, norm=model.norm)
        if self.adds_source:
            for parameter in self.unet.heads.parameters():
                nn.init.zeros_(parameter)

    def forward(self, low: Tensor) -> Tensor:
        """Translate whole low-resolution sources ``[B, Cs, d, h, w]`` to ``[B, Ct, d, h, w]``."""
        made = widened(self.unet(low)[0])
        return added(made, low) if self.adds_source else made


def beside(source: Tensor, said: Tensor, start: Tensor) -> Tensor:
    """Put what an anchor said of whole volumes beside windows of their sources, at the same place.

    Args:
        source: Windows ``[B, Cs, depth, H, W]``.
        said: Low-resolution whole volumes ``[B, Ct, d, h, w]``, with as many voxels less along each axis.
        start: First slice of each window ``[B]``, int64, a multiple of H / h, as ``depth`` is.

    Returns:
        ``[B, Cs + Ct, depth, H, W]``; the latter interpolated linearly, as slices of the whole volume would be.
    """
    factor = source.shape[3] // said.shape[3]
    padded = F.pad(said, (0, 0, 0, 0, 1, 1), mode="replicate")  # as interpolation at the faces of a volume has it
    slices = select_subvolume(padded, start // factor, source.shape[2] // factor + 2)
    fine = F.interpolate(slices, scale_factor=factor, mode="trilinear")[:, :, factor:-factor]
    return torch.cat([source, fine], dim=1)
