"""All networks of a model, by the paper's names."""

from collections.abc import Sequence

from torch import Tensor

from hagan3d.config import ModelConfig, Size, low_factor
from hagan3d.methods.hagan.discriminator import HighDiscriminator, LowDiscriminator
from hagan3d.methods.hagan.encoder import GroundEncoder, HighEncoder
from hagan3d.methods.hagan.generator import Generator
from hagan3d.networks.layers import centre_filters
from hagan3d.networks.network_set import NetworkSet


class Networks(NetworkSet):
    """G, D^H, D^L, E^H and E^G."""

    averaged = ("g",)

    def __init__(self, size: Size, depth: int, model: ModelConfig, num_classes: int = 0) -> None:
        """Build the networks of volumes of ``size`` voxels and sub-volumes of ``depth`` slices.

        Args:
            size: Voxels per axis D, H, W.
            depth: Slices of a sub-volume, a multiple of the low-resolution factor.
            model: Widths and norms.
            num_classes: Classes of a conditional model, else 0.
        """
        super().__init__()
        factor = low_factor(size)
        low_size = (size[0] // factor, size[1] // factor, size[2] // factor)
        features = model.features or model.channels // 8
        self.g = Generator(
            size,
            depth,
            latent_dim=model.latent_dim,
            num_classes=num_classes,
            channels=model.channels,
            features=features,
            norm=model.norm,
            high_convs=model.high_convs,
            upsample=model.upsample,
            fc_rank=model.fc_rank,
            encoded_prior=model.prior == "encoded",
            output_skip=model.output_skip,
        )
        if model.init == "centred":
            centre_filters(self.g)
        width, spectral = model.d_channels, model.spectral_norm
        self.d_h = HighDiscriminator(size, depth, num_classes=num_classes, channels=width, spectral=spectral)
        self.d_l = LowDiscriminator(
            low_size, num_classes=num_classes, channels=width // 2, spectral=spectral, group=model.minibatch_std
        )
        self.e_h = HighEncoder(factor, features)
        self.e_g = GroundEncoder(low_size, features, model.latent_dim)

    def judge(self, start: Tensor, window: Tensor, low: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Judge sub-volumes at ``start``, and low-resolution volumes where there are any.

        Returns:
            Logits ``[B]`` of D^H and of D^L, and their class logits ``[B, K]`` (a model without classes: none).
        """
        judged = [self.d_h(window, start)] + ([] if low is None else [self.d_l(low)])
        return [logit for logit, _ in judged], [classes for _, classes in judged if classes is not None]

    def observed(self, moved: Sequence[str]) -> list[Tensor]:
        """Return the moments of encoded volumes, where E^G has moved."""
        prior = self.g.prior
        return [prior.new_mean, prior.new_moment] if prior.is_encoded and "e_g" in moved else []

    def follow(self, moved: Sequence[str]) -> None:
        """Let the prior follow the encoded volumes, where E^G has moved."""
        if self.observed(moved):
            self.g.prior.absorb()

    def set_memory(self, recompute_norms: bool, checkpointing: bool) -> None:
        """Choose what the backward pass computes again instead of keeping: norms and ReLUs, and all of G^H and D^H."""
        for network in (self.g.common, self.g.low, self.g.high, self.e_h, self.e_g):
            network.recompute = recompute_norms
        self.g.high.checkpointing = checkpointing
        self.d_h.checkpointing = checkpointing
