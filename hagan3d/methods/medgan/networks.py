"""The networks of MedGAN: U-Nets in a row, a critic whose features are compared, and a frozen copy of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import StridedUNet
from hagan3d.networks.translation import Translation, TranslationNetworks, added, widened


class MedganNetworks(TranslationNetworks):
    """The generator ``g``, its critic ``d`` and ``f``, the average of ``d``, whose features say style and content.

    Source: Armanious et al., MedGAN, Computerized Medical Imaging and Graphics 79, 2020; its VGG-19 is made for 2D
    photographs, and ``f`` stands in its place.
    """

    averaged = ("g",)

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        sources, targets, levels = model.source_channels, model.target_channels, num_levels(size, model.levels)
        self.adds_source, self.decay = model.residual, model.medgan.extractor_decay
        self.g = nn.ModuleList(
            StridedUNet(targets if block else sources, targets, width=model.width, levels=levels, norm=model.norm)
            for block in range(model.medgan.blocks)
        )
        self.d, self.f = (
            PatchDiscriminator(sources + targets, width=model.critic_width, layers=model.critic_layers)
            for _ in range(2)
        )
        self.f.load_state_dict(self.d.state_dict())

    def generate(self, source: Tensor) -> Tensor:
        """Translate ``source [B, Cs, D, H, W]`` through all blocks: volume in and volume out of each."""
        x = source
        for block in self.g:
            x = block(x)
        return added(widened(x), source) if self.adds_source else widened(x)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``; see `TranslationNetworks`."""
        return Translation(self.generate(source))

    @torch.no_grad()
    def follow(self, moved: Sequence[str]) -> None:
        """Move ``f`` a little towards ``d``, where that has moved."""
        if "d" in moved:
            torch._foreach_lerp_(list(self.f.parameters()), list(self.d.parameters()), 1 - self.decay)
