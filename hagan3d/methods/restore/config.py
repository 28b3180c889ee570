"""Settings of restoration: DAGAN, RED-WGAN, WGAN-VGG and their like, by weights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import PairDataConfig, WindowDataConfig, is_slice
from hagan3d.config.method import FeatureLossConfig, UNetMethodConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class RestoreConfig(UNetMethodConfig, FeatureLossConfig):
    """Restoration: one generator, a discriminator of whole volumes, and losses by weight."""

    data_config: ClassVar[type[WindowDataConfig]] = WindowDataConfig

    objective: Literal["bce", "minimax", "hinge", "lsgan", "wgan-gp"] = "bce"
    """Adversarial loss."""
    gp_weight: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty of wgan-gp."""
    residual: bool = False
    """Whether the generator predicts a residual that is added to the source: of several source channels, the first to
    the first target channel, the second to the second, and so on."""
    clip: bool = False
    """Whether the output is clipped to [-1, 1]; a voxel outside gets no gradient."""
    generator: Literal["plain", "skips", "unet"] = "plain"
    """plain: convolutions at full resolution. skips: the same with additive skips and channels that double up to the
    middle. unet: strided U-Net."""
    depth: int = bounded(8, at_least=2)
    """Number of convolutions of `plain` and `skips`."""
    critic_steps: int = bounded(1, at_least=1)
    """Updates of the discriminator per update of the generator; a step has one update of the discriminator."""
    l1_weight: float = bounded(0.0, at_least=0)
    """Weight of the mean absolute error."""
    l2_weight: float = bounded(1.0, at_least=0)
    """Weight of the mean squared error."""
    nmse_weight: float = bounded(0.0, at_least=0)
    """Weight of the normalized error: norm of the error over that of the target."""
    gradient_weight: float = bounded(0.0, at_least=0)
    """Weight of the gradient difference loss: squared difference of the magnitudes of gradients."""
    frequency_weight: float = bounded(0.0, at_least=0)
    """Weight of the frequency loss: mean squared difference of the magnitudes of orthonormal spectra. The published 0.1
    is for unnormalized spectra of 256 x 256 pixels in [0, 1]: 0.1 x 256^2 / 4 = 1638.4 here, at any size."""
    perceptual_share: float = bounded(0.0, at_least=0, below=1)
    """Share of the generator's gradient that the perceptual loss has in the first step: the mean squared difference of
    the extractor's features. The weight follows, since features of each extractor have another scale."""
    slice_tv_weight: float = bounded(0.0, at_least=0)
    """Weight of the total variation along D, for thin slices from thick ones."""
    slice_tv: Literal["l2", "l1", "match"] = "l2"
    """Total variation along D as mean square or mean absolute value, or its L1 error against the target's."""

    @property
    def is_global(self) -> bool:
        """Whether a voxel depends on all voxels of a window; convolutions at full resolution have no norms."""
        return self.generator == "unet" and super().is_global

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator == "skips" and self.depth % 2:
            raise InputError(f"restore.depth: must be even for restore.generator skips, got {self.depth}")
        names = [name for name in self.__dataclass_fields__ if name.endswith("_weight") and name != "gp_weight"]
        if not (self.perceptual_share or any(getattr(self, name) for name in names)):
            raise InputError(f"restore: perceptual_share, {', '.join(names)} are all 0; set one of them")

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the method cannot work with these settings of data and training."""
        super().check(data, train)
        if self.slice_tv_weight and is_slice(data.size):
            raise InputError("restore.slice_tv_weight: a single slice has no variation along D; use 0")
