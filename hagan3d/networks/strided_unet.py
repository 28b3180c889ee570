"""Strided U-Net: convolutions of stride 2 with skip connections (Isola et al., CVPR 2017)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.config import Size
from hagan3d.errors import InputError
from hagan3d.networks.flat_layers import TransposedConv3d
from hagan3d.networks.layers import (
    StridedConv3d,
    VolumeOutput,
    checkpointed,
    halved_evenly,
    leaky_relu_,
    norm_relu,
    widths_from,
)
from hagan3d.ops.device import to_device

DROPOUT_LAYERS = 3  # innermost layers of the decoder, which have dropout
RATE = 0.5  # of dropout
Seeds = Sequence[int] | None


class PlainNorm(nn.Module):
    """Norm without activation, for LeakyReLU or a residual to follow: instance norm, or RMS norm over channels.

    A single voxel has no statistics over space: instance norm leaves it as it is.
    """

    def __init__(self, norm: str, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]``."""
        if self.norm == "rms":
            return ops.rms_norm(x, self.weight, self.bias)
        if x[0, 0].numel() == 1:
            return x
        return F.instance_norm(x, weight=self.weight.to(x.dtype), bias=self.bias.to(x.dtype))


class StridedUNet(nn.Module):
    """U-Net: volumes to volumes of the same size in [-1, 1], convolutions of kernel 4 and stride 2, transposed ones up.

    A level halves every even side, down to 1, and keeps odd ones. Skip connections are concatenated. No norm in the
    first and last layer; LeakyReLU in the encoder, ReLU in the decoder, tanh at the end (softmax of
    labels). Dropout in the three innermost decoder layers is a function of a seed per volume, so that a forward pass
    can be repeated exactly (checkpointing, resume).

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, section 6.1.1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: Size, *, width: int, levels: int, norm: str, labels: int = 0
    ) -> None:
        """Build a U-Net for ``size`` voxels, of ``levels`` halvings, the first of which has ``width`` output channels.

        The last ``labels`` of ``out_channels`` are those of labels.

        Raises:
            InputError: If no side is left to halve.
        """
        super().__init__()
        widths, sides = widths_from(width, levels), tuple(size)
        ends = [in_channels, *widths]
        halvings: list[tuple[Any, Any, Any]] = []
        for _ in range(levels):
            if all(side % 2 for side in sides):
                raise InputError(
                    f"levels {levels}: after {len(halvings)} halvings {' x '.join(map(str, sides))} of "
                    f"{' x '.join(map(str, size))} voxels are left; use at most {len(halvings)} levels"
                )
            sides, halving = halved_evenly(sides)
            halvings.append(halving)
        self.downs = nn.ModuleList(
            StridedConv3d(fine, coarse, kernel, stride=stride, padding=padding)
            for (fine, coarse), (kernel, stride, padding) in zip(pairwise(ends), halvings, strict=True)
        )
        self.norms = nn.ModuleList(PlainNorm(norm, channels) for channels in widths[1:])
        inputs = [widths[-1], *(2 * channels for channels in reversed(widths[:-1]))]  # doubled by the skip connections
        outputs = [*reversed(widths[:-1]), out_channels]
        self.ups = nn.ModuleList(
            TransposedConv3d(a, b, kernel, stride=stride, padding=padding)
            for a, b, (kernel, stride, padding) in zip(inputs, outputs, reversed(halvings), strict=True)
        )
        self.up_norms = nn.ModuleList(norm_relu(norm, channels) for channels in outputs[:-1])
        self.output = VolumeOutput(out_channels - labels, labels)
        self.checkpointing = False

    def forward(self, x: Tensor, seeds: Seeds = None) -> Tensor:
        """Map ``[B, C, D, H, W]``; dropout is on if there is a seed per volume."""
        maps: list[Tensor] = []
        for level in range(len(self.downs)):
            x = checkpointed(self._down, x, level, on=self.checkpointing)
            maps.append(x)
        maps.pop()  # the innermost map is x itself, not a skip connection
        for level in range(len(self.up_norms)):
            x = torch.cat([checkpointed(self._up, x, level, seeds, on=self.checkpointing), maps.pop()], dim=1)
        return self.output(self.ups[-1](x))

    def _down(self, x: Tensor, level: int) -> Tensor:
        x = self.downs[level](x)
        return leaky_relu_(self.norms[level - 1](x) if level else x)

    def _up(self, x: Tensor, level: int, seeds: Seeds) -> Tensor:
        x = self.up_norms[level](self.ups[level](x))
        return x if seeds is None or level >= DROPOUT_LAYERS else seeded_dropout(x, seeds, level)


def seeded_dropout(x: Tensor, seeds: Sequence[int], layer: int) -> Tensor:
    """Apply dropout of rate 1/2 to ``x [B, ...]``; the mask of a volume is a function of its seed and ``layer``.

    Source: Srivastava et al., Dropout, JMLR 15, 2014.
    """
    # numpy's generator and not torch's: the same mask on every device, and no random state to store.
    randoms = [np.random.default_rng([seed, layer]).random(x.shape[1:], np.float32) for seed in seeds]
    return x * to_device((np.stack(randoms) >= RATE) / (1 - RATE), x.device, x.dtype)
