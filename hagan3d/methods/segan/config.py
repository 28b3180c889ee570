"""Settings of SegAN, and of the conditional GAN for segmentation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import PairDataConfig, PatchDataConfig
from hagan3d.config.method import PatchDiscriminatorConfig, UNetMethodConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class SegANConfig(UNetMethodConfig, PatchDiscriminatorConfig):
    """SegAN: segmentation with a critic that compares multi-scale features of masked images."""

    data_config: ClassVar[type[PatchDataConfig]] = PatchDataConfig
    most_levels: ClassVar[int] = 5

    labels: int = bounded(3, at_least=2, at_most=256)
    """Number of labels of a map, with the background (0). It must equal the store's."""
    critic: Literal["features", "pairs"] = "features"
    """What the adversarial term is. features: L1 distance of a critic's features of masked images, as published.
    pairs: a patch discriminator of images and label maps with binary cross-entropy (conditional GAN, Rezaei et al.
    2017)."""
    dice_weight: float = bounded(1.0, at_least=0)
    """Weight of the Dice loss, the mean over foreground labels; 0: no such term."""
    l1_weight: float = bounded(0.0, at_least=0)
    """Weight of the L1 distance between label probabilities and one-hot labels; 0: no such term."""
    clip: float = bounded(0.05, above=0)
    """Bound of the weights of `critic features`, which are clipped after each of its updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.dice_weight or self.l1_weight or self.adversarial_weight):
            raise InputError("segan: dice_weight, l1_weight and adversarial_weight are all 0; set one of them")

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the target is not one label map."""
        super().check(data, train)
        if self.target_channels != 1:
            raise InputError("segan.target_channels: must be 1, the label map")
