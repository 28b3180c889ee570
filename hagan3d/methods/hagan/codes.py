"""Codes of InfoGAN: the first entries of the latent z, a one-hot category and values between -1 and 1."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Codes:
    """How many codes there are; the other entries of z are standard normal noise.

    Source: Chen et al., InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial
    Nets, NeurIPS 2016.
    """

    categories: int = 0
    """Number of values of the categorical code; 0: no categorical code."""
    continuous: int = 0
    """Continuous codes."""

    @property
    def size(self) -> int:
        """Entries of z that are codes, and outputs that predict them."""
        return self.categories + self.continuous

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the categorical ``[B, K]`` and the continuous part ``[B, n]`` of latents, or of outputs."""
        return x[:, : self.categories], x[:, self.categories : self.size]

    def latent(self, x: Tensor) -> Tensor:
        """Map standard normal numbers ``x [B, latent_dim]`` to z with codes.

        The category is the largest of the first K numbers, so that all are equally likely; a continuous code is the
        distribution function of its number, mapped to [-1, 1], so that it is uniform.
        """
        if not self.size:
            return x
        category, continuous = self.split(x)
        parts = [torch.erf(continuous / math.sqrt(2)), x[:, self.size :]]
        if self.categories:
            parts.insert(0, F.one_hot(category.argmax(1), self.categories).to(x.dtype))
        return torch.cat(parts, dim=1)

    def covariance(self, latent_dim: int) -> Tensor:
        """Return the covariance of z ``[latent_dim, latent_dim]``."""
        matrix = torch.eye(latent_dim)
        if self.categories:
            matrix[: self.categories, : self.categories] = (
                torch.eye(self.categories) - 1 / self.categories
            ) / self.categories
        matrix.diagonal()[self.categories : self.size] = 1 / 3
        return matrix

    def mean_square(self, latent_dim: int) -> float:
        """Return the mean of z^2 over samples and dimensions; that of a one-hot code sums to 1."""
        return (bool(self.categories) + self.continuous / 3 + latent_dim - self.size) / latent_dim
