"""Settings of MedGAN."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import PairDataConfig, WindowDataConfig
from hagan3d.config.method import FeatureLossConfig, LabelledTargetConfig, PatchDiscriminatorConfig, UNetMethodConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class MedGANConfig(UNetMethodConfig, PatchDiscriminatorConfig, FeatureLossConfig, LabelledTargetConfig):
    """MedGAN: a cascade of U-Nets with perceptual, style and content losses."""

    data_config: ClassVar[type[WindowDataConfig]] = WindowDataConfig

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss (bce: as published)."""
    residual: bool = False
    """Whether the generator predicts a residual that is added to the source: of several source channels, the first to
    the first target channel, the second to the second, and so on."""
    grey_source: bool = False
    """Whether networks see the grey level of a source instead of its channels (stain-style transfer, Cho et al. 2017):
    of three channels 0.299 R + 0.587 G + 0.114 B, else the mean. Trained on images as their own source, the generator
    gives any image the colours of the training images."""
    blocks: int = bounded(6, at_least=1)
    """Number of U-Nets in the cascade."""
    critic_every: int = bounded(3, at_least=1)
    """Updates of the generator per update of the discriminator."""
    perceptual_weight: float = bounded(20.0, at_least=0)
    """Weight of the perceptual loss: L1 of the volumes and of the discriminator's features."""
    critic_features: bool = True
    """Whether the perceptual loss has the discriminator's features, as published; without, it is the L1 loss."""
    style_share: float = bounded(0.1, at_least=0, below=0.5)
    """Share of the generator's gradient that the style loss has in the first step: the squared difference of Gram
    matrices of the extractor's features. The weight follows; the published 1e-4 is for features of VGG-19 of 0..255."""
    content_share: float = bounded(0.1, at_least=0, below=0.5)
    """The same of the content loss: the squared difference of the extractor's features."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if a source has other channels than those of one image."""
        super().check(data, train)
        if self.grey_source and (self.residual or data.context > 1 or data.window == "hierarchical"):
            raise InputError(
                "medgan.grey_source: takes the grey level of one image; use it without medgan.residual, data.context "
                "and data.window hierarchical"
            )
