"""The hierarchical generator: common block G^A, low-resolution head G^L, high-resolution head G^H."""

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.config import Size, low_factor
from hagan3d.methods.hagan.prior import Prior
from hagan3d.networks.layers import GROUPS, Conv3d, ConvBlock, Map, UpConv3d, recomputed, run_chain

START_SIDE = 4  # voxels: longest side of the feature map that z is mapped to
COMMON_CONVS = 5


class CommonBlock(nn.Module):
    """G^A: latent to the feature map A, which both heads share.

    A fully connected layer makes a map of at most 4 voxels a side, five convolutions follow; the first upsamplings
    come before convolutions 2, 3, ... A side that is no power of two is cut to length after each upsampling.
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
        self.sides = [tuple(-(-side // 2**level) for side in low_size) for level in range(levels, -1, -1)]
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
        links = [(self._block(i).link()[0], partial(self._finish, i)) for i in range(COMMON_CONVS)]
        return run_chain(links, x, self.recompute)

    def _block(self, i: int) -> ConvBlock:
        return cast(ConvBlock, self.blocks[i])

    def _finish(self, i: int, x: Tensor) -> Tensor:
        block = self._block(i)
        x = block.norm(x)
        if not block.up:
            return x
        d, h, w = self.sides[i]  # the first upsampling comes before convolution 1, the next before 2, ...
        return x[:, :, :d, :h, :w]


def _fully_connected(inputs: int, outputs: int, rank: int) -> nn.Module:
    """Return a linear layer, or the product of two of ``rank`` numbers between them, which starts with its variance."""
    if not rank:
        return nn.Linear(inputs, outputs)
    first = nn.Linear(inputs, rank, bias=False)
    nn.init.normal_(first.weight, std=inputs**-0.5)
    return nn.Sequential(first, nn.Linear(rank, outputs))


class LowHead(nn.Sequential):
    """G^L: A to the whole volume at low resolution, in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            ConvBlock(channels, max(channels // 2, GROUPS), "group"),
            ConvBlock(max(channels // 2, GROUPS), max(channels // 4, GROUPS), "group"),
            Conv3d(max(channels // 4, GROUPS), 1),
            nn.Tanh(),
        )
        self.recompute = False

    def forward(self, a: Tensor) -> Tensor:
        """Make the volume ``[B, 1, d, h, w]`` from ``a``."""
        return self[-1](self.logits(a))

    def logits(self, a: Tensor) -> Tensor:
        """Make the volume before its tanh."""
        first, second, last, _ = self
        links: list[tuple[Map, Map]] = [cast(ConvBlock, first).link(), cast(ConvBlock, second).link(), (last, _same)]
        return run_chain(links, a, self.recompute)


class HighHead(nn.Module):
    """G^H: A, or some slices of it, to voxels at full resolution, in [-1, 1].

    One upsampling per doubling, each followed by ``high_convs`` more convolutions; channels halve from level to
    level. With ``norm: rms`` a window is computed from A with a halo of slices around it, and what lies outside of the
    volume is set to zero before every convolution, as zero padding has it in the whole volume: the window equals the
    same slices of the whole. With ``norm: group`` it is computed from its own slices alone, as published.

    With a skip it adds to the volume of G^L, enlarged, so that it need not make whole shapes anew. Source: Karras et
    al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, section 4 (output skips).
    """

    def __init__(self, factor: int, channels: int, norm: str, high_convs: int, upsample: str) -> None:
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
        self.last = Conv3d(widths[levels], 1) if high_convs else UpConv3d(widths[levels - 1], 1, upsample)
        self.is_exact = norm == "rms"
        self.checkpointing = False
        self.recompute = False
        self.halos = halos_of([_scale(layer) for layer in self._layers()])

    def _layers(self) -> list[nn.Module]:
        return [*self.blocks, self.last]

    def forward(
        self, a: Tensor, start: Tensor | None = None, depth: int | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """Make voxels.

        Args:
            a: Feature map ``[B, C, d, h, w]``, all of it.
            start: First slice of each window ``[B]``, in slices of ``a``; None makes every slice of ``a``.
            depth: Slices of ``a`` per window.
            skip: Volume that is added before the tanh, enlarged ``[B, 1, d, h, w]``, all of it.

        Returns:
            ``[B, 1, factor * depth, factor * h, factor * w]``.
        """
        end = torch.tanh if skip is None else _same
        x = recomputed(partial(self._run, start=start, depth=depth, end=end), a, self.checkpointing)
        return x if skip is None else torch.tanh(x + self.enlarged(skip, start, depth))

    def enlarged(self, low: Tensor, start: Tensor | None = None, depth: int | None = None) -> Tensor:
        """Enlarge volumes ``[B, 1, d, h, w]`` by linear interpolation, doubling by doubling; arguments as in `forward`.

        Some slices equal the same slices of the whole volume enlarged, for they are enlarged with their neighbours.
        """
        x = F.pad(low, (0, 0, 0, 0, 1, 1), mode="replicate")
        if start is not None and depth is not None:
            x = ops.select_subvolume(x, start, depth + 2)
        for layer in self._layers():
            if _scale(layer) == 2:
                x = F.interpolate(x, scale_factor=2, mode="trilinear")[:, :, 1:-1]
        return x[:, :, 1:-1]

    def _run(self, a: Tensor, start: Tensor | None, depth: int | None, end: Map) -> Tensor:
        links = [_link(layer, 0, None, end) for layer in self._layers()]
        if start is None or depth is None:
            return run_chain(links, a, self.recompute)
        if self.is_exact:
            links = self._window_links(start, depth, a.shape[2], end)
        window = ops.select_subvolume(a, start, depth, halo=self.halos[0] if self.is_exact else 0)
        return run_chain(links, window, self.recompute)

    def _window_links(self, start: Tensor, depth: int, total: int, end: Map) -> list[tuple[Map, Map]]:
        """Layers of a window of A with its halo, in a volume of ``total`` slices of A."""
        links = []
        first, count = start - self.halos[0], depth + 2 * self.halos[0]
        for layer, halo, next_halo in zip(self._layers(), self.halos, self.halos[1:], strict=False):
            scale = _scale(layer)
            trim = scale * halo - next_halo
            first, count, total = first * scale + trim, count * scale - 2 * trim, total * scale
            links.append(_link(layer, trim, _is_inside(first, count, total) if next_halo else None, end))
        return links


def halos_of(scales: list[int]) -> list[int]:
    """Slices needed beyond each end of a window before every layer, by their scales, and, last, in the result: 0."""
    halos = [0]
    for scale in reversed(scales):
        halos.insert(0, (halos[0] + 2) // 2 if scale == 2 else halos[0] + 1)
    return halos


def _link(layer: nn.Module, trim: int, mask: Tensor | None, end: Map) -> tuple[Map, Map]:
    """Give a layer of G^H as its convolution and what comes after: norm and ReLU, zero outside ``mask``; or ``end``."""
    if isinstance(layer, ConvBlock):
        conv, norm = layer.link(trim)
        return conv, partial(_masked, norm, mask)
    return partial(layer, trim=trim), end


def _same(x: Tensor) -> Tensor:
    return x


def _masked(norm: Map, mask: Tensor | None, x: Tensor) -> Tensor:
    x = norm(x)
    return x if mask is None else x.mul_(mask.to(x.dtype))  # the norm does not keep its result


def _scale(layer: nn.Module) -> int:
    """Voxels out per voxel in, along each axis."""
    conv = layer.conv if isinstance(layer, ConvBlock) else layer
    return 2 if isinstance(conv, UpConv3d) else 1


def _is_inside(first: Tensor, count: int, total: int) -> Tensor:
    """Tell which slices of a window lie in a volume of ``total`` slices: ``[B, 1, count, 1, 1]``."""
    slices = first[:, None] + torch.arange(count, device=first.device)
    return ((slices >= 0) & (slices < total))[:, None, :, None, None]


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
        features: int = 64,
        norm: str = "rms",
        high_convs: int = 0,
        upsample: str = "folded",
        fc_rank: int = 0,
        encoded_prior: bool = False,
        output_skip: bool = False,
    ) -> None:
        """Build G for volumes of ``size`` voxels and sub-volumes of ``depth`` slices."""
        super().__init__()
        self.latent_dim = latent_dim
        self.output_skip = output_skip
        self.factor = low_factor(size)
        self.depth = depth
        low_size = (size[0] // self.factor, size[1] // self.factor, size[2] // self.factor)
        self.prior = Prior(latent_dim, num_classes, encoded_prior)
        self.common = CommonBlock(low_size, latent_dim, num_classes, channels, features, upsample, fc_rank)
        self.low = LowHead(features)
        self.high = HighHead(self.factor, features, norm, high_convs, upsample)

    def forward(self, z: Tensor, start: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Generate what training needs.

        Args:
            z: Latents ``[B, latent_dim]``.
            start: First slice of each sub-volume ``[B]``, in voxels; multiples of ``factor``.
            label: Class of each volume ``[B]``, for a conditional generator.

        Returns:
            Sub-volumes ``[B, 1, depth, H, W]`` and volumes at low resolution ``[B, 1, D / factor, ...]``.
        """
        a = self.common(z, label)
        place = start // self.factor, self.depth // self.factor
        if not self.output_skip:
            return self.high(a, *place), self.low(a)
        logits = self.low.logits(a)
        return self.high(a, *place, logits), torch.tanh(logits)

    def skip(self, a: Tensor) -> Tensor | None:
        """Make what G^H's voxels are added to from the feature map ``a``, at its resolution; None in a G without."""
        return self.low.logits(a) if self.output_skip else None

    def voxels(self, a: Tensor) -> Tensor:
        """Make all voxels ``[B, 1, factor * d, ...]`` of a feature map ``[B, C, d, h, w]``, or of a piece by itself."""
        return self.high(a, skip=self.skip(a))

    def volume(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate whole volumes ``[B, 1, D, H, W]``."""
        return self.voxels(self.common(z, label))
