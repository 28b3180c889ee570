"""Settings of CycleGAN."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import UnpairedDataConfig
from hagan3d.config.method import PatchDiscriminatorConfig


@dataclass(frozen=True)
class CycleGANConfig(PatchDiscriminatorConfig):
    """CycleGAN: a generator and a discriminator for each direction, with cycle consistency."""

    data_config: ClassVar[type[UnpairedDataConfig]] = UnpairedDataConfig

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss (lsgan: as published)."""
    norm: Literal["instance", "rms"] = "instance"
    """Norm of the generators. instance: statistics over the volume, as published. rms: over the channels of a voxel."""
    blocks: int = bounded(9, at_least=1)
    """Number of residual blocks of a generator."""
    cycle_weight: float = bounded(10.0, at_least=0)
    """Weight of the cycle-consistency loss (L1)."""
    identity_weight: float = bounded(5.0, at_least=0)
    """Weight of the identity loss: L1 between a volume of the target domain and its translation to that domain."""
    pool: int = bounded(50, at_least=0)
    """Size of the image pool: generated volumes per domain that discriminators see again, kept in host memory."""
