"""Networks of SegAN: a segmentation network, and a critic of masked images or of images with their label maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hagan3d.config import Size
from hagan3d.methods.segan.config import SegANConfig
from hagan3d.networks.discriminators import FeatureCritic, PatchDiscriminator
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.translation import Translation, TranslationNetworks, to_float32


class SegANNetworks(TranslationNetworks):
    """The segmentation network ``g`` and the critic ``d``; the weights of one that compares features are clipped."""

    averaged = ("g",)
    is_continuous = False

    def __init__(self, size: Size, settings: SegANConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__(size, settings)
        sources, levels, self.labels = settings.source_channels, num_levels(size, settings.levels), settings.labels
        self.clip, self.has_pairs = settings.clip, settings.critic == "pairs"
        self.g = ResidualUNet(sources, [self.labels], width=settings.width, levels=levels, norm=settings.norm)
        critic = {"width": settings.critic_width, "layers": settings.critic_layers}
        self.d = (
            PatchDiscriminator(sources + self.labels, **critic)
            if self.has_pairs
            else FeatureCritic(sources * (self.labels - 1), **critic)
        )
        self.after_update(("d",))

    def probabilities(self, source: Tensor) -> Tensor:
        """Return the probability of each label in each voxel ``[B, K, D, H, W]`` of ``source [B, Cs, D, H, W]``."""
        return to_float32(self.g(source)[0]).softmax(1)

    def one_hot(self, target: Tensor) -> Tensor:
        """Encode label maps ``[B, 1, D, H, W]`` (-1: label 0, 1: the largest) one-hot ``[B, K, D, H, W]``."""
        index = ((target[:, 0] + 1) * ((self.labels - 1) / 2)).round().long().clamp(0, self.labels - 1)
        labels = torch.arange(self.labels, device=target.device).view(1, -1, 1, 1, 1)
        return (index[:, None] == labels).to(target.dtype)

    def masked(self, source: Tensor, probabilities: Tensor) -> Tensor:
        """Multiply the image by the mask of each foreground label: (source + 1) x p, ``[B, Cs (K - 1), D, H, W]``.

        Intensities are counted from -1, the background, so that masked voxels are 0.
        """
        return ((source + 1)[:, :, None] * probabilities[:, None, 1:]).flatten(1, 2)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Return label probabilities ``[B, K, D, H, W]``, which `finalize` turns into label maps."""
        return Translation(self.probabilities(source))

    def finalize(self, blended: Translation) -> Translation:
        """Take the most probable label of each voxel: -1 is label 0, 1 the largest."""
        labels = blended.mean.argmax(1, keepdim=True).to(blended.mean.dtype)
        return Translation(labels * (2 / (self.labels - 1)) - 1)

    @torch.no_grad()
    def after_update(self, updated: Sequence[str]) -> None:
        """Clip the weights of ``d`` after its update, if it compares features."""
        if "d" in updated and not self.has_pairs:
            for parameter in self.d.parameters():
                parameter.clamp_(-self.clip, self.clip)
