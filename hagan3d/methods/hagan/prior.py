"""The prior: the latents that volumes are generated from."""

import torch
from torch import Tensor, nn

RATE = 0.02  # share of an update of E^G in the moments: they are those of the last 50 or so
LEAST_VARIANCE = 1e-4  # along any direction, so that the moments always have a factor


class Prior(nn.Module):
    """Normal latents: standard ones, as published, or of the mean and covariance of encoded real volumes.

    Encoders trained beside a GAN spread what they know over a few directions, along which encoded volumes lie several
    times further apart than standard normal latents do. A G that has learned to make real volumes again from such
    latents then makes little more than one volume from standard ones. Here latents are drawn where real volumes are
    encoded: ``mean + factor x``, x standard normal; with classes each has a mean of its own.

    Source: Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020, section 4 (a density fitted to
    encoded latents); here it is fitted while G learns, so that D judges what it gives.
    """

    mean: Tensor
    factor: Tensor
    new_mean: Tensor
    new_moment: Tensor

    def __init__(self, latent_dim: int, num_classes: int, encoded: bool) -> None:
        """Start from standard normal latents of ``latent_dim`` numbers; ``encoded``: they will follow the encoded."""
        super().__init__()
        self.latent_dim, self.is_encoded = latent_dim, encoded
        if encoded:
            self.register_buffer("mean", torch.zeros(max(1, num_classes), latent_dim))
            self.register_buffer("factor", torch.eye(latent_dim))
            self.register_buffer("new_mean", torch.zeros_like(self.mean), persistent=False)
            self.register_buffer("new_moment", torch.zeros_like(self.factor), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map standard normal numbers ``x [B, n]`` to latents ``[B, n]`` of classes ``label [B]``."""
        if not self.is_encoded:
            return x
        return self._mean_of(len(x), label) + (x.to(self.factor) @ self.factor.T).to(x.dtype)

    def _mean_of(self, count: int, label: Tensor | None) -> Tensor:
        return self.mean.expand(count, -1) if label is None else self.mean[label]

    @property
    def covariance(self) -> Tensor:
        """Of latents of one class ``[n, n]``."""
        return self.factor @ self.factor.T if self.is_encoded else torch.eye(self.latent_dim)

    @property
    def mean_square(self) -> float:
        """Mean over latents, and over their numbers, of the square."""
        return float(self.covariance.diagonal().mean() + (self.mean.square().mean() if self.is_encoded else 0))

    @torch.no_grad()
    def observe(self, z: Tensor, label: Tensor | None, share: float) -> None:
        """Take note of encoded real volumes ``z [B, n]``, a ``share`` of those of the update.

        What is noted of parts of a batch adds up, and what processes note can be averaged; `absorb` ends it.
        """
        rest = z.double() - self._mean_of(len(z), label)
        rest = torch.where(rest.isfinite(), rest, 0)  # a step that fp16 could not hold is not taken either
        self.new_moment += (rest.T @ rest / len(z) * share).to(self.new_moment)
        rows = torch.zeros(len(z), dtype=torch.int64, device=z.device) if label is None else label
        self.new_mean.index_add_(0, rows, (rest / len(z) * share).to(self.new_mean))

    @torch.no_grad()
    def absorb(self) -> None:
        """Move the moments towards those of what was observed."""
        factor = self.factor.double()
        covariance = (1 - RATE) * (factor @ factor.T) + RATE * self.new_moment
        covariance.diagonal().add_(RATE * LEAST_VARIANCE)
        self.factor.copy_(torch.linalg.cholesky(covariance))
        self.mean += min(0.5, RATE * len(self.mean)) * self.new_mean  # each class is a part of what was observed
        self.new_mean.zero_()
        self.new_moment.zero_()
