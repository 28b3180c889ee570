"""HA-GAN: hierarchical generation of a low-resolution volume and a high-resolution sub-volume.

Source: Sun et al., Hierarchical Amortized GAN for 3D High Resolution Medical Image Synthesis, IEEE JBHI 26(8), 2022.
Reconstruction by G: Larsen et al., Autoencoding beyond pixels using a learned similarity metric, ICML 2016.
Codes of z: Chen et al., InfoGAN, NeurIPS 2016.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.data.batches.subvolumes import Batch
from hagan3d.losses.diffaug import NUM_RANDOMS, adapted_probability, diffaug
from hagan3d.losses.gan import d_loss, differentiable, g_loss, interpolated_penalty, squared_gradient_penalty
from hagan3d.losses.information import category_information, continuous_information
from hagan3d.losses.intensities import sorted_l1
from hagan3d.losses.prior import prior_distance
from hagan3d.losses.voxels import l1
from hagan3d.methods.generation import GenerationMethod
from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.hagan.networks import HAGANNetworks
from hagan3d.methods.phase import Phase, Terms

PROBABILITY = "diffaug_probability"


class HAGAN(GenerationMethod):
    """HA-GAN: D^H and D^L, then G, then both encoders; E^G together with G, if G reconstructs."""

    settings: HAGANConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step: discriminators, generator, encoders."""
        settings, lr, every = self.settings, self.settings.lr_e, self.settings.encoder_every
        phases = [self._d_phase(), self._g_phase()]
        if settings.encoder:
            phases.append(Phase("e_h", ("e_h",), self.e_h_loss, lr, every=every))
        if settings.encoder and not settings.autoencode:
            phases.append(Phase("e_g", ("e_g",), self.e_g_loss, lr, every=every, volumes_every=every))
        return phases

    def _d_phase(self) -> Phase:
        settings, discriminators = self.settings, ("d_h", "d_l") if self.settings.low_resolution_branch else ("d_h",)
        is_penalised = max(settings.r1_weight, settings.r2_weight) > 0 or settings.objective == "wgan-gp"
        return Phase(
            "d",
            discriminators,
            self.d_loss,
            self.train.lr_d,
            # lazy regularization: R1 in every r1_every-th step, with r1_every times the weight; R2 likewise
            weights={
                "gp": settings.gp_weight,
                "r1": settings.r1_weight * settings.r1_every,
                "r2": settings.r2_weight * settings.r2_every,
                **self._info_weights(),
            },
            measures=("sign_real",),
            records=() if settings.fresh_fakes else ("g",),  # G's update differentiates the fakes of this phase
            penalised=discriminators if is_penalised else (),
        )

    def _g_phase(self) -> Phase:
        settings, lr = self.settings, self.train.lr_g
        weights = {"class": settings.class_weight, **self._info_weights()}
        if not settings.autoencode:
            return Phase("g", ("g",), self.g_loss, lr, weights)
        # G and E^G learn from the same reconstruction: one pass through G gives the gradients of both.
        weights |= dict.fromkeys(("l1_high", "l1_low", "sorted_l1", "prior"), settings.autoencode)
        rates, every = {"e_g": settings.lr_e}, settings.encoder_every
        return Phase("g", ("g", "e_g"), self.g_loss, lr, weights, lr_of=rates, volumes_every=every)

    def initial_state(self) -> dict[str, float]:
        """Return the initial probability of differentiable augmentation."""
        return {PROBABILITY: self.settings.diffaug.probability}

    def adapted_state(self, state: Mapping[str, float], terms: Mapping[str, float], volumes: int) -> dict[str, float]:
        """Adapt the probability of differentiable augmentation to the mean sign of D on real volumes."""
        diffaug_config = self.settings.diffaug
        if not (diffaug_config.active and diffaug_config.adaptive):
            return dict(state)
        probability = adapted_probability(state[PROBABILITY], terms["d/sign_real"], volumes, diffaug_config)
        return {**state, PROBABILITY: probability}

    def d_loss(self, nets: HAGANNetworks, batch: Batch) -> Terms:
        """Discriminator loss: adversarial term, class term on real volumes, codes of generated ones, penalties."""
        settings, z = self.settings, latents(nets, batch)
        with torch.set_grad_enabled(not settings.fresh_fakes):
            pair = generate(nets, batch, z)
        if not settings.fresh_fakes:
            self.cache.put("z", batch, z)
            self.cache.put_with_graph("pair", batch, pair)
        real, fake = (batch.window, batch.low), (pair[0].detach(), pair[1].detach())  # D's update stops at the fakes
        logits_real, outputs_real = self._logits(nets, batch, self._augmented(batch, "real", *real))
        logits_fake, outputs_fake = self._logits(nets, batch, self._augmented(batch, "fake", *fake))
        terms = {"gan": d_loss(settings.objective, logits_real, logits_fake)}
        terms |= class_terms(nets, batch, outputs_real) | code_terms(nets, z, outputs_fake)
        if settings.class_fakes and nets.num_classes:
            terms["class_fake"] = class_terms(nets, batch, outputs_fake)["class"]
        if settings.objective == "wgan-gp":
            terms["gp"] = self._gradient_penalty(nets, batch, real, fake)
        if settings.r1_weight and batch.step % settings.r1_every == 0:
            terms["r1"] = self._squared_gradient(nets, batch, "real", *real)
        if settings.r2_weight and batch.step % settings.r2_every == 0:
            terms["r2"] = self._squared_gradient(nets, batch, "fake", *fake)
        return terms | {"sign_real": _sign_real(settings.objective, logits_real.detach(), logits_fake.detach())}

    def g_loss(self, nets: HAGANNetworks, batch: Batch) -> Iterator[Terms]:
        """Loss of G: adversarial term, class and code terms; if `autoencode`, that of E^G and G as an autoencoder."""
        yield self._adversarial(nets, batch)
        if self.settings.autoencode and batch.step % self.settings.encoder_every == 0:
            yield self._autoencoder(nets, batch)

    def e_h_loss(self, nets: HAGANNetworks, batch: Batch) -> Terms:
        """Loss of E^H: L1 between G^H(E^H(x)) and the real sub-volume x."""
        return {"l1": l1(nets.g.voxels(nets.e_h(batch.window)), batch.window)}

    def e_g_loss(self, nets: HAGANNetworks, batch: Batch) -> Terms:
        """Loss of E^G: L1 between G(E^G(E^H(x))) and real pairs; G and E^H have their own updates."""
        return self._reconstruction(nets, batch, nets.encode(batch.slabs()))

    def _autoencoder(self, nets: HAGANNetworks, batch: Batch) -> Terms:
        """Reconstruction of real pairs, also L1 of sorted intensities, and the distance of latents to the prior."""
        z = nets.encode(batch.slabs())
        if nets.g.prior.is_encoded:
            nets.g.prior.observe(z.detach(), labels(nets, batch), 1 / self.train.accumulate)
        return self._reconstruction(nets, batch, z) | {"prior": prior_distance(z)}

    def _info_weights(self) -> dict[str, float]:
        """Weights of the mutual information of the codes that z has."""
        has = {"info_category": self.settings.categories, "info_continuous": self.settings.continuous_codes}
        return {term: self.settings.info_weight for term, count in has.items() if count}

    def _adversarial(self, nets: HAGANNetworks, batch: Batch) -> Terms:
        """Adversarial, class and code terms of G."""
        z = self.cache.pop("z", batch, partial(latents, nets, batch))
        pair = self.cache.pop("pair", batch, partial(generate, nets, batch, z))
        logits, outputs = self._logits(nets, batch, self._augmented(batch, "fake", *pair))
        real = None
        if self.settings.objective == "relativistic":
            with torch.no_grad():
                real, _ = self._logits(nets, batch, self._augmented(batch, "real", batch.window, batch.low))
        terms = {"gan": g_loss(self.settings.objective, logits, real)}
        return terms | class_terms(nets, batch, outputs) | code_terms(nets, z, outputs)

    def _reconstruction(self, nets: HAGANNetworks, batch: Batch, z: Tensor) -> Terms:
        """L1 between G(z) and the real sub-volume and low-resolution volume, weighted 1/2 each.

        With `autoencode` also the L1 of sorted intensities.
        """
        window, low = nets.g(z, batch.start, labels(nets, batch))
        terms = {"l1_high": l1(window, batch.window) / 2}
        if self.settings.low_resolution_branch:
            terms["l1_low"] = l1(low, batch.low) / 2
        if self.settings.autoencode:
            terms["sorted_l1"] = sorted_l1(window, batch.window)
        return terms

    def _logits(self, nets: HAGANNetworks, batch: Batch, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mean logits of D^H and D^L ``[B]``, or those of each ``[2, B]``, and their outputs for classes and codes."""
        logits, outputs = nets.logits(batch.start, *inputs)
        stacked = torch.stack(logits)
        return stacked.mean(0) if self.settings.logits == "mean" else stacked, outputs

    def _augmented(self, batch: Batch, name: str, window: Tensor, low: Tensor) -> list[Tensor]:
        """Inputs of the discriminators, after differentiable augmentation seeded by ``name``."""
        if self.settings.diffaug.active:
            randoms = batch.uniform(name, NUM_RANDOMS)
            probability, images = batch.state[PROBABILITY], self.config.data.channels
            window, low = diffaug(window, low, self.settings.diffaug, probability, randoms, images)
        if self.settings.label_noise and self.config.data.labels:
            seeds = (batch.uniform(f"{name} labels", 2) * 2**31).astype(np.int64)
            images, deviation = self.config.data.channels, self.settings.label_noise
            window = with_label_noise(window, images, deviation, seeds[:, 0])
            low = with_label_noise(low, images, deviation, seeds[:, 1])
        return [window, low] if self.settings.low_resolution_branch else [window]

    def _squared_gradient(self, nets: HAGANNetworks, batch: Batch, name: str, *pair: Tensor) -> Tensor:
        """R1 of real or R2 of generated pairs as D sees them; in float32, since it is differentiated twice."""
        with torch.autocast(batch.window.device.type, enabled=False):
            wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in pair]
            inputs = [differentiable(x) for x in self._augmented(batch, name, *wide)]
            return squared_gradient_penalty(self._penalised_logits(nets, batch, inputs), inputs)

    def _gradient_penalty(
        self, nets: HAGANNetworks, batch: Batch, real: tuple[Tensor, ...], fake: tuple[Tensor, ...]
    ) -> Tensor:
        """WGAN-GP gradient penalty between real and generated pairs, as D sees them."""
        seen_real, seen_fake = self._augmented(batch, "real", *real), self._augmented(batch, "fake", *fake)
        logits_of = partial(self._penalised_logits, nets, batch)
        return interpolated_penalty(logits_of, seen_real, seen_fake, batch.uniform("mix", 1))

    def _penalised_logits(self, nets: HAGANNetworks, batch: Batch, inputs: list[Tensor]) -> Tensor:
        """Logits ``[B]`` whose gradient is penalized: the mean of D^H and D^L, or their sum (`logits` each)."""
        logits, _ = self._logits(nets, batch, inputs)
        return logits if logits.ndim == 1 else logits.sum(0)


def _sign_real(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean sign of D on real volumes, by which augmentation adapts: the more D overfits, the nearer to 1.

    Objectives that depend on differences of logits alone leave their level open: there it is that of real minus fake.
    """
    return (real - fake if objective in ("relativistic", "wgan-gp") else real).sign().mean()


def latents(nets: HAGANNetworks, batch: Batch) -> Tensor:
    """Sample new latents ``[B, latent_dim]`` of the classes of the real volumes."""
    return nets.latent(batch.normal("z", nets.latent_dim), labels(nets, batch))


def generate(nets: HAGANNetworks, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """Generate pairs from latents, with the classes and starts of the real ones."""
    return nets.g(z, batch.start, labels(nets, batch))


def with_label_noise(x: Tensor, images: int, deviation: float, seeds: np.ndarray) -> Tensor:
    """Add Gaussian noise to the channels of labels, those after the image channels, of volumes ``[B, C, D, H, W]``.

    Source: Sonderby et al., Amortised MAP Inference for Image Super-resolution, ICLR 2017 (instance noise).
    """
    noise = torch.stack(
        [
            torch.randn(row.shape, generator=torch.Generator(x.device).manual_seed(int(seed)), device=x.device)
            for row, seed in zip(x[:, images:], seeds, strict=True)
        ]
    )
    return torch.cat([x[:, :images], x[:, images:] + deviation * noise.to(x.dtype)], dim=1)


def labels(nets: HAGANNetworks, batch: Batch) -> Tensor | None:
    """Classes ``[B]`` of a conditional model, else None."""
    return batch.label if nets.num_classes else None


def class_terms(nets: HAGANNetworks, batch: Batch, outputs: list[Tensor]) -> Terms:
    """Cross-entropy of the auxiliary classifiers (ACGAN), averaged; empty in a model without classes."""
    if not nets.num_classes:
        return {}
    classes = [x[:, : nets.num_classes] for x in outputs]
    return {"class": torch.stack([F.cross_entropy(logits, batch.label) for logits in classes]).mean()}


def code_terms(nets: HAGANNetworks, z: Tensor, outputs: list[Tensor]) -> Terms:
    """Mutual information of the codes of z and the volumes generated from it (InfoGAN); empty without codes."""
    category, continuous = nets.codes.split(z)
    predicted = [nets.codes.split(x[:, nets.num_classes :]) for x in outputs]
    terms = {}
    if nets.codes.categories:
        terms["info_category"] = category_information([one for one, _ in predicted], category)
    if nets.codes.continuous:
        terms["info_continuous"] = continuous_information([other for _, other in predicted], continuous)
    return terms
