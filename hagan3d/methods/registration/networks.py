"""Networks of adversarial registration: a regressor of transform parameters, and a discriminator of aligned pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.methods.registration.config import RegistrationConfig
from hagan3d.networks.discriminators import PatchDiscriminator, convs_to_last_side
from hagan3d.networks.layers import leaky_relu_
from hagan3d.networks.translation import Translation, TranslationNetworks, to_float32
from hagan3d.ops.warp import AFFINE, RIGID, affine_matrix, warp

HIDDEN = 8  # times the width: units of the fully connected layer
SCALE = 10.0  # degrees, millimetres or per cent per unit of the last layer


class Regressor(nn.Module):
    """Volumes to transform parameters: strided convolutions down to a side of 4, then two fully connected layers.

    The last layer starts at zero: the initial transform is the identity.
    """

    def __init__(self, in_channels: int, size: Size, parameters: int, *, width: int) -> None:
        """Build it for volumes of ``size`` voxels; the first convolution has ``width`` channels."""
        super().__init__()
        self.convs, channels, (d, h, w) = convs_to_last_side(in_channels, size, width)
        self.hidden = nn.Linear(channels * d * h * w, HIDDEN * width)
        self.last = nn.Linear(HIDDEN * width, parameters)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]`` to ``[B, parameters]``."""
        for conv in self.convs:
            x = leaky_relu_(F.instance_norm(conv(x)))
        return SCALE * to_float32(self.last(F.relu(self.hidden(x.flatten(1)))))


class RegistrationNetworks(TranslationNetworks):
    """The regressor ``g`` and the discriminator ``d``; sources are a moving and a fixed image, concatenated.

    Source: Yan et al., Adversarial Image Registration with Application for MR and TRUS Image Fusion, MLMI 2018.
    """

    averaged = ("g",)
    is_continuous = False
    needs_whole_volume = True
    registers = True

    def __init__(self, size: Size, settings: RegistrationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__(size, settings)
        self.moving = settings.source_channels - settings.target_channels
        self.spacing = settings.spacing
        parameters = RIGID if settings.transform == "rigid" else AFFINE
        self.g = Regressor(settings.source_channels, size, parameters, width=settings.width)
        self.d = PatchDiscriminator(
            settings.source_channels, width=settings.critic_width, layers=settings.critic_layers
        )

    def estimate(self, source: Tensor) -> Tensor:
        """Estimate the parameters ``[B, 6 or 12]`` that move moving onto fixed images; see `affine_matrix`."""
        return self.g(source)

    def warped(self, source: Tensor, parameters: Tensor) -> Tensor:
        """Warp the moving images of ``source [B, Cm + Cf, D, H, W]`` by ``parameters``, ``[B, Cm, D, H, W]``."""
        with torch.autocast(source.device.type, enabled=False):
            return warp(source[:, : self.moving], affine_matrix(parameters), self.spacing)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Warp moving images onto the fixed ones."""
        return Translation(self.warped(source, self.estimate(source)))
