"""The networks of SegAN: a generator of label maps and a critic of what the labels cut out of a volume."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import FeatureCritic
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.translation import Translation, TranslationNetworks, widened


class SeganNetworks(TranslationNetworks):
    """The generator ``g`` and its critic ``d``, whose weights stay small."""

    averaged = ("g",)

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        sources, levels, self.labels = model.source_channels, num_levels(size, model.levels), model.segan.labels
        self.clip = model.segan.clip
        self.g = ResidualUNet(sources, [self.labels], width=model.width, levels=levels, norm=model.norm)
        seen = sources * (self.labels - 1)
        self.d = FeatureCritic(seen, width=model.critic_width, layers=model.critic_layers)
        self.follow(("d",))

    def probabilities(self, source: Tensor) -> Tensor:
        """Probability of each label in each voxel ``[B, K, D, H, W]`` of ``source [B, Cs, D, H, W]``."""
        return widened(self.g(source)[0]).softmax(1)

    def one_hot(self, target: Tensor) -> Tensor:
        """Label maps ``[B, 1, D, H, W]``, -1 for label 0 and 1 for the largest, as ``[B, K, D, H, W]`` of 0 and 1."""
        number = ((target[:, 0] + 1) * ((self.labels - 1) / 2)).round().long().clamp(0, self.labels - 1)
        return F.one_hot(number, self.labels).movedim(-1, 1).to(target.dtype)

    def cut_out(self, source: Tensor, shares: Tensor) -> Tensor:
        """What each label but the background leaves of a volume: (source + 1) x share, ``[B, Cs (K - 1), D, H, W]``."""
        return ((source + 1)[:, :, None] * shares[:, None, 1:]).flatten(1, 2)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Probabilities of labels ``[B, K, D, H, W]``, which `finished` turns into label maps."""
        return Translation(self.probabilities(source))

    def finished(self, made: Translation) -> Translation:
        """Choose the likeliest label of each voxel: -1 is label 0, 1 the largest."""
        return Translation(made.mean.argmax(1, keepdim=True).to(made.mean.dtype) * (2 / (self.labels - 1)) - 1)

    @torch.no_grad()
    def follow(self, moved: Sequence[str]) -> None:
        """Cut off large weights of ``d``."""
        if "d" in moved:
            for parameter in self.d.parameters():
                parameter.clamp_(-self.clip, self.clip)
