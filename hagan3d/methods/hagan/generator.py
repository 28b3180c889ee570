"""The hierarchical generator of HA-GAN: common block G^A, low-resolution head G^L, high-resolution head G^H."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.config import Size, low_factor
from hagan3d.methods.hagan.codes import Codes
from hagan3d.methods.hagan.prior import Prior
from hagan3d.methods.hagan.windows import Window, halos_of, window_plan
from hagan3d.networks.layers import GROUPS, Conv3d, ConvBlock, UpConv3d, VolumeOutput, checkpointed, norm_conv
from hagan3d.ops.extension import has_kernels

START_SIDE = 4  # voxels: longest side of the feature map that z is mapped to
COMMON_CONVS = 5


class CommonBlock(nn.Module):
    """G^A: latent z to the feature map A, which both heads share.

    A fully connected layer gives a map of at most 4 voxels a side; five convolutions follow, with an upsampling before
    convolutions 2, 3, ... until A has its size.
    """

    def __init__(
        self,
        low_size: Size,
        latent_dim: int,
        num_classes: int,
        channels: int,
        features: int,
        upsample: str,
        fc_rank: int = 0,
    ) -> None:
        super().__init__()
        levels = max(0, math.ceil(math.log2(max(low_size) / START_SIDE)))
        # Sides after each convolution. Rounded up: a side that is no power of two is cropped after upsampling.
        self.sides = [tuple(-(-side // 2 ** max(0, levels - i)) for side in low_size) for i in range(COMMON_CONVS)]
        self.num_classes = num_classes
        self.channels = channels
        self.fc = _fully_connected(latent_dim + num_classes, channels * math.prod(self.sides[0]), fc_rank)
        widths = [*[channels] * 3, max(channels // 2, features), max(channels // 4, features), features]
        self.blocks = nn.ModuleList(
            ConvBlock(widths[i], widths[i + 1], "group", up=1 <= i <= levels, upsample=upsample)
            for i in range(COMMON_CONVS)
        )
        self.recompute = False

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Map ``z [B, latent_dim]`` and class ``label [B]`` to ``A [B, features, d, h, w]``."""
        if self.num_classes:
            if label is None:
                raise ValueError("a conditional generator needs a label per volume")
            z = torch.cat([z, F.one_hot(label, self.num_classes).to(z.dtype)], dim=1)
        x = self.fc(z).view(len(z), self.channels, *self.sides[0])
        convs: list[Any] = [block.conv for block in self.blocks]
        norms: list[Any] = [block.norm for block in self.blocks]
        x = convs[0](x)
        for norm, sides, conv in zip(norms, self.sides, convs[1:], strict=False):
            x = checkpointed(_norm_crop_conv, x, norm, sides, conv, on=self.recompute)
        return _cropped(norms[-1](x), self.sides[-1])


def _norm_crop_conv(x: Tensor, norm: nn.Module, sides: tuple[int, ...], conv: nn.Module) -> Tensor:
    return conv(_cropped(norm(x), sides))


