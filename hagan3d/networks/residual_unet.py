"""The residual U-Net (family RU): what the stages of UP-GAN are made of."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from hagan3d.networks.layers import Conv3d, ConvBlock, StridedConv3d, UpConv3d, norm_relu, recomputed

MOST_WIDTHS = 8  # channels grow up to so many times those at full resolution
LAST_SIDE = 4  # voxels of the shortest side after the last halving
MOST_LEVELS = 5  # every side is a multiple of 2^5


def num_levels(size: tuple[int, ...], levels: int | None) -> int:
    """Return how often a U-Net halves volumes of ``size``: as set, else until the shortest side is 4, 5 at most."""
    return levels or min(MOST_LEVELS, (min(size) // LAST_SIDE).bit_length() - 1)


def widths_of(width: int, levels: int) -> list[int]:
    """Channels at full resolution and after each halving."""
    return [width * min(2**level, MOST_WIDTHS) for level in range(levels + 1)]


class Unit(nn.Module):
    """Change the sides by a convolution, norm and ReLU; add what the way down had, then a residual of the same kind."""

    def __init__(self, conv: nn.Module, channels: int, norm: str) -> None:
        """Begin with ``conv``, which gives so many ``channels``."""
        super().__init__()
        self.conv, self.second = conv, Conv3d(channels, channels)
        self.norm, self.second_norm = norm_relu(norm, channels), norm_relu(norm, channels)
        self.recompute = False

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map ``[B, C, D, H, W]``; ``skip`` has the shape of the result."""
        x = self.conv(x)
        y = self._activated(x, skip)
        z = recomputed(lambda x: self.second(self._activated(x, skip)), x, True) if self.recompute else self.second(y)
        return y + self.second_norm(z)

    def _activated(self, x: Tensor, skip: Tensor | None) -> Tensor:
        return self.norm(x) if skip is None else self.norm(x) + skip


class ResidualUNet(nn.Module):
    """Volumes to volumes of the same size, one 1^3 convolution per head at the end.

    Skips are added, not joined: at full resolution, where memory goes, that is one feature map less. With
    ``checkpointing`` the backward pass keeps what goes between levels alone.

    Source: He et al., Deep Residual Learning, CVPR 2016; Ronneberger et al., U-Net, MICCAI 2015.
    """

    def __init__(self, in_channels: int, heads: Sequence[int], *, width: int, levels: int, norm: str) -> None:
        """Build it.

        Args:
            in_channels: Of the source.
            heads: Channels of each output.
            width: Channels at full resolution.
            levels: Halvings; every side must be a multiple of 2^levels.
            norm: ``instance``, ``group`` or ``rms``.
        """
        super().__init__()
        widths = widths_of(width, levels)
        pairs = list(pairwise(widths))
        self.stem = ConvBlock(in_channels, width, norm)
        self.downs = nn.ModuleList(
            Unit(StridedConv3d(fine, coarse, (3, 3, 3), stride=2, padding=1), coarse, norm) for fine, coarse in pairs
        )
        self.ups = nn.ModuleList(Unit(UpConv3d(coarse, fine), fine, norm) for fine, coarse in reversed(pairs))
        self.heads = nn.ModuleList(nn.Conv3d(width, channels, 1) for channels in heads)
        self.checkpointing = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``[B, C, D, H, W]`` to one ``[B, channels, D, H, W]`` per head."""
        maps = [recomputed(self.stem, x, self.checkpointing)]
        for down in self.downs:
            maps.append(recomputed(down, maps[-1], self.checkpointing))
        x = maps.pop()
        for up in self.ups:
            x = recomputed(partial(up, skip=maps.pop()), x, self.checkpointing)
        return [head(x) for head in self.heads]
