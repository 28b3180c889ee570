"""Settings of adversarial registration."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.method import PatchDiscriminatorConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class RegistrationConfig(PatchDiscriminatorConfig):
    """Adversarial registration of a moving to a fixed image, the two channels of the source."""

    degradations: ClassVar[tuple[str, ...]] = ("misalign",)
    takes_slices: ClassVar[bool] = False

    objective: Literal["bce", "minimax", "hinge", "lsgan", "wgan-gp"] = "bce"
    """Adversarial loss."""
    gp_weight: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty of wgan-gp."""
    transform: Literal["rigid", "affine"] = "rigid"
    """rigid: 6 parameters, rotations and translations. affine: 12, with scalings and shears."""
    spacing: tuple[float, float, float] = bounded((1.0, 1.0, 1.0), above=0)
    """Millimetres per voxel along D, H, W. It must be that of all volumes of the store."""
    parameter_weight: float = bounded(1.0, at_least=0)
    """Weight of the mean squared error of the transform parameters, each in units of its simulated range
    (`data.degrade.misalign_deg`, `misalign_mm`, `misalign_percent`)."""

    def check(self, data: Any, train: TrainConfig) -> None:
        """Raise InputError if the source is not a moving and a fixed image."""
        super().check(data, train)
        if (self.source_channels, self.target_channels) != (2, 1):
            raise InputError(
                "registration.source_channels, registration.target_channels: must be 2, the moving and the fixed "
                "image, and 1"
            )
        if self.masked_losses:
            raise InputError("registration.masked_losses: its losses compare parameters, not voxels; leave it out")
