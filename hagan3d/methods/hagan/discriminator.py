"""The discriminators: D^H on a sub-volume and its place, D^L on the whole volume at low resolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.networks.layers import SpectralConv3d, SpectralLinear, StridedConv3d, minibatch_std, recomputed

LAST_SIDE = 4  # voxels: halving stops below twice this
SLOPE = 0.2  # of LeakyReLU
LEAST_CHANNELS = 8


def _halvings(side: int) -> int:
    """How often a side is halved until it is below 8 voxels."""
    return max(0, (side // LAST_SIDE).bit_length() - 1)


def _halving_axis(side: int) -> tuple[int, int, int]:
    """Kernel, stride and padding that halve one side: overlapping where it is long enough, none where it is 1."""
    if side == 1:
        return 1, 1, 0
    return (4, 2, 1) if side >= 2 * LAST_SIDE else (2, 2, 0)


def _halved(side: int) -> int:
    return max(1, side // 2)


class HighDiscriminator(nn.Module):
    """D^H: is this sub-volume, at this place of a volume, real? Spectral norm or none, and LeakyReLU.

    Strided convolutions halve H and W until they are below 8 voxels and the depth until it is 1; channels double up
    to ``channels``. The relative place start / (D - depth) joins before the last two layers.
    """

    def __init__(
        self, size: Size, depth: int, *, num_classes: int = 0, channels: int = 512, spectral: bool = True
    ) -> None:
        """Build D^H for sub-volumes of ``depth`` slices of volumes of ``size`` voxels."""
        super().__init__()
        conv, linear = (SpectralConv3d, SpectralLinear) if spectral else (StridedConv3d, nn.Linear)
        self.range = max(size[0] - depth, 1)
        levels = _halvings(max(size[1:]))
        sides = [depth, size[1], size[2]]
        widths = [1, *(max(channels >> (levels - 1 - level), LEAST_CHANNELS) for level in range(levels))]
        convs: list[nn.Module] = []
        for level in range(levels):
            kernel, stride, padding = zip(*_halving_window(sides), strict=True)
            convs.append(conv(widths[level], widths[level + 1], kernel, stride=stride, padding=padding))
            sides = [_halved(sides[0]), *(side if side < LAST_SIDE else side // 2 for side in sides[1:])]
        convs.append(conv(widths[-1], channels // 4, sides))
        self.convs = nn.ModuleList(convs)
        self.hidden = linear(channels // 4 + 1, channels // 8)
        self.logit = linear(channels // 8, 1)
        self.classes = linear(channels // 8, num_classes) if num_classes else None
        self.checkpointing = False

    def forward(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor | None]:
        """Judge sub-volumes ``x [B, 1, depth, H, W]`` at ``start [B]``: logits ``[B]``, class logits ``[B, K]``."""
        x = recomputed(self._features, x, self.checkpointing)
        place = (start.to(x.dtype) / self.range)[:, None]
        x = F.leaky_relu(self.hidden(torch.cat([x.flatten(1), place], dim=1)), SLOPE)
        return self.logit(x)[:, 0], None if self.classes is None else self.classes(x)

    def _features(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = _activated(conv, x)
        return x


def _halving_window(sides: list[int]) -> list[tuple[int, int, int]]:
    """Kernel, stride, padding along D, H, W of the next convolution of D^H."""
    keep = (1, 1, 0)
    return [_halving_axis(sides[0]), *((4, 2, 1) if side >= LAST_SIDE else keep for side in sides[1:])]


def _activated(conv: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(conv(x), SLOPE, inplace=True)  # so that one tensor is kept, not two


class LowDiscriminator(nn.Module):
    """D^L: is this whole volume at low resolution real? Spectral norm, LeakyReLU, no other norm.

    With ``group``, its last layer also sees how much the volumes of a group differ.
    """

    def __init__(
        self, low_size: Size, *, num_classes: int = 0, channels: int = 256, spectral: bool = True, group: int = 0
    ) -> None:
        """Build D^L for volumes of ``low_size`` voxels."""
        super().__init__()
        conv = SpectralConv3d if spectral else StridedConv3d
        self.group = group
        levels = _halvings(max(low_size))
        sides = list(low_size)
        widths = [1, *(max(channels >> (levels - 1 - level), LEAST_CHANNELS) for level in range(levels))]
        convs: list[nn.Module] = []
        for level in range(levels):
            axes = [(4, 2, 1) if side >= LAST_SIDE else (1, 1, 0) for side in sides]
            kernel, stride, padding = zip(*axes, strict=True)
            convs.append(conv(widths[level], widths[level + 1], kernel, stride=stride, padding=padding))
            sides = [side // 2 if side >= LAST_SIDE else side for side in sides]
        self.convs = nn.ModuleList(convs)
        self.logits = conv(widths[-1] + bool(group), 1 + num_classes, sides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Judge volumes ``x [B, 1, d, h, w]``: logits ``[B]`` and class logits ``[B, K]`` or None."""
        for conv in self.convs:
            x = _activated(conv, x)
        if self.group:
            x = minibatch_std(x, self.group)
        out = self.logits(x).flatten(1)
        return out[:, 0], out[:, 1:] if out.shape[1] > 1 else None
