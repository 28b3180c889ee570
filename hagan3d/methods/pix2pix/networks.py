"""The networks of pix2pix: one generator, and a critic that sees source and target together."""

from collections.abc import Sequence

from torch import Tensor

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import Seeds, StridedUNet
from hagan3d.networks.translation import Translation, TranslationNetworks, added, widened


class PairNetworks(TranslationNetworks):
    """The generator ``g`` and its critic ``d``."""

    averaged = ("g",)

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        sources, targets, levels = model.source_channels, model.target_channels, num_levels(size, model.levels)
        self.adds_source = model.residual
        self.g = StridedUNet(sources, targets, width=model.width, levels=levels, norm=model.norm)
        self.d = PatchDiscriminator(sources + targets, width=model.critic_width, layers=model.critic_layers)

    def generate(self, source: Tensor, seeds: Seeds = None) -> Tensor:
        """Translate ``source [B, Cs, D, H, W]``; with a seed per volume, with dropout."""
        made = widened(self.g(source, seeds))
        return added(made, source) if self.adds_source else made

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``, without dropout."""
        return Translation(self.generate(source))
