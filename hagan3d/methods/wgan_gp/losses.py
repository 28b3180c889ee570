"""WGAN-GP: Wasserstein loss with gradient penalty; or, with ``objective: bce``, DCGAN.

Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017. DCGAN: Radford et al., Unsupervised
Representation Learning with Deep Convolutional Generative Adversarial Networks, ICLR 2016; of lesions: Frid-Adar et
al., GAN-based Synthetic Medical Image Augmentation, Neurocomputing 321, 2018.
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
        weights, penalised = ({"gp": self.settings.gp_weight}, ("d",)) if self.is_penalised else ({}, ())
        return [
            Phase("d", ("d",), self.d_loss, self.train.lr_d, weights, penalised=penalised),
            Phase("g", ("g",), self.g_loss, self.train.lr_g, every=self.settings.critic_steps),
        ]

    @property
    def is_penalised(self) -> bool:
        """Whether the critic has a gradient penalty."""
        return self.settings.objective == "wgan-gp"

    def d_loss(self, nets: WGANGPNetworks, batch: Batch) -> Terms:
        """Critic loss: negative Wasserstein estimate plus gradient penalty (eq. 3); of DCGAN, cross-entropy."""
        with torch.no_grad():
            fake = generate(nets, batch)
        terms = {"gan": d_loss(self.settings.objective, nets.d(batch.window), nets.d(fake))}
        if self.is_penalised:
            mix = batch.uniform("mix", 1)
            terms["gp"] = interpolated_penalty(lambda inputs: nets.d(*inputs), [batch.window], [fake], mix)
        return terms

    def g_loss(self, nets: WGANGPNetworks, batch: Batch) -> Terms:
        """Generator loss: minus the mean score of generated volumes; of DCGAN, cross-entropy."""
        return {"gan": g_loss(self.settings.objective, nets.d(generate(nets, batch)))}


def generate(nets: WGANGPNetworks, batch: Batch) -> Tensor:
    """Generate volumes from new latents ``[B, C, D, H, W]``."""
    return nets.g(nets.latent(batch.normal("z", nets.latent_dim)))
