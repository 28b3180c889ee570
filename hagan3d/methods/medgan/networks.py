"""Networks of MedGAN: a cascade of U-Nets, a discriminator, and a feature extractor."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from hagan3d.config import Size
from hagan3d.methods.medgan.config import MedGANConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import StridedUNet
from hagan3d.networks.translation import ExtractorNetworks, Translation, add_residual, to_float32

LUMA = (0.299, 0.587, 0.114)  # of R, G and B (ITU-R BT.601)


class MedGANNetworks(ExtractorNetworks):
    """The generator ``g``, the discriminator ``d``, and ``f``, its average, for the style and content losses.

    Source: Armanious et al., MedGAN, Computerized Medical Imaging and Graphics 79, 2020.
    """

    averaged = ("g",)

    def __init__(self, size: Size, settings: MedGANConfig) -> None:
        """Build the networks for volumes or windows of ``size`` voxels."""
        super().__init__(size, settings)
        sources, targets, levels = settings.source_channels, settings.target_outputs, num_levels(size, settings.levels)
        self.residual, self.labels = settings.residual, settings.target_labels
        self.is_grey = settings.grey_source
        sources = 1 if self.is_grey else sources
        self.g = nn.ModuleList(
            StridedUNet(
                channels, targets, size, width=settings.width, levels=levels, norm=settings.norm, labels=self.labels
            )
            for channels in [sources] + [targets] * (settings.blocks - 1)
        )
        width, layers = settings.critic_width, settings.critic_layers
        make = partial(PatchDiscriminator, sources + targets, width=width, layers=layers)
        self.add_discriminator(make, settings)

    def seen(self, source: Tensor) -> Tensor:
        """Return what networks see of ``source [B, Cs, D, H, W]``: itself, or its grey level ``[B, 1, D, H, W]``."""
        if not self.is_grey:
            return source
        channels = source.shape[1]
        weights = source.new_tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels)
        return (source * weights.view(-1, 1, 1, 1)).sum(1, keepdim=True)

    def generate(self, source: Tensor) -> Tensor:
        """Translate ``source [B, Cs, D, H, W]`` through all U-Nets, each from a volume to a volume."""
        x = source = self.seen(source)
        for block in self.g:
            x = block(x)
        return add_residual(to_float32(x), source, self.labels) if self.residual else to_float32(x)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``; see `TranslationNetworks`."""
        return Translation(self.generate(source))
