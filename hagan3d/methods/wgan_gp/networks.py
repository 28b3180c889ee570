"""Networks of WGAN-GP: a generator of upsampling convolutions, and a critic of strided ones."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from hagan3d.config import Config, Size, shortest_side
from hagan3d.methods.wgan_gp.config import WGANGPConfig
from hagan3d.networks.discriminators import GlobalDiscriminator
from hagan3d.networks.generative import GenerativeNetworks
from hagan3d.networks.layers import (
    Conv3d,
    ConvBlock,
    VolumeOutput,
    halved_size,
    num_even_halvings,
    num_halvings,
    widths_from,
)


class VolumeGenerator(nn.Module):
    """Latents to whole volumes in [-1, 1]: a fully connected layer, then convolutions with upsampling."""

    def __init__(self, size: Size, latent_dim: int, width: int, output: VolumeOutput) -> None:
        """Build it for volumes of ``size`` voxels; ``width`` channels at full resolution."""
        super().__init__()
        levels = min(num_halvings(shortest_side(size)), num_even_halvings(size))
        widths = widths_from(width, levels + 1)[::-1]
        self.start = (widths[0], *halved_size(size, levels))
        self.fc = nn.Linear(latent_dim, int(np.prod(self.start)))
        self.blocks = nn.ModuleList(ConvBlock(a, b, "group", up=True) for a, b in pairwise(widths))
        self.last, self.output = Conv3d(width, output.channels), output

    def forward(self, z: Tensor) -> Tensor:
        """Map ``z [B, latent_dim]`` to ``[B, C, D, H, W]``."""
        x = self.fc(z).view(-1, *self.start)
        for block in self.blocks:
            x = block(x)
        return self.output(self.last(x))


class WGANGPNetworks(GenerativeNetworks):
    """The generator ``g`` and the critic ``d``."""

    averaged = ("g",)
    discriminators = ("d",)

    def __init__(self, size: Size, settings: WGANGPConfig, images: int = 1, labels: int = 0) -> None:
        """Build the networks for volumes of ``size`` voxels with so many image channels and labels."""
        super().__init__()
        self.depth, self.latent_dim = size[0], settings.latent_dim
        self.is_uniform = settings.latent == "uniform"
        self.g = VolumeGenerator(size, settings.latent_dim, settings.width, VolumeOutput(images, labels))
        self.d = GlobalDiscriminator(images + labels, size, width=settings.width)

    @classmethod
    def from_config(cls, config: Config, num_classes: int = 0) -> Self:
        """Build the networks for a run."""
        return cls(config.data.size, config.method, config.data.channels, config.data.labels)

    def latent(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map standard normal numbers ``x [B, latent_dim]`` to z: as they are, or uniform between -1 and 1.

        A normal number has the distribution function (1 + erf(x / sqrt 2)) / 2, whose values are uniform.
        """
        return torch.erf(x / math.sqrt(2)) if self.is_uniform else x

    def prior_covariance(self) -> Tensor:
        """Return the covariance of z ``[latent_dim, latent_dim]``."""
        return torch.eye(self.latent_dim) * self.prior_mean_square()

    def prior_mean_square(self) -> float:
        """Return the mean of the squared entries of z."""
        return 1 / 3 if self.is_uniform else 1.0

    def max_depth(self) -> int:
        """Return the slices D of a volume."""
        return self.depth

    def windows(self, z: Tensor, label: Tensor | None, depth: int) -> Iterator[Tensor]:
        """Yield the whole volume at once: a generator with GroupNorm cannot run on windows."""
        yield self.g(z)

    @torch.no_grad()
    def discriminate(self, volume: Tensor) -> np.ndarray:
        """Return the score of the critic for one volume ``[1, C, D, H, W]``, float64 ``[1]``."""
        return self.d(volume).double().cpu().numpy()
