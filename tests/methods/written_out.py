"""One step's loss terms of every method and phase, written out with plain tensors from the networks' outputs.

A new method needs an entry in `TERMS` for each of its phases: ``(nets, batch, settings) -> {term: weight x value}``.
Nothing of `hagan3d.losses`, of `hagan3d.ops` or of the methods' own losses is used.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.methods.plain_terms import (
    Written,
    content,
    discriminator_term,
    features,
    generator_term,
    mae,
    mix,
    pair,
    penalty,
    style,
)
from tests.methods.written_out_generation import (
    hagan_d,
    hagan_e_g,
    hagan_e_h,
    hagan_g,
    wgan_gp_d,
    wgan_gp_g,
)

# pix2pix: Isola et al. 2017, eq. 4


def pix2pix_fake(nets: Any, batch: Any) -> Tensor:
    return nets.generate(batch.source, [int(u * 2**31) for u in batch.uniform("dropout", 1)[:, 0]])


def pix2pix_g(nets: Any, batch: Any, s: Any) -> Written:
    fake = pix2pix_fake(nets, batch)
    adversarial = generator_term(s.objective, nets.d(pair(batch.source, fake)))
    images = slice(0, s.target_channels)
    terms = {"l1": s.l1_weight * mae(fake[:, images], batch.target[:, images])}
    return terms | label_terms(fake, batch, s) | {"gan": s.adversarial_weight * adversarial}


def label_terms(fake: Tensor, batch: Any, s: Any) -> Written:
    """Dice of foreground labels plus cross-entropy, of label channels 2 p - 1."""
    if not s.target_labels:
        return {}
    p, t = ((x[:, s.target_channels :] + 1) / 2 for x in (fake, batch.target))
    both, sums = (p * t)[:, 1:].sum((2, 3, 4)), (p + t)[:, 1:].sum((2, 3, 4))
    dice = 1 - ((2 * both + 1e-5) / (sums + 1e-5)).mean()
    return {"labels": s.label_weight * (dice - (t * torch.log(p)).sum(1).mean())}


def pix2pix_d(nets: Any, batch: Any, s: Any) -> Written:
    fake = pix2pix_fake(nets, batch).detach()
    real_logits, fake_logits = (nets.d(pair(batch.source, x)) for x in (batch.target, fake))
    return {"gan": discriminator_term(s.objective, real_logits, fake_logits)}


# microscopy: Han and Yin 2017, with the L1 term of pix2pix


def microscopy_parts(nets: Any, batch: Any, s: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Image, mask, and the translation with noise."""
    seeds = [int(u * 2**31) for u in batch.uniform("noise", 1)[:, 0]]
    shape = (s.noise_channels, *batch.source.shape[2:])
    noise = [torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32)) for seed in seeds]
    image, mask = batch.source[:, :1], batch.source[:, 1:]
    if s.cell_mask == "contrast":
        mean = image.mean((1, 2, 3, 4), keepdim=True)
        variance = ((image - mean) ** 2).mean((1, 2, 3, 4), keepdim=True)
        mask = 2 * ((image - mean) ** 2 > variance).double() - 1
    return image, mask, nets.g(torch.cat([image, mask, torch.stack(noise).double()], 1))


def microscopy_g(nets: Any, batch: Any, s: Any) -> Written:
    image, mask, fake = microscopy_parts(nets, batch, s)
    adversarial = [
        generator_term(s.objective, d(pair(x, fake))) for d, x in ((nets.d_image, image), (nets.d_mask, mask))
    ]
    return {
        "l1": s.l1_weight * mae(fake, batch.target),
        "gan_image": s.adversarial_weight * adversarial[0],
        "gan_mask": s.adversarial_weight * s.mask_weight * adversarial[1],
    }


def microscopy_d(nets: Any, batch: Any, s: Any) -> Written:
    image, mask, fake = microscopy_parts(nets, batch, s)
    logits = {
        name: [d(pair(x, y)) for y in (batch.target, fake.detach())]
        for name, d, x in (("gan_image", nets.d_image, image), ("gan_mask", nets.d_mask, mask))
    }
    return {name: discriminator_term(s.objective, *both) for name, both in logits.items()}


# MedGAN: Armanious et al. 2020, eq. 3, 5, 6


def medgan_fake(nets: Any, batch: Any, s: Any) -> tuple[Tensor, Tensor]:
    """What networks see of the source, the mean of two channels if grey, and its translation through all U-Nets."""
    seen = (batch.source[:, :1] + batch.source[:, 1:]) / 2 if s.grey_source else batch.source
    fake = seen
    for block in nets.g:
        fake = block(fake)
    return seen, fake


