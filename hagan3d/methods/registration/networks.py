"""The networks of adversarial registration: a regressor that moves volumes onto others, and a critic of the result."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import PatchDiscriminator, halving_convs
from hagan3d.networks.layers import leaky_relu_, num_halvings, widths_from
from hagan3d.networks.translation import Translation, TranslationNetworks, widened
from hagan3d.ops.warp import AFFINE, RIGID, affine_matrix, warp

HIDDEN = 8  # times the width: numbers between features and transforms
REACH = 10.0  # degrees, millimetres or per cent per unit of the last layer


class Regressor(nn.Module):
    """Volumes to the numbers of a transform (family REG): convolutions that halve the sides to 4, then two layers.

    It begins with zeros, so with the transform that changes nothing.
    """

    def __init__(self, in_channels: int, size: Size, numbers: int, *, width: int) -> None:
        """Build it for volumes of ``size`` voxels; the first convolution has ``width`` channels."""
        super().__init__()
        layers = num_halvings(min(size))
        widths = [in_channels, *widths_from(width, layers)]
        self.convs = halving_convs(widths)
        d, h, w = (side >> layers for side in size)
        self.hidden = nn.Linear(widths[-1] * d * h * w, HIDDEN * width)
        self.last = nn.Linear(HIDDEN * width, numbers)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]`` to ``[B, numbers]``."""
        for conv in self.convs:
            x = leaky_relu_(F.instance_norm(conv(x)))
        return REACH * widened(self.last(F.relu(self.hidden(x.flatten(1)))))


class RegistrationNetworks(TranslationNetworks):
    """The regressor ``g`` and its critic ``d``; sources are moving volumes with the fixed ones beside them.

    Source: Yan et al., Adversarial Image Registration with Application for MR and TRUS Image Fusion, MLMI 2018.
    """

    averaged = ("g",)
    sees_whole = True

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        self.moving = model.source_channels - model.target_channels
        self.spacing = model.registration.spacing
        numbers = RIGID if model.registration.transform == "rigid" else AFFINE
        self.g = Regressor(model.source_channels, size, numbers, width=model.width)
        self.d = PatchDiscriminator(model.source_channels, width=model.critic_width, layers=model.critic_layers)

    def estimate(self, source: Tensor) -> Tensor:
        """Numbers ``[B, 6 or 12]`` of the transforms that bring moving volumes onto fixed ones; see `affine_matrix`."""
        return self.g(source)

    def moved(self, source: Tensor, numbers: Tensor) -> Tensor:
        """Moving volumes of ``source [B, Cm + Cf, D, H, W]`` as ``numbers`` move them, ``[B, Cm, D, H, W]``."""
        with torch.autocast(source.device.type, enabled=False):
            return warp(source[:, : self.moving], affine_matrix(numbers), self.spacing)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Move moving volumes onto the fixed ones beside them."""
        return Translation(self.moved(source, self.estimate(source)))
