"""Critics: is each patch of this volume real (family P), or the volume as a whole (family GC)?"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.networks.layers import StridedConv3d

SLOPE = 0.2  # of LeakyReLU
MOST_WIDTHS = 8  # channels grow up to so many times those of the first layer
LAST_SIDE = 4  # voxels of the shortest side that a global critic ends with
FOUR = (4, 4, 4)


class PatchCritic(nn.Module):
    """Convolutions of kernel 4 that halve the sides, then two that do not: one logit per patch.

    With 1, 3 and 4 halvings a patch is 16, 70 and 142 voxels wide. Instance norm except in the first layer.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, section 6.1.2.
    """

    def __init__(self, in_channels: int, *, width: int, layers: int) -> None:
        """Build a critic of ``in_channels`` volumes with ``layers`` that halve, the first of ``width`` channels."""
        super().__init__()
        widths = [in_channels, *(width * min(2**layer, MOST_WIDTHS) for layer in range(layers + 1))]
        strides = [2] * layers + [1]
        self.convs = nn.ModuleList(
            StridedConv3d(widths[k], widths[k + 1], FOUR, stride=stride, padding=1) for k, stride in enumerate(strides)
        )
        self.logits = StridedConv3d(widths[-1], 1, FOUR, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Judge ``x [B, C, D, H, W]``: logits ``[B, 1, d, h, w]``."""
        return self.logits(self.features(x)[-1])

    def features(self, x: Tensor) -> list[Tensor]:
        """Give what each layer but the last makes of ``x``."""
        maps = [_activated(self.convs[0](x))]
        for conv in self.convs[1:]:
            maps.append(_activated(F.instance_norm(conv(maps[-1]))))
        return maps


class FeatureCritic(nn.Module):
    """A critic without logits (family FC), whose features are compared: convolutions of kernel 4 that halve the sides.

    Instance norm except in the first layer.

    Source: Xue et al., SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image Segmentation,
    Neuroinformatics 16, 2018, section 3.2.
    """

    def __init__(self, in_channels: int, *, width: int, layers: int) -> None:
        """Build a critic of ``in_channels`` volumes with ``layers`` that halve, the first of ``width`` channels."""
        super().__init__()
        widths = [in_channels, *(width * min(2**layer, MOST_WIDTHS) for layer in range(layers))]
        self.convs = nn.ModuleList(StridedConv3d(a, b, FOUR, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give what each layer makes of ``x [B, C, D, H, W]``."""
        maps = [_activated(self.convs[0](x))]
        for conv in self.convs[1:]:
            maps.append(_activated(F.instance_norm(conv(maps[-1]))))
        return maps


class GlobalCritic(nn.Module):
    """The global critic (family GC): convolutions of kernel 4 that halve the sides down to 4, one logit per volume.

    No norm, as gradient penalties ask for.
    """

    def __init__(self, in_channels: int, size: Size, *, width: int) -> None:
        """Build a critic of volumes of ``size`` voxels; its first layer has ``width`` channels."""
        super().__init__()
        layers = (min(size) // LAST_SIDE).bit_length() - 1
        widths = [in_channels, *(width * min(2**layer, MOST_WIDTHS) for layer in range(layers))]
        self.convs = nn.ModuleList(StridedConv3d(a, b, FOUR, stride=2, padding=1) for a, b in pairwise(widths))
        d, h, w = (side >> layers for side in size)
        self.logits = StridedConv3d(widths[-1], 1, (d, h, w))

    def forward(self, x: Tensor) -> Tensor:
        """Judge ``x [B, C, D, H, W]``: logits ``[B]``."""
        return self.logits(self.features(x)[-1]).flatten()

    def features(self, x: Tensor) -> list[Tensor]:
        """Give what each layer but the last makes of ``x``."""
        maps: list[Tensor] = []
        for conv in self.convs:
            maps.append(_activated(conv(maps[-1] if maps else x)))
        return maps


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)  # so that one tensor is kept, not two
