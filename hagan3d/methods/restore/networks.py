"""Networks of restoration: a generator, a discriminator of whole volumes, and a feature extractor."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from hagan3d.config import Size
from hagan3d.methods.restore.config import RestoreConfig
from hagan3d.networks.discriminators import GlobalDiscriminator
from hagan3d.networks.full_resolution import FullResolution
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import StridedUNet
from hagan3d.networks.translation import ExtractorNetworks, Translation, add_residual, to_float32


class RestoreNetworks(ExtractorNetworks):
    """The generator ``g``, the discriminator ``d``, and ``f``, its average, for the perceptual loss."""

    averaged = ("g",)

    def __init__(self, size: Size, settings: RestoreConfig) -> None:
        """Build the networks for volumes or windows of ``size`` voxels."""
        super().__init__(size, settings)
        self.residual, self.clip = settings.residual, settings.clip
        self.g = _generator(size, settings)
        make = partial(GlobalDiscriminator, settings.target_channels, size, width=settings.critic_width)
        self.add_discriminator(make, settings)

    def generate(self, source: Tensor) -> Tensor:
        """Restore ``source [B, Cs, D, H, W]``."""
        output = to_float32(self.g(source))
        output = add_residual(output, source) if self.residual else output
        return output.clamp(-1, 1) if self.clip else output

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Restore ``source``; see `TranslationNetworks`."""
        return Translation(self.generate(source))


def _generator(size: Size, settings: RestoreConfig) -> nn.Module:
    """Build the generator that the settings name."""
    sources, targets, width = settings.source_channels, settings.target_channels, settings.width
    if settings.generator == "unet":
        levels = num_levels(size, settings.levels)
        return StridedUNet(sources, targets, size, width=width, levels=levels, norm=settings.norm)
    return FullResolution(sources, targets, width=width, depth=settings.depth, skips=settings.generator == "skips")
