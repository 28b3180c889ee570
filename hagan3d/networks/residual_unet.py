"""The residual U-Net: generator of each stage of UP-GAN, segmentor of SegAN, network of hierarchical conditioning."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from hagan3d.config import shortest_side
from hagan3d.networks.layers import (
    Conv3d,
    ConvBlock,
    StridedConv3d,
    UpConv3d,
    checkpointed,
    norm_relu,
    num_halvings,
    widths_from,
)

MAX_LEVELS = 5  # every side is a multiple of 2^5


def num_levels(size: tuple[int, ...], levels: int | None) -> int:
    """Return the number of levels: ``levels`` if set, else until the shortest side is below 8 voxels, at most 5."""
    return levels or min(MAX_LEVELS, num_halvings(shortest_side(size)))


class ResidualUnit(nn.Module):
    """Downsampling or upsampling convolution, norm, ReLU, skip connection (if any), then a residual convolution."""

    def __init__(self, conv: nn.Module, channels: int, norm: str) -> None:
        """Build the unit around ``conv``, which changes the sides and has ``channels`` output channels."""
        super().__init__()
        self.conv, self.second = conv, Conv3d(channels, channels)
        self.norm, self.second_norm = norm_relu(norm, channels), norm_relu(norm, channels)
        self.recompute = False

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map ``[B, C, D, H, W]``; ``skip`` has the shape of the output."""
        x = self.conv(x)
        y = self._activated(x, skip)
        # With recompute the second convolution gets an activation of its own, from inside a checkpoint: autograd then
        # stores x and z, but not y, which the sum below does not need for its gradient.
        z = checkpointed(self._second_conv, x, skip, on=True) if self.recompute else self.second(y)
        return y + self.second_norm(z)

    def _second_conv(self, x: Tensor, skip: Tensor | None) -> Tensor:
        return self.second(self._activated(x, skip))

    def _activated(self, x: Tensor, skip: Tensor | None) -> Tensor:
        return self.norm(x) if skip is None else self.norm(x) + skip


class ResidualUNet(nn.Module):
    """U-Net of residual units: volumes to volumes of the same size, one 1^3 convolution per output head.

    Skip connections are added, not concatenated: at full resolution, where most memory is, that is one feature map
    less. With ``checkpointing`` only the feature maps between levels are stored for the backward pass.

    Source: He et al., Deep Residual Learning, CVPR 2016; Ronneberger et al., U-Net, MICCAI 2015.
    """

    def __init__(self, in_channels: int, heads: Sequence[int], *, width: int, levels: int, norm: str) -> None:
        """Build the U-Net.

        Args:
            in_channels: Channels of the input.
            heads: Output channels of each head.
            width: Channels at full resolution.
            levels: Halvings; every side must be a multiple of 2^levels.
            norm: ``instance``, ``group`` or ``rms``.
        """
        super().__init__()
        widths = widths_from(width, levels + 1)
        pairs = list(pairwise(widths))
        self.stem = ConvBlock(in_channels, width, norm)
        self.downs = nn.ModuleList(
            ResidualUnit(StridedConv3d(fine, coarse, (3, 3, 3), stride=2, padding=1), coarse, norm)
            for fine, coarse in pairs
        )
        self.ups = nn.ModuleList(ResidualUnit(UpConv3d(coarse, fine), fine, norm) for fine, coarse in reversed(pairs))
        self.heads = nn.ModuleList(nn.Conv3d(width, channels, 1) for channels in heads)
        self.checkpointing = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``[B, C, D, H, W]`` to one ``[B, channels, D, H, W]`` per head."""
        maps = [checkpointed(self.stem, x, on=self.checkpointing)]
        for down in self.downs:
            maps.append(checkpointed(down, maps[-1], on=self.checkpointing))
        x = maps.pop()
        for up in self.ups:
            x = checkpointed(up, x, maps.pop(), on=self.checkpointing)
        return [head(x) for head in self.heads]
