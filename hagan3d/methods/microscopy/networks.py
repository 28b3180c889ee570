"""Networks of the translation of microscopy images: a U-Net and two patch discriminators."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import Size
from hagan3d.methods.microscopy.config import MicroscopyConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import Seeds, StridedUNet
from hagan3d.networks.translation import Translation, TranslationNetworks, to_float32


class MicroscopyNetworks(TranslationNetworks):
    """The generator ``g``, and the discriminators ``d_image`` of (image, target) and ``d_mask`` of (mask, target)."""

    averaged = ("g",)

    def __init__(self, size: Size, settings: MicroscopyConfig) -> None:
        """Build the networks for volumes or slices of ``size`` voxels."""
        super().__init__(size, settings)
        self.noise_channels, self.has_dropout = settings.noise_channels, settings.noise_channels > 0
        self.is_mask_given = settings.cell_mask == "channel"
        images, targets = settings.source_channels - self.is_mask_given, settings.target_outputs
        levels = num_levels(size, settings.levels)
        inputs = images + 1 + settings.noise_channels
        self.g = StridedUNet(inputs, targets, size, width=settings.width, levels=levels, norm=settings.norm)
        critic = {"width": settings.critic_width, "layers": settings.critic_layers}
        self.d_image = PatchDiscriminator(images + targets, **critic)
        self.d_mask = PatchDiscriminator(1 + targets, **critic)

    def split(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image ``[B, C, D, H, W]`` and the cell mask, -1 or 1 ``[B, 1, D, H, W]``, of a source."""
        if self.is_mask_given:
            return source[:, :-1], source[:, -1:]
        image = source[:, :1]
        mean, deviation = (
            x.view(-1, 1, 1, 1, 1) for x in (image.flatten(1).mean(1), image.flatten(1).std(1, correction=0))
        )
        return source, torch.where((image - mean).abs() > deviation, 1.0, -1.0).to(source.dtype)

    def generate(self, source: Tensor, seeds: Seeds = None) -> Tensor:
        """Translate ``source [B, Cs, D, H, W]``, with the noise of one seed per volume, or noise 0."""
        image, mask = self.split(source)
        return to_float32(self.g(torch.cat([image, mask, self._noise(source, seeds)], dim=1)))

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``, with noise if it has a seed."""
        seeds = None if self.dropout_seed is None else [self.dropout_seed] * len(source)
        return Translation(self.generate(source, seeds))

    def _noise(self, source: Tensor, seeds: Seeds) -> Tensor:
        """Standard normal noise ``[B, noise_channels, D, H, W]``, a function of the seeds; without seeds 0."""
        shape = (self.noise_channels, *source.shape[2:])
        if seeds is None:
            return source.new_zeros(len(source), *shape)
        # numpy's generator and not torch's: the same noise on every device, and no random state to store
        noise = np.stack([np.random.default_rng(seed).standard_normal(shape, np.float32) for seed in seeds])
        return torch.from_numpy(noise).to(source)