def _cropped(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    d, h, w = sides
    return x[:, :, :d, :h, :w]


def _fully_connected(inputs: int, outputs: int, rank: int) -> nn.Module:
    """Return a linear layer, or its factorisation of ``rank``, initialised to outputs of the same variance."""
    if not rank:
        return nn.Linear(inputs, outputs)
    first = nn.Linear(inputs, rank, bias=False)
    nn.init.normal_(first.weight, std=inputs**-0.5)
    return nn.Sequential(first, nn.Linear(rank, outputs))


class LowHead(nn.Sequential):
    """G^L: A to the whole volume at low resolution, in [-1, 1]."""

    def __init__(self, channels: int, output: VolumeOutput) -> None:
        super().__init__(
            ConvBlock(channels, max(channels // 2, GROUPS), "group"),
            ConvBlock(max(channels // 2, GROUPS), max(channels // 4, GROUPS), "group"),
            Conv3d(max(channels // 4, GROUPS), output.channels),
            output,
        )
        self.recompute = False

    def forward(self, a: Tensor) -> Tensor:
        """Map ``A [B, features, d, h, w]`` to the low-resolution volume ``[B, C, d, h, w]``."""
        return self[-1](self.logits(a))

    def logits(self, a: Tensor) -> Tensor:
        """Return the low-resolution volume before its tanh and softmax."""
        convs: list[Any] = [self[0].conv, self[1].conv, self[2]]
        x = convs[0](a)
        for block, conv in zip(self, convs[1:], strict=False):
            x = checkpointed(norm_conv, x, block.norm, conv, on=self.recompute)
        return x


class HighHead(nn.Module):
    """G^H: A, or a window of its slices, to voxels at full resolution, in [-1, 1].

    One upsampling per doubling, each followed by ``high_convs`` more convolutions; channels halve from level to
    level. With ``norm: rms`` a window is computed with a halo and equals the same slices of the whole volume; see
    `windows`. With ``norm: group`` it is computed as if it were a volume of its own, as published.

    With a skip, G^H adds a residual to the upsampled volume of G^L. Source: Karras et al., Analyzing and Improving the
    Image Quality of StyleGAN, CVPR 2020, section 4 (output skips).
    """

    def __init__(
        self, factor: int, channels: int, norm: str, high_convs: int, upsample: str, output: VolumeOutput
    ) -> None:
        super().__init__()
        levels = int(math.log2(factor))
        widths = [max(channels >> level, GROUPS) for level in range(levels + 1)]
        blocks: list[nn.Module] = []
        for level in range(levels):
            is_last = level == levels - 1
            if is_last and not high_convs:
                break
            blocks.append(ConvBlock(widths[level], widths[level + 1], norm, up=True, upsample=upsample))
            extra = high_convs - 1 if is_last else high_convs
            blocks += [ConvBlock(widths[level + 1], widths[level + 1], norm) for _ in range(extra)]
        self.blocks = nn.ModuleList(blocks)
        channels = output.channels
        self.last = Conv3d(widths[levels], channels) if high_convs else UpConv3d(widths[levels - 1], channels, upsample)
        self.output = output
        self.is_exact = norm == "rms"  # no statistics over space, so a window can equal the volume
        self.scales = [2 if isinstance(conv, UpConv3d) else 1 for conv in self.convs]
        self.halos = halos_of(self.scales)
        self.checkpointing = False
        self.recompute = False

    @property
    def convs(self) -> list[Any]:
        """The convolutions, in order; between each two there is the norm of a block."""
        return [*(block.conv for block in self.blocks), self.last]

    def forward(
        self, a: Tensor, start: Tensor | None = None, depth: int | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """Map A to voxels.

        Args:
            a: Feature map ``[B, C, d, h, w]``, all of it.
            start: First slice of each window ``[B]``, in slices of ``a``; None for the whole volume.
            depth: Slices of ``a`` per window.
            skip: Low-resolution volume ``[B, C, d, h, w]``, all of it; upsampled and added before the tanh.

        Returns:
            ``[B, C, factor * depth, factor * h, factor * w]``.
        """
        if skip is None:  # the tanh inside the checkpoint: otherwise its output would be stored
            return checkpointed(self._voxels, a, start, depth, on=self.checkpointing)
        # Outside: the skip at full resolution would add to the peak of the recomputation.
        x = checkpointed(self._logits, a, start, depth, on=self.checkpointing)
        return self.output(x + self.enlarged(skip, start, depth))

    def _voxels(self, a: Tensor, start: Tensor | None, depth: int | None) -> Tensor:
        return self.output(self._logits(a, start, depth))

    def _logits(self, a: Tensor, start: Tensor | None, depth: int | None) -> Tensor:
        total = a.shape[2]
        if start is None or depth is None:
            plan = window_plan(self.scales, None, total, total)
        elif self.is_exact:
            plan = window_plan(self.scales, start, depth, total)
            a = ops.select_subvolume(a, start, depth, halo=self.halos[0])
        else:  # as published: a volume of its own, with zero padding at the ends of the window
            plan = window_plan(self.scales, None, depth, depth)
            a = ops.select_subvolume(a, start, depth)
        convs = self.convs
        x = convs[0](a, plan[1].trim)
        for block, conv, (window, next_window) in zip(self.blocks, convs[1:], pairwise(plan[1:]), strict=True):
            # One checkpoint per layer from convolution to convolution: the output of each convolution is stored, those
            # of the norm, ReLU and zero padding are recomputed.
            x = checkpointed(_norm_pad_conv, x, block.norm, window, conv, next_window.trim, on=self.recompute)
        return x

    def enlarged(self, low: Tensor, start: Tensor | None = None, depth: int | None = None) -> Tensor:
        """Upsample volumes ``[B, C, d, h, w]`` by linear interpolation, doubling by doubling; arguments as `forward`.

        One slice more at each end, an edge or a neighbour, so that a window equals its slices of the whole volume.
        """
        x = F.pad(low, (0, 0, 0, 0, 1, 1), mode="replicate")
        if start is not None and depth is not None:
            x = ops.select_subvolume(x, start, depth + 2)
        for scale in self.scales:
            if scale == 2:
                x = F.interpolate(x, scale_factor=2, mode="trilinear")[:, :, 1:-1]
        return x[:, :, 1:-1]


def _norm_pad_conv(x: Tensor, norm: nn.Module, window: Window, conv: nn.Module, trim: int) -> Tensor:
    y = norm(x)
    if y.requires_grad and not has_kernels(y):
        y = y.clone()  # the backward pass of the PyTorch references needs the output of the ReLU
    # In place, because the compiled norms keep their input for the backward pass and not their output.
    return conv(window.zero_outside_(y), trim)


class Generator(nn.Module):
    """G: a latent to a sub-volume and the low-resolution volume (training) or to the whole volume (inference)."""

    def __init__(
        self,
        size: Size,
        depth: int,
        *,
        latent_dim: int = 1024,
        num_classes: int = 0,
        channels: int = 512,
        images: int = 1,
        labels: int = 0,
        features: int = 64,
        norm: str = "rms",
        high_convs: int = 0,
        upsample: str = "folded",
        fc_rank: int = 0,
        encoded_prior: bool = False,
        codes: Codes | None = None,
        output_skip: bool = False,
    ) -> None:
        """Build G for volumes of ``size`` voxels with so many image channels and labels."""
        super().__init__()
        output = VolumeOutput(images, labels)
        self.latent_dim = latent_dim
        self.output_skip = output_skip
        self.factor = low_factor(size)
        self.depth = depth
        low_size = (size[0] // self.factor, size[1] // self.factor, size[2] // self.factor)
        self.prior = Prior(latent_dim, num_classes, encoded_prior, codes)
        self.common = CommonBlock(low_size, latent_dim, num_classes, channels, features, upsample, fc_rank)
        self.low = LowHead(features, output)
        self.high = HighHead(self.factor, features, norm, high_convs, upsample, output)

    def forward(self, z: Tensor, start: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Generate a sub-volume and a low-resolution volume per latent, as training needs them.

        Args:
            z: Latents ``[B, latent_dim]``.
            start: First slice of each sub-volume ``[B]``, in voxels; multiples of ``factor``.
            label: Class of each volume ``[B]``, for a conditional generator.

        Returns:
            Sub-volumes ``[B, C, depth, H, W]`` and low-resolution volumes ``[B, C, D / factor, ...]``.

        Source: Sun et al., HA-GAN, IEEE JBHI 26(8), 2022.
        """
        a = self.common(z, label)
        start, depth = start // self.factor, self.depth // self.factor
        if not self.output_skip:
            return self.high(a, start, depth), self.low(a)
        logits = self.low.logits(a)
        return self.high(a, start, depth, logits), self.high.output(logits)

    def skip(self, a: Tensor) -> Tensor | None:
        """Return the low-resolution volume that G^H adds to, before its tanh; None without ``output_skip``."""
        return self.low.logits(a) if self.output_skip else None

    def voxels(self, a: Tensor) -> Tensor:
        """Map a feature map ``[B, features, d, h, w]``, or a crop of it, to its voxels ``[B, C, factor * d, ...]``."""
        return self.high(a, skip=self.skip(a))

    def volume(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate whole volumes ``[B, C, D, H, W]``."""
        return self.voxels(self.common(z, label))
