"""Networks of pix2pix: a U-Net generator and a discriminator of source and target."""

from collections.abc import Sequence

from torch import Tensor

from hagan3d.config import Size
from hagan3d.methods.pix2pix.config import Pix2PixConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import Seeds, StridedUNet
from hagan3d.networks.translation import Translation, TranslationNetworks, add_residual, to_float32


class Pix2PixNetworks(TranslationNetworks):
    """The generator ``g`` and the discriminator ``d``."""

    averaged = ("g",)

    def __init__(self, size: Size, settings: Pix2PixConfig) -> None:
        """Build the networks for volumes or windows of ``size`` voxels."""
        super().__init__(size, settings)
        sources, targets, levels = settings.source_channels, settings.target_outputs, num_levels(size, settings.levels)
        self.residual, self.labels, self.has_dropout = settings.residual, settings.target_labels, settings.dropout
        self.g = StridedUNet(
            sources, targets, size, width=settings.width, levels=levels, norm=settings.norm, labels=self.labels
        )
        self.d = PatchDiscriminator(sources + targets, width=settings.critic_width, layers=settings.critic_layers)

    def generate(self, source: Tensor, seeds: Seeds = None) -> Tensor:
        """Translate ``source [B, Cs, D, H, W]``; with one seed per volume, with dropout."""
        output = to_float32(self.g(source, seeds))
        return add_residual(output, source, self.labels) if self.residual else output

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``, with dropout if it has a seed."""
        seeds = None if self.dropout_seed is None else [self.dropout_seed] * len(source)
        return Translation(self.generate(source, seeds))
