"""Networks of HA-GAN: G, D^H, D^L, E^H and E^G, by the paper's names."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config, Size, low_factor
from hagan3d.methods.hagan.codes import Codes
from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.hagan.discriminator import HighDiscriminator, LowDiscriminator
from hagan3d.methods.hagan.encoder import GroundEncoder, HighEncoder, encode
from hagan3d.methods.hagan.generator import Generator
from hagan3d.methods.hagan.volume_windows import volume_windows
from hagan3d.networks.generative import GenerativeNetworks
from hagan3d.networks.layers import centre_filters

LARGEST_WINDOW = 64  # slices at inference unless told otherwise: thicker windows take memory and are not faster


class HAGANNetworks(GenerativeNetworks):
    """G, D^H, D^L, E^H and E^G."""

    averaged = ("g",)
    encoders = ("e_h", "e_g")

    def __init__(
        self,
        size: Size,
        depth: int,
        settings: HAGANConfig,
        num_classes: int = 0,
        std_group: int = 0,
        images: int = 1,
        labels: int = 0,
    ) -> None:
        """Build the networks for volumes of ``size`` voxels and sub-volumes of ``depth`` slices.

        Args:
            size: Voxels per axis D, H, W.
            depth: Slices of a sub-volume, a multiple of the low-resolution factor.
            settings: Widths and norms.
            num_classes: Classes of a conditional model, else 0.
            std_group: Group size of the minibatch standard deviation layer of D^L; 0: no such layer.
            images: Image channels of a volume.
            labels: Labels of its label map; 0: it has none.
        """
        super().__init__()
        self.size, self.depth, self.num_classes = size, depth, num_classes
        self.latent_dim, self.window_step = settings.latent_dim, low_factor(size)
        self.codes = Codes(settings.categories, settings.continuous_codes)
        factor = self.window_step
        low_size = (size[0] // factor, size[1] // factor, size[2] // factor)
        features = settings.features or settings.channels // 8
        self.g = self._generator(settings, features, images, labels)
        outputs, width = num_classes + self.codes.size, settings.d_channels
        common = {"outputs": outputs, "volume_channels": images + labels}
        spectral = settings.spectral_norm
        low = {"group": std_group, "full_convs": settings.d_low_convs}
        self.d_h = HighDiscriminator(size, depth, channels=width, spectral=spectral, **common)
        self.d_l = LowDiscriminator(low_size, channels=width // 2, spectral=spectral, **low, **common)
        self.discriminators = ("d_h", "d_l") if settings.low_resolution_branch else ("d_h",)  # those that learn
        self.e_h = HighEncoder(factor, features, images + labels, settings.encoder_norm)
        self.e_g = GroundEncoder(low_size, features, settings.latent_dim, settings.encoder_norm)

    def _generator(self, settings: HAGANConfig, features: int, images: int, labels: int) -> Generator:
        """Build G with ``features`` channels of A, initialised as the settings say."""
        generator = Generator(
            self.size,
            self.depth,
            latent_dim=settings.latent_dim,
            num_classes=self.num_classes,
            channels=settings.channels,
            images=images,
            labels=labels,
            features=features,
            norm=settings.norm,
            high_convs=settings.high_convs,
            upsample=settings.upsample,
            fc_rank=settings.fc_rank,
            encoded_prior=settings.prior == "encoded",
            codes=self.codes,
            output_skip=settings.output_skip,
        )
        if settings.init == "centred":
            centre_filters(generator)
        return generator

    @classmethod
    def from_config(cls, config: Config, num_classes: int = 0) -> Self:
        """Build the networks for a run."""
        data, settings = config.data, config.method
        group = settings.std_group(config.train.batch_size)
        return cls(data.size, data.depth, settings, num_classes, group, data.channels, data.labels)

    def logits(self, start: Tensor, window: Tensor, low: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Discriminate sub-volumes at ``start``, and low-resolution volumes if given.

        Returns:
            Logits ``[B]`` of D^H and of D^L, and their outputs ``[B, K]`` for classes, then codes (empty without).
        """
        found = [self.d_h(window, start)] + ([] if low is None else [self.d_l(low)])
        return [logit for logit, _ in found], [outputs for _, outputs in found if outputs is not None]

    def collected_statistics(self, updated: Sequence[str]) -> list[Tensor]:
        """Return the moments of latents encoded since the last update of the prior, after an update of E^G."""
        prior = self.g.prior
        return [prior.new_mean, prior.new_moment] if "e_g" in updated and prior.has_observed else []

    def after_update(self, updated: Sequence[str]) -> None:
        """Update the prior from the moments of encoded latents, after an update of E^G."""
        if self.collected_statistics(updated):
            self.g.prior.absorb()

    def set_memory(self, recompute_norms: bool, checkpointing: bool) -> None:
        """Choose what the backward pass recomputes: norms and ReLUs, and all of G^H and D^H."""
        for network in (self.g.common, self.g.low, self.g.high, self.e_h, self.e_g):
            network.recompute = recompute_norms
        self.g.high.checkpointing = checkpointing
        self.d_h.checkpointing = checkpointing

    def latent(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map standard normal samples ``x [B, latent_dim]`` to latents of the prior, of classes ``label [B]``."""
        return self.g.prior(x, label)

    def prior_covariance(self) -> Tensor:
        """Return the covariance of the latents of one class ``[latent_dim, latent_dim]``."""
        return self.g.prior.covariance

    def prior_mean_square(self) -> float:
        """Return the mean of the squared entries of latents of the prior."""
        return self.g.prior.mean_square

    def volume(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate whole volumes ``[B, C, D, H, W]`` in [-1, 1], in one pass."""
        return self.g.volume(z, label)

    def max_depth(self) -> int:
        """Return the slices D of a volume."""
        return self.size[0]

    def default_depth(self) -> int:
        """Return the slices per window at inference: those of a sub-volume in training, at most 64."""
        return min(self.depth, max(LARGEST_WINDOW, self.window_step))

    def windows(self, z: Tensor, label: Tensor | None, depth: int) -> Iterator[Tensor]:
        """Generate volumes window by window: A once, then G^H on the slices of each window and its halo."""
        a = self.g.common(z, label)
        return volume_windows(self.g.high, a, depth // self.window_step, self.g.skip(a))

    def sample_windows(self, z: Tensor, label: Tensor | None, depth: int) -> Iterator[Tensor]:
        """Generate a first, an inner and a last window, whose peak memory is that of all windows."""
        a, slices = self.g.common(z, label), depth // self.window_step
        skip = self.g.skip(a)
        needed = 3 * slices + 2 * self.g.high.halos[0]  # slices of A
        return volume_windows(self.g.high, a[:, :, :needed], slices, None if skip is None else skip[:, :, :needed])

    def encode(self, slabs: Iterable[Tensor]) -> Tensor:
        """Encode volumes given as consecutive slabs ``[B, C, depth, H, W]``: latents ``[B, latent_dim]``."""
        return encode(self.e_h, self.e_g, slabs)

    def encoder_depth(self) -> int:
        """Return the slices per slab that `encode` takes: those of a sub-volume in training."""
        return self.depth

    @torch.no_grad()
    def discriminate(self, volume: Tensor) -> np.ndarray:
        """Return the mean logit of D^H over sub-volumes that cover one volume, and the logit of D^L if it learns."""
        last = volume.shape[2] - self.depth
        starts = [*range(0, last, self.depth), last]
        windows = ((volume[:, :, s : s + self.depth], torch.tensor([s], device=volume.device)) for s in starts)
        high = [self.d_h(window, start)[0].item() for window, start in windows]
        if "d_l" not in self.discriminators:
            return np.array([np.mean(high)])
        low = self.d_l(F.avg_pool3d(volume, self.window_step))[0].item()
        return np.array([np.mean(high), low])
