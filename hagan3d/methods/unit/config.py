"""Settings of UNIT."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import UnpairedDataConfig
from hagan3d.config.method import PatchDiscriminatorConfig


@dataclass(frozen=True)
class UNITConfig(PatchDiscriminatorConfig):
    """UNIT: two variational autoencoders with a shared latent space."""

    data_config: ClassVar[type[UnpairedDataConfig]] = UnpairedDataConfig

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss (bce: as published)."""
    norm: Literal["instance", "rms"] = "instance"
    """Norm of the residual blocks. instance: statistics over the volume, as published. rms: over the channels of a
    voxel."""
    blocks: int = bounded(3, at_least=1)
    """Number of residual blocks of each encoder and decoder, in addition to the shared ones."""
    trunk_width: int | None = bounded(None, at_least=1)
    """Channels of the residual blocks and of the latent. Default: 4 x width, as in the published code; the published
    table has 8 x width, which a 1 x 1 convolution then leads to."""
    attention: Literal["none", "encoder", "generator", "both"] = "none"
    """Where self-attention follows the residual blocks."""
    spectral_norm: Literal["none", "critics", "all"] = "none"
    """Which convolutions have spectral norm: those of the discriminators, or all but those of self-attention."""
    charbonnier: bool = False
    """Whether errors are Charbonnier, sqrt(error^2 + 1e-6), instead of L1."""
    reconstruction_weight: float = bounded(100.0, at_least=0)
    """Weight of the reconstruction loss within a domain."""
    kl_weight: float = bounded(0.1, at_least=0)
    """Weight of the KL term of the latents: their mean square."""
    cycle_weight: float = bounded(100.0, at_least=0)
    """Weight of the cycle-consistency loss."""
    cycle_kl_weight: float = bounded(0.1, at_least=0)
    """Weight of the KL term of the latents of translated volumes."""

    @property
    def is_global(self) -> bool:
        """Whether a voxel depends on all voxels of a window: by norms over space, or by self-attention."""
        return super().is_global or self.attention != "none"
