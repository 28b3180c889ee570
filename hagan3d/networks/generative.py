"""Base class of the networks of methods that generate volumes from latents."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from hagan3d.networks.network_set import NetworkSet


class GenerativeNetworks(NetworkSet):
    """Networks with a generator, and perhaps an encoder, for inference by any method.

    A method with a generator that runs on windows overrides `windows`; one with an encoder, `encode`.
    """

    generators: tuple[str, ...] = ("g",)
    """Networks that `windows` and `latent` need."""
    encoders: tuple[str, ...] = ()
    """Networks that `encode` needs."""
    discriminators: tuple[str, ...] = ()
    """Networks that `discriminate` needs."""
    latent_dim: int
    num_classes: int = 0
    """Classes of a conditional model, else 0."""
    window_step: int = 1
    """Windows have a multiple of so many slices."""

    def latent(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map standard normal numbers ``x [B, latent_dim]`` to latents of the prior, of classes ``label [B]``."""
        return x

    def volume(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Generate whole volumes ``[B, C, D, H, W]`` in [-1, 1] from latents ``z [B, latent_dim]``."""
        return torch.cat(list(self.windows(z, label, self.max_depth())), dim=2)

    def max_depth(self) -> int:
        """Return the slices D of a volume."""
        raise NotImplementedError

    def default_depth(self) -> int:
        """Return the slices per window that inference uses unless told otherwise."""
        return self.max_depth()

    def windows(self, z: Tensor, label: Tensor | None, depth: int) -> Iterator[Tensor]:
        """Generate volumes window by window, lazily: each when the iterator advances.

        Args:
            z: Latents ``[B, latent_dim]``.
            label: Classes ``[B]`` of a conditional model.
            depth: Slices per window, a multiple of ``window_step``; the last window may have fewer.

        Yields:
            ``[B, C, depth, H, W]`` in [-1, 1], in order along D; equal to the same slices of `volume`.
        """
        raise NotImplementedError

    def sample_windows(self, z: Tensor, label: Tensor | None, depth: int) -> Iterator[Tensor]:
        """Generate at least one window of every kind (first, inner, last), to count the peak memory of `windows`."""
        return self.windows(z, label, depth)

    def encode(self, slabs: Iterable[Tensor]) -> Tensor:
        """Encode volumes given as consecutive slabs ``[B, C, depth, H, W]``: latents ``[B, latent_dim]``."""
        raise NotImplementedError

    def encoder_depth(self) -> int:
        """Return the slices per slab that `encode` takes; the last slab may have fewer."""
        return self.max_depth()

    def discriminate(self, volume: Tensor) -> np.ndarray:
        """Return a logit of each discriminator ``[K]``, float64, for one volume ``[1, C, D, H, W]``."""
        raise NotImplementedError

    def prior_covariance(self) -> Tensor:
        """Return the covariance of the latents of one class ``[latent_dim, latent_dim]``."""
        return torch.eye(self.latent_dim)

    def prior_mean_square(self) -> float:
        """Return the mean of the squared entries of latents of the prior."""
        return 1.0
