"""The loss terms of the methods that generate volumes, written out; see `written_out`."""

from typing import Any

import torch
from torch import Tensor

from tests.methods.plain_terms import Written, discriminator_term, generator_term, mae, mix, penalty

# HA-GAN: Sun et al. 2022, section III; R1: Mescheder et al. 2018, eq. 9


def hagan_z(nets: Any, batch: Any, s: Any) -> Tensor:
    x, k, n = batch.normal("z", nets.latent_dim), s.categories, s.continuous_codes
    if s.prior == "encoded":
        return nets.g.prior.mean[0] + x @ nets.g.prior.factor.T
    if not k + n:
        return x
    largest = (x[:, :k] == x[:, :k].max(1, keepdim=True).values).to(x.dtype)
    return torch.cat([largest, 2 * torch.special.ndtr(x[:, k : k + n]) - 1, x[:, k + n :]], 1)


def hagan_pair(nets: Any, batch: Any, s: Any) -> tuple[Tensor, Tensor]:
    return nets.g(hagan_z(nets, batch, s), batch.start, None)


def hagan_codes(nets: Any, batch: Any, s: Any, window: Tensor, low: Tensor) -> Written:
    """InfoGAN: Chen et al. 2016, eq. 5, with a Gaussian of standard deviation 1; both discriminators have a head."""
    z, k, n = hagan_z(nets, batch, s), s.categories, s.continuous_codes
    if not k + n:
        return {}
    heads = [nets.d_h(window, batch.start)[1], nets.d_l(low)[1]]
    category = sum(-(x[:, :k].log_softmax(1) * z[:, :k]).sum(1).mean() for x in heads) / 2
    continuous = sum(((x[:, k:] - z[:, k : k + n]) ** 2).sum(1).mean() / 2 for x in heads) / 2
    return {"info_category": s.info_weight * category, "info_continuous": s.info_weight * continuous}


def hagan_logits(nets: Any, batch: Any, s: Any, window: Tensor, low: Tensor) -> Tensor:
    high, whole = nets.d_h(window, batch.start)[0], nets.d_l(low)[0]
    return (high + whole) / 2 if s.logits == "mean" else torch.stack([high, whole])


def squared_gradient(nets: Any, batch: Any, s: Any, *pair: Tensor) -> Tensor:
    """Half of |gradient|^2 of the mean logit, or of each view's own."""
    inputs = [x.detach().requires_grad_() for x in pair]
    gradients = torch.autograd.grad(hagan_logits(nets, batch, s, *inputs).sum(), inputs, create_graph=True)
    return sum((g**2).sum((1, 2, 3, 4)) for g in gradients).mean() / 2


def hagan_d(nets: Any, batch: Any, s: Any) -> Written:
    real, fake = (batch.window, batch.low), [x.detach() for x in hagan_pair(nets, batch, s)]
    logits = [hagan_logits(nets, batch, s, *pair) for pair in (real, fake)]
    return {
        "gan": discriminator_term(s.objective, *logits),
        "r1": s.r1_weight * s.r1_every * squared_gradient(nets, batch, s, *real),
        "r2": s.r2_weight * s.r2_every * squared_gradient(nets, batch, s, *fake),
    } | hagan_codes(nets, batch, s, *fake)


def sorted_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Distance of sorted intensities, of whole windows and of blocks of 8^3 voxels."""

    def distance(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        return sum(mae(a.flatten().sort().values, b.flatten().sort().values) for a, b in parts) / len(parts)

    whole = [(a, b) for a, b in zip(fake, real, strict=True)]
    blocks = [
        tuple(x[:, d : d + 8, h : h + 8, w : w + 8] for x in both)
        for both in whole
        for d in range(0, fake.shape[2], 8)
        for h in range(0, fake.shape[3], 8)
        for w in range(0, fake.shape[4], 8)
    ]
    return distance(whole) + distance(blocks)


def hagan_reconstruction(nets: Any, batch: Any, z: Tensor) -> Written:
    window, low = nets.g(z, batch.start, None)
    return {"l1_high": mae(window, batch.window) / 2, "l1_low": mae(low, batch.low) / 2}


def hagan_latent(nets: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        a = torch.cat([nets.e_h(slab) for slab in batch.slabs()], 2)
    return nets.e_g(a)


def hagan_g(nets: Any, batch: Any, s: Any) -> Written:
    real = hagan_logits(nets, batch, s, batch.window, batch.low).detach()
    pair = hagan_pair(nets, batch, s)
    adversarial = generator_term(s.objective, hagan_logits(nets, batch, s, *pair), real)
    if not s.autoencode:
        return {"gan": adversarial} | hagan_codes(nets, batch, s, *pair)
    z = hagan_latent(nets, batch)
    cosines = (z[0::2] * z[1::2]).sum(1) / (z[0::2].norm(dim=1) * z[1::2].norm(dim=1))
    prior = (cosines**2).mean() + (((z**2).mean(1) - 1) ** 2).mean()
    sorted_l1 = sorted_distance(nets.g(z, batch.start, None)[0], batch.window)
    terms = hagan_reconstruction(nets, batch, z) | {"sorted_l1": sorted_l1, "prior": prior}
    return {"gan": adversarial} | {name: s.autoencode * value for name, value in terms.items()}


def hagan_e_h(nets: Any, batch: Any, s: Any) -> Written:
    return {"l1": mae(nets.g.voxels(nets.e_h(batch.window)), batch.window)}


def hagan_e_g(nets: Any, batch: Any, s: Any) -> Written:
    return hagan_reconstruction(nets, batch, hagan_latent(nets, batch))


# WGAN-GP: Gulrajani et al. 2017, eq. 3; DCGAN: Radford et al. 2016


def wgan_gp_fake(nets: Any, batch: Any, s: Any) -> Tensor:
    """Volumes of normal latents, or of uniform ones by the distribution function of the normal."""
    x = batch.normal("z", nets.latent_dim)
    return nets.g(2 * torch.special.ndtr(x) - 1 if s.latent == "uniform" else x)


def wgan_gp_d(nets: Any, batch: Any, s: Any) -> Written:
    fake = wgan_gp_fake(nets, batch, s).detach()
    if s.objective == "bce":
        return {"gan": discriminator_term("bce", nets.d(batch.window), nets.d(fake))}
    gp = penalty(lambda x: nets.d(x[0]), [batch.window], [fake], mix(batch))
    return {"gan": nets.d(fake).mean() - nets.d(batch.window).mean(), "gp": s.gp_weight * gp}


def wgan_gp_g(nets: Any, batch: Any, s: Any) -> Written:
    return {"gan": generator_term(s.objective, nets.d(wgan_gp_fake(nets, batch, s)))}
