"""WGAN-GP: Wasserstein loss with gradient penalty.

Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017.
"""

import torch
from torch import Tensor

from hagan3d.data.batches.subvolumes import Batch
from hagan3d.losses.gan import d_loss, g_loss, interpolated_penalty
from hagan3d.methods.generation import GenerationMethod
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.wgan_gp.config import WGANGPConfig
from hagan3d.methods.wgan_gp.networks import WGANGPNetworks


class WGANGP(GenerationMethod):
    """WGAN-GP: the critic in every step, the generator in some."""

    settings: WGANGPConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        return [
            Phase("d", ("d",), self.d_loss, self.train.lr_d, {"gp": self.settings.gp_weight}, penalised=("d",)),
            Phase("g", ("g",), self.g_loss, self.train.lr_g, every=self.settings.critic_steps),
        ]

    def d_loss(self, nets: WGANGPNetworks, batch: Batch) -> Terms:
        """Critic loss: negative Wasserstein estimate plus gradient penalty (eq. 3)."""
        with torch.no_grad():
            fake = generate(nets, batch)
        penalty = interpolated_penalty(lambda inputs: nets.d(*inputs), [batch.window], [fake], batch.uniform("mix", 1))
        return {
            "gan": d_loss("wgan-gp", nets.d(batch.window), nets.d(fake)),
            "gp": penalty,
        }

    def g_loss(self, nets: WGANGPNetworks, batch: Batch) -> Terms:
        """Generator loss: minus the mean score of generated volumes."""
        return {"gan": g_loss("wgan-gp", nets.d(generate(nets, batch)))}


def generate(nets: WGANGPNetworks, batch: Batch) -> Tensor:
    """Generate volumes from new latents ``[B, C, D, H, W]``."""
    return nets.g(batch.normal("z", nets.latent_dim))
