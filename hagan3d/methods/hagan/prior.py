"""The prior p(z): standard normal, or a Gaussian fitted online to the latents of encoded real volumes."""

import torch
from torch import Tensor, nn

from hagan3d.methods.hagan.codes import Codes

RATE = 0.02  # 1 - decay of the moving averages: they span about 50 updates of E^G
MIN_VARIANCE = 1e-4  # added to the covariance, so that it always has a Cholesky factor


class Prior(nn.Module):
    """Gaussian prior: N(0, I), as published, perhaps with codes, or N(mean, factor factor^T) fitted to encoded volumes.

    Encoders trained with a GAN use a few directions of the latent space, along which the latents of real volumes are
    several times further apart than samples of N(0, I). A G trained to reconstruct real volumes from such latents then
    generates little more than one volume from N(0, I). With a fitted prior, latents are sampled where real volumes
    are encoded: z = mean + factor x, x ~ N(0, I); a conditional model has one mean per class.

    Source: Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020, section 4 (ex-post density
    estimation); here the density is fitted during training, so that D also sees its samples.
    """

    mean: Tensor
    factor: Tensor
    new_mean: Tensor
    new_moment: Tensor

    def __init__(self, latent_dim: int, num_classes: int, encoded: bool, codes: Codes | None = None) -> None:
        """Start from N(0, I) of ``latent_dim`` dimensions; ``encoded``: fit the moments to the encoder's latents.

        ``codes`` take the place of the first entries of z, if the prior is not fitted.
        """
        super().__init__()
        self.latent_dim, self.is_encoded, self.codes = latent_dim, encoded, codes or Codes()
        self.has_observed = False
        if encoded:
            self.register_buffer("mean", torch.zeros(max(1, num_classes), latent_dim))
            self.register_buffer("factor", torch.eye(latent_dim))
            self.register_buffer("new_mean", torch.zeros_like(self.mean), persistent=False)
            self.register_buffer("new_moment", torch.zeros_like(self.factor), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Map samples ``x [B, n]`` of N(0, I) to latents z ``[B, n]`` of classes ``label [B]``."""
        if not self.is_encoded:
            return self.codes.latent(x)
        return self._mean_of(len(x), label) + (x.to(self.factor) @ self.factor.T).to(x.dtype)

    def _mean_of(self, count: int, label: Tensor | None) -> Tensor:
        return self.mean.expand(count, -1) if label is None else self.mean[label]

    @property
    def covariance(self) -> Tensor:
        """Covariance of the latents of one class ``[n, n]``."""
        return self.factor @ self.factor.T if self.is_encoded else self.codes.covariance(self.latent_dim)

    @property
    def mean_square(self) -> float:
        """Mean of z^2 over samples and dimensions."""
        if not self.is_encoded:
            return self.codes.mean_square(self.latent_dim)
        return float(self.covariance.diagonal().mean() + self.mean.square().mean())

    @torch.no_grad()
    def observe(self, z: Tensor, label: Tensor | None, share: float) -> None:
        """Accumulate the moments of encoded real volumes ``z [B, n]``, a micro-batch that is ``share`` of the update.

        Micro-batches add up, and the sums can be averaged across ranks; `absorb` then updates the prior.
        """
        self.has_observed = True
        rest = z.double() - self._mean_of(len(z), label)
        rest = torch.where(rest.isfinite(), rest, 0)  # the gradient scaler skips a step that overflows in fp16, too
        self.new_moment += (rest.T @ rest / len(z) * share).to(self.new_moment)
        rows = torch.zeros(len(z), dtype=torch.int64, device=z.device) if label is None else label
        self.new_mean.index_add_(0, rows, (rest / len(z) * share).to(self.new_mean))

    @torch.no_grad()
    def absorb(self) -> None:
        """Update the moving averages with the accumulated moments and reset those."""
        factor = self.factor.double()
        covariance = (1 - RATE) * (factor @ factor.T) + RATE * self.new_moment
        covariance.diagonal().add_(RATE * MIN_VARIANCE)
        # cholesky would wait for the GPU to check for an error, which the added minimum of the variance rules out.
        self.factor.copy_(torch.linalg.cholesky_ex(covariance).L)
        self.mean += min(0.5, RATE * len(self.mean)) * self.new_mean  # a class is 1/K of a batch, so its rate is K-fold
        self.new_mean.zero_()
        self.new_moment.zero_()
        self.has_observed = False
