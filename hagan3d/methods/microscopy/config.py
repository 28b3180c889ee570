"""Settings of the translation of microscopy images."""

from dataclasses import dataclass
from typing import Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import PairDataConfig
from hagan3d.config.method import PatchDiscriminatorConfig, UNetMethodConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class MicroscopyConfig(UNetMethodConfig, PatchDiscriminatorConfig):
    """Translation of microscopy images: U-Net of image, cell mask and noise, and two patch discriminators."""

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss."""
    cell_mask: Literal["contrast", "channel"] = "contrast"
    """Mask of the cells. contrast: where the source deviates from its mean by more than its standard deviation.
    channel: the last channel of the source."""
    noise_channels: int = bounded(1, at_least=0)
    """Channels of Gaussian noise, concatenated to the source. At inference they are 0, unless there is a seed
    (`translate --samples`)."""
    l1_weight: float = bounded(100.0, at_least=0)
    """Weight of the L1 loss."""
    mask_weight: float = bounded(1.0, above=0)
    """Weight of the adversarial term of the discriminator of mask and target, relative to `adversarial_weight`, that
    of the discriminator of image and target."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if a source has no place for its mask."""
        super().check(data, train)
        if self.cell_mask == "channel" and (self.source_channels < 2 or data.context > 1):
            raise InputError(
                "microscopy.cell_mask channel: the last channel of a source is the mask, but source_channels is "
                f"{self.source_channels} and data.context {data.context}; prepare sources of two channels and use "
                "--microscopy.source_channels 2 --data.context 1, or --microscopy.cell_mask contrast"
            )

    @property
    def is_global(self) -> bool:
        """Whether a window differs from its volume: by its norms, or by the contrast that makes the mask."""
        return super().is_global or self.cell_mask == "contrast"
