"""HA-GAN: a low-resolution volume and a high-resolution sub-volume, generated together and judged together.

Source: Sun et al., Hierarchical Amortized GAN for 3D High Resolution Medical Image Synthesis, IEEE JBHI 26(8), 2022.
Of a G that autoencodes: Larsen et al., Autoencoding beyond pixels using a learned similarity metric, ICML 2016.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import TrainConfig
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.losses.diffaug import NUM_RANDOMS, adapted_probability, diffaug
from hagan3d.losses.gan import d_loss, differentiable, g_loss, gradient_penalty, r1_penalty
from hagan3d.losses.intensities import sorted_l1
from hagan3d.losses.prior import prior_distance
from hagan3d.methods.cache import Kept
from hagan3d.methods.hagan.networks import Networks
from hagan3d.methods.phase import Phase, Recipe

PROBABILITY = "diffaug_probability"


def recipe(train: TrainConfig) -> Recipe:
    """Return the updates of one step: the discriminators, the generator, and (if asked for) both encoders."""
    judges, kept = ("d_h", "d_l") if train.anchor else ("d_h",), Kept()
    phases = [
        Phase(
            "d",
            judges,
            partial(d_losses, train, kept),
            train.lr_d,
            measures=("sign_real",),
            records=() if train.fresh_fakes else ("g",),
            penalised=judges if train.r1_weight or train.objective == "wgan-gp" else (),
        ),
        Phase("g", ("g",), partial(g_losses, train, kept), train.lr_g),
    ]
    if train.encoder:
        every = train.encoder_every
        phases += [
            Phase("e_h", ("e_h",), e_h_losses, train.lr_e, every=every),
            Phase("e_g", ("e_g",), partial(e_g_losses, train), train.lr_e, every=every),
        ]
    return Recipe(phases, {PROBABILITY: train.diffaug.probability}, partial(_adapt, train))


def d_losses(train: TrainConfig, kept: Kept, nets: Networks, batch: Batch) -> dict[str, Tensor]:
    """Tell real pairs from generated ones; on real volumes, name the class."""
    with torch.set_grad_enabled(not train.fresh_fakes):
        pair = generate(nets, batch)
    if not train.fresh_fakes:
        kept.leave_recorded("pair", batch, pair)
    real, fake = (batch.window, batch.low), (pair[0].detach(), pair[1].detach())
    logits_real, classes = _judge(train, nets, batch, *_augmented(train, batch, "real", *real))
    logits_fake, _ = _judge(train, nets, batch, *_augmented(train, batch, "fake", *fake))
    terms = {"gan": d_loss(train.objective, logits_real, logits_fake)}
    terms |= _class_terms(classes, batch.label, 1.0)
    if train.objective == "wgan-gp":
        terms["gp"] = train.gp_weight * _gradient_penalty(train, nets, batch, real, fake)
    if train.r1_weight and batch.step % train.r1_every == 0:
        terms["r1"] = train.r1_weight * train.r1_every * _r1(train, nets, batch)
    return terms | {"sign_real": logits_real.detach().sign().mean()}


def g_losses(train: TrainConfig, kept: Kept, nets: Networks, batch: Batch) -> Iterator[dict[str, Tensor]]:
    """Be taken for real, and for the class that was asked for; then, if asked for, make real volumes again."""
    yield _fooling(train, kept, nets, batch)
    if train.autoencode and batch.step % train.encoder_every == 0:
        with torch.no_grad():
            z = nets.e_g(_feature_map(nets, batch))
        yield {name: train.autoencode * term for name, term in _made_again(train, nets, batch, z).items()}


def _fooling(train: TrainConfig, kept: Kept, nets: Networks, batch: Batch) -> dict[str, Tensor]:
    pair = kept.take("pair", batch, partial(generate, nets, batch))
    logits, classes = _judge(train, nets, batch, *_augmented(train, batch, "fake", *pair))
    return {"gan": g_loss(train.objective, logits)} | _class_terms(classes, batch.label, train.class_weight)


def e_h_losses(nets: Networks, batch: Batch) -> dict[str, Tensor]:
    """Encode a sub-volume into a piece of A from which G^H makes it again."""
    return {"l1": F.l1_loss(nets.g.voxels(nets.e_h(batch.window)), batch.window)}


def e_g_losses(train: TrainConfig, nets: Networks, batch: Batch) -> dict[str, Tensor]:
    """Encode a whole volume into a z from which G makes its sub-volume and its low-resolution volume again."""
    with torch.no_grad():
        a = _feature_map(nets, batch)
    z = nets.e_g(a)
    if nets.g.prior.is_encoded:
        nets.g.prior.observe(z.detach(), _labels(nets, batch), 1 / train.accumulate)
    terms = _made_again(train, nets, batch, z)
    return terms | {"prior": prior_distance(z)} if train.autoencode else terms


def generate(nets: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
    """Generate pairs from fresh latents, of the classes and at the places of the real ones."""
    label = _labels(nets, batch)
    return nets.g(nets.g.prior(batch.normal("z", nets.g.latent_dim), label), batch.start, label)


def _feature_map(nets: Networks, batch: Batch) -> Tensor:
    """Encode whole volumes, slab by slab, into A."""
    return torch.cat([nets.e_h(slab) for slab in batch.slabs()], dim=2)


def _made_again(train: TrainConfig, nets: Networks, batch: Batch, z: Tensor) -> dict[str, Tensor]:
    """Distance of what G makes of ``z [B, n]`` from the real pairs, half of it each; if G learns, of histograms too."""
    window, low = nets.g(z, batch.start, _labels(nets, batch))
    terms = {"l1_high": F.l1_loss(window, batch.window) / 2}
    if train.anchor:
        terms["l1_low"] = F.l1_loss(low, batch.low) / 2
    if train.autoencode:
        terms["sorted_l1"] = sorted_l1(window, batch.window)
    return terms


def _judge(train: TrainConfig, nets: Networks, batch: Batch, *seen: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits of pairs ``[B]``, or of each game ``[2, B]``, and class logits."""
    logits, classes = nets.judge(batch.start, *seen)
    both = torch.stack(logits)
    return both.mean(0) if train.logits == "mean" else both, classes