def medgan_g(nets: Any, batch: Any, s: Any) -> Written:
    """With a grey source: Cho et al. 2017, whose feature-preserving loss is the content loss."""
    seen, fake = medgan_fake(nets, batch, s)
    (d_fake, d_real), (f_fake, f_real) = (
        [features(net, pair(seen, x), norms=True) for x in (fake, batch.target)] for net in (nets.d, nets.f)
    )
    images = slice(0, s.target_channels)
    perceptual = mae(fake[:, images], batch.target[:, images])
    if s.critic_features:
        perceptual = perceptual + sum(mae(a, b.detach()) for a, b in zip(d_fake, d_real, strict=True))
    return (
        label_terms(fake, batch, s)
        | {
            "gan": s.adversarial_weight * generator_term(s.objective, nets.d(pair(seen, fake))),
            "perceptual": s.perceptual_weight * perceptual,
            "content": content(f_fake, f_real),
        }
        | ({"style": style(f_fake, f_real)} if s.style_share else {})
    )


def medgan_d(nets: Any, batch: Any, s: Any) -> Written:
    seen, fake = medgan_fake(nets, batch, s)
    real_logits, fake_logits = (nets.d(pair(seen, x)) for x in (batch.target, fake.detach()))
    return {"gan": discriminator_term(s.objective, real_logits, fake_logits)}


# restoration: Yang et al. 2018 (DAGAN), eq. 9 and 10; Gulrajani et al. 2017


def gradient_difference(fake: Tensor, real: Tensor) -> Tensor:
    """Nie et al. 2017, eq. 4."""
    total = 0
    for low, high in (
        ((slice(None), slice(None), slice(None, -1)), (slice(None), slice(None), slice(1, None))),
        ((..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))),
        ((..., slice(None, -1)), (..., slice(1, None))),
    ):
        total = total + (((real[high] - real[low]).abs() - (fake[high] - fake[low]).abs()) ** 2).mean()
    return total


def restore_g(nets: Any, batch: Any, s: Any) -> Written:
    fake, real = nets.generate(batch.source), batch.target
    spectra = [torch.fft.fftn(x, dim=(2, 3, 4), norm="ortho").abs() for x in (fake, real)]
    ratios = [((a - b) ** 2).sum() ** 0.5 / (b**2).sum() ** 0.5 for a, b in zip(fake, real, strict=True)]
    steps = [x[:, :, 1:] - x[:, :, :-1] for x in (fake, real)]
    return {
        "gan": s.adversarial_weight * generator_term(s.objective, nets.d(fake)),
        "l1": s.l1_weight * mae(fake, real),
        "l2": s.l2_weight * ((fake - real) ** 2).mean(),
        "nmse": s.nmse_weight * sum(ratios) / len(ratios),
        "gradient": s.gradient_weight * gradient_difference(fake, real),
        "frequency": s.frequency_weight * ((spectra[0] - spectra[1]) ** 2).mean(),
        "slice_tv": s.slice_tv_weight * mae(*steps),
        "perceptual": content(*(features(nets.f, x, norms=False) for x in (fake, real))),
    }


def restore_d(nets: Any, batch: Any, s: Any) -> Written:
    fake = nets.generate(batch.source).detach()
    gp = penalty(lambda x: nets.d(x[0]), [batch.target], [fake], mix(batch))
    return {
        "gan": discriminator_term(s.objective, nets.d(batch.target), nets.d(fake)),
        "gp": s.gp_weight * gp,
    }


# UP-GAN: Upadhyay et al. 2021, eq. 4, with the likelihood of the generalized Gaussian density


