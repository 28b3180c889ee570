"""Settings of SegAN."""

from dataclasses import dataclass
from typing import ClassVar

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
    dice_weight: float = bounded(1.0, at_least=0)
    """Weight of the Dice loss, the mean over foreground labels."""
    clip: float = bounded(0.05, above=0)
    """Bound of the critic's weights, which are clipped after each of its updates."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the target is not one label map."""
        super().check(data, train)
        if self.target_channels != 1:
            raise InputError("segan.target_channels: must be 1, the label map")