def _labels(nets: Networks, batch: Batch) -> Tensor | None:
    return batch.label if nets.g.common.num_classes else None


def _class_terms(classes: list[Tensor], label: Tensor, weight: float) -> dict[str, Tensor]:
    """Cross-entropy of the class heads; none in a model without classes."""
    if not classes:
        return {}
    return {"class": weight * torch.stack([F.cross_entropy(logits, label) for logits in classes]).mean()}


def _augmented(train: TrainConfig, batch: Batch, name: str, window: Tensor, low: Tensor) -> tuple[Tensor, ...]:
    """What D sees of pairs, changed as the differentiable augmentation has it, each by its own random numbers."""
    if train.diffaug.active:
        randoms = batch.uniform(name, NUM_RANDOMS)
        window, low = diffaug(window, low, train.diffaug, batch.state[PROBABILITY], randoms)
    return (window, low) if train.anchor else (window,)


def _r1(train: TrainConfig, nets: Networks, batch: Batch) -> Tensor:
    """Squared gradient of D on the real pairs as D sees them; in float32, for its double backward pass."""
    with torch.autocast(batch.window.device.type, enabled=False):
        pair = _augmented(train, batch, "real", batch.window, batch.low)
        inputs = [differentiable(x) for x in pair]
        return r1_penalty(_penalized(train, nets, batch, inputs), inputs)


def _gradient_penalty(
    train: TrainConfig, nets: Networks, batch: Batch, real: tuple[Tensor, ...], fake: tuple[Tensor, ...]
) -> Tensor:
    """Gradient penalty between real and generated pairs, in float32."""
    mix = torch.tensor(batch.uniform("mix", 1)).to(batch.window.device)[:, :, None, None, None]
    with torch.autocast(batch.window.device.type, enabled=False):
        pairs = list(zip(real, fake, strict=True))[: 2 if train.anchor else 1]
        inputs = [differentiable(torch.lerp(x.float(), y.float(), mix)) for x, y in pairs]
        return gradient_penalty(_penalized(train, nets, batch, inputs), inputs)


def _penalized(train: TrainConfig, nets: Networks, batch: Batch, inputs: list[Tensor]) -> Tensor:
    """Logits ``[B]`` whose gradient a penalty is on: those of pairs, or the sum of both games."""
    logits, _ = _judge(train, nets, batch, *inputs)
    return logits if logits.ndim == 1 else logits.sum(0)


def _adapt(
    train: TrainConfig, state: Mapping[str, float], measures: Mapping[str, float], volumes: int
) -> dict[str, float]:
    """Steer the probability of differentiable augmentation."""
    if not (train.diffaug.active and train.diffaug.adaptive):
        return dict(state)
    return {PROBABILITY: adapted_probability(state[PROBABILITY], measures["d/sign_real"], volumes, train.diffaug)}
