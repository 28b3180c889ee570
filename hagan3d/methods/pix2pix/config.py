"""Settings of pix2pix."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import WindowDataConfig
from hagan3d.config.method import LabelledTargetConfig, PatchDiscriminatorConfig, UNetMethodConfig


@dataclass(frozen=True)
class Pix2PixConfig(UNetMethodConfig, PatchDiscriminatorConfig, LabelledTargetConfig):
    """pix2pix: U-Net generator and patch discriminator."""

    data_config: ClassVar[type[WindowDataConfig]] = WindowDataConfig

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss (bce: as published)."""
    residual: bool = False
    """Whether the generator predicts a residual that is added to the source: of several source channels, the first to
    the first target channel, the second to the second, and so on."""
    dropout: bool = True
    """Whether the innermost layers of the generator have dropout of rate 1/2 in training, as published."""
    l1_weight: float = bounded(100.0, at_least=0)
    """Weight of the L1 loss."""