def nll(error: Tensor, a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """ln(2 a Gamma(1 / b) / b) + (|e| / a)^b, averaged over the mask of each volume."""
    values = (2 * a / b).log() + torch.lgamma(1 / b) + ((error**2 + 1e-6) ** 0.5 / a) ** b
    return sum((v * m).sum() / m.sum() for v, m in zip(values, mask, strict=True)) / len(error)


def upgan_prediction(nets: Any, stage: int, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = source
    for number in range(1, stage + 1):
        mean, log_a, log_b = getattr(nets, f"g_{number}")(x, source)
        log_sigma = log_a + (torch.lgamma(3 * torch.exp(-log_b)) - torch.lgamma(torch.exp(-log_b))) / 2
        sigma = log_sigma.exp()
        guide = mean * sigma / sigma.mean((1, 2, 3, 4), keepdim=True)
        x = torch.cat([guide.clamp(-10, 10), log_sigma, source], 1)
    return mean, log_a.exp(), log_b.exp()


def upgan_terms(nets: Any, batch: Any, s: Any, stage: int, part: int) -> Written:
    mean, a, b = upgan_prediction(nets, stage, batch.source)
    return {
        "l1": s.l1_weights[part] * mae(mean, batch.target),
        "gan": s.adversarial_weight * generator_term(s.objective, getattr(nets, f"d_{stage}")(mean)),
        "nll": s.nll_weights[part] * nll(mean - batch.target, a, b, batch.mask),
    }


def upgan_joint(nets: Any, batch: Any, s: Any) -> Written:
    return {
        f"{term}_{stage}": value for stage in (1, 2) for term, value in upgan_terms(nets, batch, s, stage, 2).items()
    }


def upgan_d(nets: Any, batch: Any, s: Any, stages: tuple[int, ...]) -> Written:
    terms = {}
    for stage in stages:
        fake, d = upgan_prediction(nets, stage, batch.source)[0].detach(), getattr(nets, f"d_{stage}")
        terms[f"gan_{stage}"] = discriminator_term(s.objective, d(batch.target), d(fake))
    return terms


# CycleGAN: Zhu et al. 2017, eq. 1 to 3 and section 5.2


def cyclegan_g(nets: Any, batch: Any, s: Any) -> Written:
    to_target, to_source = nets.g_target(batch.source), nets.g_source(batch.target)
    return {
        "gan_target": s.adversarial_weight * generator_term(s.objective, nets.d_target(to_target)),
        "gan_source": s.adversarial_weight * generator_term(s.objective, nets.d_source(to_source)),
        "cycle_source": s.cycle_weight * mae(nets.g_source(to_target), batch.source),
        "cycle_target": s.cycle_weight * mae(nets.g_target(to_source), batch.target),
        "identity_target": s.identity_weight * mae(nets.g_target(batch.target), batch.target),
        "identity_source": s.identity_weight * mae(nets.g_source(batch.source), batch.source),
    }


def cyclegan_d(nets: Any, batch: Any, s: Any) -> Written:
    """In the first step the image pool is empty, and returns what it gets."""
    to_target, to_source = nets.g_target(batch.source).detach(), nets.g_source(batch.target).detach()
    return {
        "gan_target": discriminator_term(s.objective, nets.d_target(batch.target), nets.d_target(to_target)),
        "gan_source": discriminator_term(s.objective, nets.d_source(batch.source), nets.d_source(to_source)),
    }


# UNIT: Liu et al. 2017, eq. 3 to 5


def unit_fakes(nets: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Mean, sample and translation of both domains."""
    made = {}
    for origin, aim in (("source", "target"), ("target", "source")):
        mean = nets.encode(origin, getattr(batch, origin))
        z = mean + batch.normal(origin, mean[0].numel()).view_as(mean)
        made[origin] = mean, z, nets.decode(aim, z)
    return made


def unit_g(nets: Any, batch: Any, s: Any) -> Written:
    terms = {}
    for origin, aim in (("source", "target"), ("target", "source")):
        real, (mean, z, fake) = getattr(batch, origin), unit_fakes(nets, batch)[origin]
        mean_of_fake = nets.encode(aim, fake)
        back = mean_of_fake + batch.normal(f"back to {origin}", mean[0].numel()).view_as(mean)
        errors = [
            (((nets.decode(origin, latent) - real) ** 2 + 1e-6) ** 0.5).mean() for latent in (z, back)
        ]  # Charbonnier
        terms |= {
            f"l1_{origin}": s.reconstruction_weight * errors[0],
            f"kl_{origin}": s.kl_weight * (mean**2).mean(),
            f"gan_{aim}": s.adversarial_weight * generator_term(s.objective, getattr(nets, f"d_{aim}")(fake)),
            f"cycle_{origin}": s.cycle_weight * errors[1],
            f"cycle_kl_{origin}": s.cycle_kl_weight * (mean_of_fake**2).mean(),
        }
    return terms


def unit_d(nets: Any, batch: Any, s: Any) -> Written:
    terms = {}
    for origin, aim in (("source", "target"), ("target", "source")):
        d, fake = getattr(nets, f"d_{aim}"), unit_fakes(nets, batch)[origin][2].detach()
        terms[f"gan_{aim}"] = discriminator_term(s.objective, d(getattr(batch, aim)), d(fake))
    return terms


# SegAN: Xue et al. 2018, eq. 1 and 2, with the mean over scales; pairs: Rezaei et al. 2017


def segan_maps(nets: Any, batch: Any) -> tuple[Tensor, Tensor]:
    fake = torch.softmax(nets.g(batch.source)[0], 1)
    index = ((batch.target[:, 0] + 1) / 2 * (nets.labels - 1)).round()
    return fake, torch.stack([(index == label).to(fake.dtype) for label in range(nets.labels)], 1)


def segan_distance(nets: Any, batch: Any, fake: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference per scale; the first scale is the masked image itself."""
    masked = [torch.cat([(batch.source + 1) * x[:, [k]] for k in range(1, nets.labels)], 1) for x in (fake, target)]
    scales = [[x, *features(nets.d, x, norms=True)] for x in masked]
    return sum(mae(a, b) for a, b in zip(*scales, strict=True)) / len(scales[0])


def segan_g(nets: Any, batch: Any, s: Any) -> Written:
    fake, target = segan_maps(nets, batch)
    overlap, total = (fake * target)[:, 1:].sum((2, 3, 4)), (fake + target)[:, 1:].sum((2, 3, 4))
    if s.critic == "pairs":
        adversarial = generator_term("bce", nets.d(pair(batch.source, fake)))
        return {"l1": s.l1_weight * mae(fake, target), "gan": s.adversarial_weight * adversarial}
    return {
        "dice": s.dice_weight * (1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()),
        "gan": s.adversarial_weight * segan_distance(nets, batch, fake, target),
    }


def segan_d(nets: Any, batch: Any, s: Any) -> Written:
    fake, target = segan_maps(nets, batch)
    if s.critic == "pairs":
        real_logits, fake_logits = (nets.d(pair(batch.source, x)) for x in (target, fake.detach()))
        return {"gan": discriminator_term("bce", real_logits, fake_logits)}
    return {"gan": -segan_distance(nets, batch, fake.detach(), target)}


# registration: Yan et al. 2018


def registration_g(nets: Any, batch: Any, s: Any) -> Written:
    estimate = nets.g(batch.source)
    units = torch.tensor([25.0] * 3 + [5.0] * 3 + [1.0] * 6)
    warped = nets.warped(batch.source, estimate)
    error = (((estimate - batch.misalignment.to(estimate.dtype)) / units) ** 2).mean()
    return {
        "parameters": s.parameter_weight * error,
        "gan": s.adversarial_weight * -nets.d(pair(warped, batch.source[:, 1:])).mean(),
    }


def registration_d(nets: Any, batch: Any, s: Any) -> Written:
    fixed = batch.source[:, 1:]
    real = nets.warped(batch.source, batch.misalignment.to(batch.source.dtype))
    fake = nets.warped(batch.source, nets.g(batch.source)).detach()
    gp = penalty(lambda x: nets.d(pair(x[0], fixed)).mean((1, 2, 3, 4)), [real], [fake], mix(batch))
    return {"gan": nets.d(pair(fake, fixed)).mean() - nets.d(pair(real, fixed)).mean(), "gp": s.gp_weight * gp}


TERMS: dict[tuple[str, str], Callable[[Any, Any, Any], Written]] = {
    ("pix2pix", "g"): pix2pix_g,
    ("pix2pix", "d"): pix2pix_d,
    ("microscopy", "g"): microscopy_g,
    ("microscopy", "d"): microscopy_d,
    ("medgan", "g"): medgan_g,
    ("medgan", "d"): medgan_d,
    ("restore", "g"): restore_g,
    ("restore", "d"): restore_d,
    ("upgan", "g_1"): lambda nets, batch, s: upgan_terms(nets, batch, s, 1, 0),
    ("upgan", "d_1"): lambda nets, batch, s: upgan_d(nets, batch, s, (1,)),
    ("upgan", "g_2"): lambda nets, batch, s: upgan_terms(nets, batch, s, 2, 0),
    ("upgan", "d_2"): lambda nets, batch, s: upgan_d(nets, batch, s, (2,)),
    ("upgan", "g"): upgan_joint,
    ("upgan", "d"): lambda nets, batch, s: upgan_d(nets, batch, s, (1, 2)),
    ("cyclegan", "g"): cyclegan_g,
    ("cyclegan", "d"): cyclegan_d,
    ("unit", "g"): unit_g,
    ("unit", "d"): unit_d,
    ("segan", "g"): segan_g,
    ("segan", "d"): segan_d,
    ("registration", "g"): registration_g,
    ("registration", "d"): registration_d,
    ("hagan", "d"): hagan_d,
    ("hagan", "g"): hagan_g,
    ("hagan", "e_h"): hagan_e_h,
    ("hagan", "e_g"): hagan_e_g,
    ("wgan_gp", "d"): wgan_gp_d,
    ("wgan_gp", "g"): wgan_gp_g,
}
