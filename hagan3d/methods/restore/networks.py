"""The networks of restoration: a generator of any family, a critic of whole volumes, and a frozen copy of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import GlobalDiscriminator
from hagan3d.networks.full_resolution import FullResolution
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.strided_unet import StridedUNet
from hagan3d.networks.translation import Translation, TranslationNetworks, added, widened


class RestoreNetworks(TranslationNetworks):
    """The generator ``g``, its critic ``d`` and ``f``, the average of ``d``, whose features are compared."""

    averaged = ("g",)

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        self.adds_source, self.decay = model.residual, model.restore.extractor_decay
        self.g = _generator(size, model)
        self.d, self.f = (GlobalDiscriminator(model.target_channels, size, width=model.critic_width) for _ in range(2))
        self.f.load_state_dict(self.d.state_dict())

    def generate(self, source: Tensor) -> Tensor:
        """Restore ``source [B, Cs, D, H, W]``."""
        made = widened(self.g(source))
        return added(made, source) if self.adds_source else made

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Restore ``source``; see `TranslationNetworks`."""
        return Translation(self.generate(source))

    @torch.no_grad()
    def follow(self, moved: Sequence[str]) -> None:
        """Move ``f`` a little towards ``d``, where that has moved."""
        if "d" in moved:
            torch._foreach_lerp_(list(self.f.parameters()), list(self.d.parameters()), 1 - self.decay)


def _generator(size: Size, model: TranslationConfig) -> nn.Module:
    sources, targets, restore = model.source_channels, model.target_channels, model.restore
    if restore.generator == "unet":
        levels = num_levels(size, model.levels)
        return StridedUNet(sources, targets, width=model.width, levels=levels, norm=model.norm)
    skips = restore.generator == "skips"
    return FullResolution(sources, targets, width=model.width, depth=restore.depth, skips=skips)
