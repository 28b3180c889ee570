"""The hierarchical encoder of HA-GAN: E^H maps a sub-volume to its slices of A, E^G the whole of A to z."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.networks.layers import (
    LAST_SIDE,
    ConvBlock,
    StridedBlock,
    checkpointed,
    halved,
    halving_kernel,
    initialise_for_relu,
    norm_conv,
    num_halvings,
    widths_up_to,
)


class HighEncoder(nn.Sequential):
    """E^H: a sub-volume ``[B, C, depth, H, W]`` to its slices of A ``[B, features, depth / factor, ...]``.

    One convolution of stride 2 per halving, with doubled channels, and a convolution of stride 1 between each two.
    """

    def __init__(self, factor: int, channels: int, volume_channels: int = 1, norm: str = "group") -> None:
        """Build E^H for a low-resolution factor, the channels of A and those of volumes; ``norm``: group or none."""
        levels = int(math.log2(factor))
        widths = [volume_channels, *widths_up_to(channels, levels)]
        blocks: list[nn.Module] = []
        for level in range(levels):
            blocks.append(StridedBlock(widths[level], widths[level + 1], norm))
            if level < levels - 1:
                blocks.append(ConvBlock(widths[level + 1], widths[level + 1], norm))
        super().__init__(*blocks)
        if norm == "none":
            initialise_for_relu(self)
        self.recompute = False

    def forward(self, x: Tensor) -> Tensor:
        """Encode sub-volumes."""
        convs: list[Any] = [block.conv for block in self]
        norms: list[Any] = [block.norm for block in self]
        x = convs[0](x)
        for norm, conv in zip(norms, convs[1:], strict=False):
            x = checkpointed(norm_conv, x, norm, conv, on=self.recompute)
        return norms[-1](x)


class GroundEncoder(nn.Module):
    """E^G: the feature map ``A [B, C, d, h, w]`` to the latent ``[B, latent_dim]``."""

    def __init__(self, low_size: Size, channels: int, latent_dim: int, norm: str = "group") -> None:
        """Build E^G for an A of ``low_size`` voxels and ``channels`` channels; ``norm`` as of E^H.

        Its widest layer has four times as many channels.
        """
        super().__init__()
        levels = num_halvings(max(low_size))
        widths = [channels, *widths_up_to(4 * channels, levels)]
        sides = low_size
        blocks: list[nn.Module] = []
        for level in range(levels):
            blocks.append(_halving_block(widths[level], widths[level + 1], sides, norm))
            sides = (halved(sides[0]), halved(sides[1]), halved(sides[2]))
        self.blocks = nn.Sequential(*blocks)
        if norm == "none":
            initialise_for_relu(self.blocks)
        self.last = _Readout(widths[-1], latent_dim, sides)
        self.recompute = False

    def forward(self, a: Tensor) -> Tensor:
        """Encode feature maps."""
        convs: list[Any] = [*(block.conv for block in self.blocks), self.last]
        x = convs[0](a)
        for block, conv in zip(self.blocks, convs[1:], strict=True):
            x = checkpointed(norm_conv, x, block.norm, conv, on=self.recompute)
        return x


class _Readout(nn.Conv3d):
    """Convolution whose kernel is as large as its input, computed as a matrix product, with equalized learning rate.

    The weight is stored multiplied by the root of its fan-in. Adam moves every weight by about the learning rate,
    whatever its scale; with ten thousand positive inputs that would shift z by several standard deviations per step.

    Source: Karras et al., Progressive Growing of GANs, ICLR 2018, section 4.1 (equalized learning rate).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Size) -> None:
        super().__init__(in_channels, out_channels, kernel)
        self.gain = readout_gain(self.weight)
        with torch.no_grad():
            self.weight /= self.gain

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C_in, *kernel]`` to ``[B, C_out]``."""
        return F.linear(x.flatten(1) * self.gain, self.weight.flatten(1), self.bias)


def readout_gain(weight: Tensor) -> float:
    """Return the gain that the stored ``weight`` of E^G's readout is multiplied with: 1 / sqrt(fan-in)."""
    return weight[0].numel() ** -0.5


def _halving_block(in_channels: int, out_channels: int, sides: Size, norm: str) -> StridedBlock:
    """Return a block that halves every side of 4 voxels or more and keeps shorter ones."""
    block = StridedBlock(in_channels, out_channels, norm)
    if min(sides) < LAST_SIDE:
        kernel, stride, padding = halving_kernel(sides)
        block[0] = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding)
    return block


def encode(e_h: nn.Module, e_g: nn.Module, slabs: Iterable[Tensor]) -> Tensor:
    """Encode volumes, given as consecutive sub-volumes ``[B, C, depth, H, W]``, to z ``[B, latent_dim]``."""
    return e_g(torch.cat([e_h(slab) for slab in slabs], dim=2))
