"""Strided U-Net: convolutions of stride 2 with skip connections (Isola et al., CVPR 2017)."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.networks.layers import StridedConv3d, norm_relu, recomputed
from hagan3d.networks.residual_unet import widths_of

SLOPE = 0.2  # of LeakyReLU, on the way down
DROPPED_LAYERS = 3  # innermost layers on the way up that have dropout
RATE = 0.5
Seeds = Sequence[int] | None


class Norm(nn.Module):
    """Norm without activation: of each channel over the volume (instance), or of each voxel over its channels (rms)."""

    def __init__(self, norm: str, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]``."""
        if self.norm == "rms":
            return ops.rms_norm(x, self.weight, self.bias)
        return F.instance_norm(x, weight=self.weight.to(x.dtype), bias=self.bias.to(x.dtype))


class StridedUNet(nn.Module):
    """Volumes to volumes of the same size in [-1, 1]: convolutions of kernel 4 and stride 2 down, their mirror up.

    Skips are joined. Norm everywhere but at full resolution; LeakyReLU down, ReLU up, tanh at the end. Its dropout, in
    the three innermost layers up, follows from a seed per volume, so that any pass can be repeated.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, section 6.1.1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, levels: int, norm: str) -> None:
        """Build it with so many halvings (``levels``), the first of which gives ``width`` channels."""
        super().__init__()
        widths = widths_of(width, levels - 1)
        ends = [in_channels, *widths]
        self.downs = nn.ModuleList(
            StridedConv3d(fine, coarse, (4, 4, 4), stride=2, padding=1) for fine, coarse in pairwise(ends)
        )
        self.norms = nn.ModuleList(Norm(norm, channels) for channels in widths[1:])
        joined = [widths[-1], *(2 * channels for channels in reversed(widths[:-1]))]
        made = [*reversed(widths[:-1]), out_channels]
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(a, b, 4, stride=2, padding=1) for a, b in zip(joined, made, strict=True)
        )
        self.up_norms = nn.ModuleList(norm_relu(norm, channels) for channels in made[:-1])
        self.checkpointing = False

    def forward(self, x: Tensor, seeds: Seeds = None) -> Tensor:
        """Map ``[B, C, D, H, W]``; with a seed per volume, its dropout drops."""
        maps: list[Tensor] = []
        for level in range(len(self.downs)):
            x = recomputed(partial(self._down, level), x, self.checkpointing)
            maps.append(x)
        maps.pop()
        for level in range(len(self.up_norms)):
            x = torch.cat([recomputed(partial(self._up, level, seeds), x, self.checkpointing), maps.pop()], dim=1)
        return torch.tanh(self.ups[-1](x))

    def _down(self, level: int, x: Tensor) -> Tensor:
        x = self.downs[level](x)
        return F.leaky_relu(self.norms[level - 1](x) if level else x, SLOPE, inplace=True)

    def _up(self, level: int, seeds: Seeds, x: Tensor) -> Tensor:
        x = self.up_norms[level](self.ups[level](x))
        return x if seeds is None or level >= DROPPED_LAYERS else seeded_dropout(x, seeds, level)


def seeded_dropout(x: Tensor, seeds: Sequence[int], layer: int) -> Tensor:
    """Drop half of the values of each volume of ``x [B, ...]``, as ``seeds`` and ``layer`` say, and double the others.

    Source: Srivastava et al., Dropout, JMLR 15, 2014.
    """
    randoms = [np.random.default_rng([seed, layer]).random(x.shape[1:], np.float32) for seed in seeds]
    return x * torch.from_numpy((np.stack(randoms) >= RATE) / (1 - RATE)).to(x)
