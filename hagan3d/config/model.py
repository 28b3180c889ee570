"""Settings of the networks of HA-GAN."""

from dataclasses import dataclass
from typing import Literal

from hagan3d.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """The networks. The defaults are the published ones at 128^3 and 256^3, except for `norm`."""

    latent_dim: int = 1024
    """Numbers in z."""
    channels: int = 512
    """Widest feature map of G^A; the rest of G, E^H and E^G scales with it (512: as published)."""
    d_channels: int = 512
    """Widest feature map of D^H; D^L scales with it (512: as published)."""
    features: int | None = None
    """Channels of A, the map that both heads share. Default: 1/8 of `channels`, as published."""
    norm: Literal["rms", "group"] = "rms"
    """Normalisation in G^H. rms: a sub-volume equals its window of the volume exactly. group: as published."""
    high_convs: int = 0
    """Extra 3^3 convolutions after each upsampling of G^H (0: as published)."""
    output_skip: bool = False
    """Whether G^H adds to the volume of G^L, enlarged by interpolation, instead of making every voxel anew, as
    published: whole shapes are there within a hundred steps."""
    init: Literal["default", "centred"] = "default"
    """Start of G's convolutions. default: PyTorch's, as published. centred: blind to what all z have in common."""
    spectral_norm: bool = True
    """Spectral norm in D^H and D^L, as published; without it, set train.r1_weight."""
    minibatch_std: int = 0
    """Volumes per group whose spread D^L sees, against generated volumes that are all alike (0: none, as published)."""
    prior: Literal["normal", "encoded"] = "normal"
    """Latents that volumes are generated from. normal: standard normal ones, as published. encoded: normal ones of the
    mean and covariance of encoded real volumes, for train.autoencode."""
    conditional: bool = False
    """Whether G is told the class of the volume to make and D names it. The store must have classes."""
    fc_rank: int = 0
    """Rank of G's first layer, which holds two thirds of its weights (0: not factorised, as published)."""
    upsample: Literal["folded", "plain"] = "folded"
    """How nearest-neighbour upsampling and convolution are computed: in one go, or one after the other."""

    def __post_init__(self) -> None:
        for name in ("channels", "d_channels"):
            if getattr(self, name) < 64 or getattr(self, name) % 64:
                raise InputError(f"model.{name}: want a multiple of 64 from 64 up, got {getattr(self, name)}")
        if self.features is not None and (self.features < 8 or self.features % 8):
            raise InputError(f"model.features: want a multiple of 8 from 8 up, got {self.features}")
        for name, least in (("latent_dim", 1), ("fc_rank", 0)):
            if getattr(self, name) < least:
                raise InputError(f"model.{name}: want at least {least}, got {getattr(self, name)}")
        if self.minibatch_std < 0 or self.minibatch_std == 1:
            raise InputError(f"model.minibatch_std: want 0 or a group of at least 2 volumes, got {self.minibatch_std}")
        if not 0 <= self.high_convs <= 4:
            raise InputError(f"model.high_convs: want 0 to 4, got {self.high_convs}")
