"""Discriminators of translation methods: PatchGAN (a logit per patch), global (a logit per volume), feature critic."""

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.networks.layers import StridedConv3d, halved, halving_kernel, leaky_relu_, num_halvings, widths_from

KERNEL = (4, 4, 4)


def halving_convs(widths: Iterable[int]) -> nn.ModuleList:
    """Return one convolution of kernel 4 and stride 2 between each two of ``widths``."""
    return nn.ModuleList(StridedConv3d(a, b, KERNEL, stride=2, padding=1) for a, b in pairwise(widths))


def convs_to_last_side(in_channels: int, size: Size, width: int) -> tuple[nn.ModuleList, int, Size]:
    """Return convolutions that halve the longest side of ``size`` until it is below 8, and their channels and sides.

    They halve the other axes with it and keep those that are below 4, so that a thin volume has as many layers as a
    cube. The first has ``width`` channels.
    """
    widths = [in_channels, *widths_from(width, num_halvings(max(size)))]
    convs = nn.ModuleList()
    for inputs, outputs in pairwise(widths):
        kernel, stride, padding = halving_kernel(size)
        convs.append(StridedConv3d(inputs, outputs, kernel, stride=stride, padding=padding))
        size = (halved(size[0]), halved(size[1]), halved(size[2]))
    return convs, widths[-1], size


class PatchDiscriminator(nn.Module):
    """PatchGAN: convolutions of kernel 4 that halve the sides, then two of stride 1; one logit per patch.

    With 1, 3 and 4 halvings the receptive field is 16, 70 and 142 voxels. Instance norm except in the first layer.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, section 6.1.2.
    """

    def __init__(self, in_channels: int, *, width: int, layers: int) -> None:
        """Build it with ``layers`` halving convolutions, the first of ``width`` channels."""
        super().__init__()
        widths = [in_channels, *widths_from(width, layers + 1)]
        self.convs = halving_convs(widths[:-1])
        self.convs.append(StridedConv3d(widths[-2], widths[-1], KERNEL, padding=1))
        self.logits = StridedConv3d(widths[-1], 1, KERNEL, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, 1, d, h, w]`` of ``x [B, C, D, H, W]``."""
        return self.logits(self.features(x)[-1])

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of all layers but the last, for feature-matching losses."""
        return _features(self.convs, x)


class FeatureCritic(nn.Module):
    """The critic of SegAN, without logits: its loss compares feature maps. Convolutions of kernel 4 and stride 2.

    Instance norm except in the first layer.

    Source: Xue et al., SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image Segmentation,
    Neuroinformatics 16, 2018, section 3.2.
    """

    def __init__(self, in_channels: int, *, width: int, layers: int) -> None:
        """Build it with ``layers`` convolutions, the first of ``width`` channels."""
        super().__init__()
        self.convs = halving_convs([in_channels, *widths_from(width, layers)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the input, which is the first scale of the loss, and the feature maps of all layers."""
        return [x, *_features(self.convs, x)]


class GlobalDiscriminator(nn.Module):
    """Discriminator of whole volumes: convolutions of kernel 4 that halve the sides (see `convs_to_last_side`).

    One logit per volume.

    No norm: a gradient penalty is defined per volume, and a norm over the batch or space would couple its terms
    (Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, section 4).
    """

    def __init__(self, in_channels: int, size: Size, *, width: int) -> None:
        """Build it for volumes of ``size`` voxels; the first layer has ``width`` channels."""
        super().__init__()
        self.convs, channels, sides = convs_to_last_side(in_channels, size, width)
        self.logits = StridedConv3d(channels, 1, sides)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B]`` of ``x [B, C, D, H, W]``."""
        return self.logits(self.features(x)[-1]).flatten()

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of all layers but the last."""
        maps: list[Tensor] = []
        for conv in self.convs:
            x = leaky_relu_(conv(x))
            maps.append(x)
        return maps


def _features(convs: nn.ModuleList, x: Tensor) -> list[Tensor]:
    # No norm in the first layer, which would remove the mean intensity and the contrast of the input.
    maps = [leaky_relu_(convs[0](x))]
    for conv in convs[1:]:
        maps.append(leaky_relu_(F.instance_norm(conv(maps[-1]))))
    return maps
