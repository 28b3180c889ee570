"""The discriminators of HA-GAN: D^H on a sub-volume and its position, D^L on the low-resolution volume."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.networks.layers import (
    HALVING,
    LAST_SIDE,
    MIN_CHANNELS,
    SLOPE,
    StridedConv3d,
    checkpointed,
    halved,
    halving_kernel,
    leaky_relu_,
    minibatch_std,
    num_halvings,
    widths_up_to,
)
from hagan3d.networks.spectral import SpectralConv3d, SpectralLinear


class HighDiscriminator(nn.Module):
    """D^H: discriminator of sub-volumes, conditioned on their position; LeakyReLU, optional spectral norm.

    Strided convolutions halve H and W until they are below 8 voxels and the depth until it is 1; channels double up
    to ``channels``. The relative position start / (D - depth) is concatenated before the last two layers.

    Source: Sun et al., HA-GAN, IEEE JBHI 26(8), 2022.
    """

    def __init__(
        self,
        size: Size,
        depth: int,
        *,
        volume_channels: int = 1,
        outputs: int = 0,
        channels: int = 512,
        spectral: bool = True,
    ) -> None:
        """Build D^H for sub-volumes of ``depth`` slices of volumes of ``size`` voxels.

        ``outputs`` is the number of outputs besides the logit: of classes, then of codes of the latent.
        """
        super().__init__()
        conv, linear = (SpectralConv3d, SpectralLinear) if spectral else (StridedConv3d, nn.Linear)
        self.range = max(size[0] - depth, 1)
        levels = num_halvings(max(size[1:]))
        sides = [depth, size[1], size[2]]
        widths = [volume_channels, *widths_up_to(channels, levels)]
        convs: list[nn.Module] = []
        for level in range(levels):
            kernel, stride, padding = _kernel(sides)
            convs.append(conv(widths[level], widths[level + 1], kernel, stride=stride, padding=padding))
            sides = [max(1, sides[0] // 2), halved(sides[1]), halved(sides[2])]
        convs.append(conv(widths[-1], channels // 4, sides))
        self.convs = nn.ModuleList(convs)
        self.hidden = linear(channels // 4 + 1, channels // 8)
        self.logit = linear(channels // 8, 1)
        self.classes = linear(channels // 8, outputs) if outputs else None
        self.checkpointing = False

    def forward(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits ``[B]`` and other outputs ``[B, K]`` of ``x [B, C, depth, H, W]`` at ``start [B]``."""
        # The linear layers stay outside the checkpoint: their inputs are small.
        x = _wide(checkpointed(self._features, x, on=self.checkpointing)).flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            position = (start.to(x.dtype) / self.range)[:, None]
            x = F.leaky_relu(self.hidden(torch.cat([x, position], dim=1)), SLOPE)
            return self.logit(x)[:, 0], None if self.classes is None else self.classes(x)

    def _features(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = leaky_relu_(conv(x))
        return x


def _wide(x: Tensor) -> Tensor:
    """Return features in at least float32: the losses are of small differences of logits, and bfloat16 has 3 digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kernel(sides: list[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel, stride and padding along D, H, W of the next convolution of D^H.

    A sub-volume is thin: unlike H and W its depth is halved down to 1, below 8 slices without overlap, except that an
    odd depth has kernels of 3, which reach its last slice.
    """
    depth = sides[0]
    along_d = (1, 1, 0) if depth == 1 else HALVING if depth >= 2 * LAST_SIDE else (2 + depth % 2, 2, 0)
    kernel, stride, padding = ((d, *hw) for d, hw in zip(along_d, halving_kernel(sides[1:]), strict=True))
    return kernel, stride, padding


class LowDiscriminator(nn.Module):
    """D^L: discriminator of whole volumes at low resolution; LeakyReLU, optional spectral norm, no other norm.

    With ``group``, its last layer also sees the minibatch standard deviation.

    Source: Sun et al., HA-GAN, IEEE JBHI 26(8), 2022.
    """

    def __init__(
        self,
        low_size: Size,
        *,
        volume_channels: int = 1,
        outputs: int = 0,
        channels: int = 256,
        spectral: bool = True,
        group: int = 0,
        full_convs: int = 0,
    ) -> None:
        """Build D^L for volumes of ``low_size`` voxels; ``outputs`` as of D^H.

        ``full_convs`` 3^3 convolutions, of half the channels of the first halving, come before it.
        """
        super().__init__()
        conv = SpectralConv3d if spectral else StridedConv3d
        self.group = group
        levels = num_halvings(max(low_size))
        sides = list(low_size)
        widths = [volume_channels, *widths_up_to(channels, levels)]
        convs: list[nn.Module] = []
        for _ in range(full_convs):
            width = max(channels >> levels, MIN_CHANNELS)
            convs.append(conv(widths[0], width, (3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1)))
            widths[0] = width
        for level in range(levels):
            kernel, stride, padding = halving_kernel(sides)
            convs.append(conv(widths[level], widths[level + 1], kernel, stride=stride, padding=padding))
            sides = [halved(side) for side in sides]
        self.convs = nn.ModuleList(convs)
        self.logits = conv(widths[-1] + bool(group), 1 + outputs, sides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits ``[B]`` of volumes ``x [B, C, d, h, w]`` and other outputs ``[B, K]`` or None."""
        for conv in self.convs:
            x = leaky_relu_(conv(x))
        if self.group:
            x = minibatch_std(x, self.group)
        with torch.autocast(x.device.type, enabled=False):
            out = self.logits(_wide(x)).flatten(1)
        return out[:, 0], out[:, 1:] if out.shape[1] > 1 else None
