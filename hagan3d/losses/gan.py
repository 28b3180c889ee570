"""Adversarial losses of generator and discriminator, and penalties on the discriminator's gradient."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.ops.device import to_device


def d_loss(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss, a scalar.

    Args:
        objective: ``bce`` and ``minimax`` (Goodfellow 2014, equal here), ``hinge`` (Lim and Ye 2017), ``lsgan`` (Mao
            2017), ``wgan-gp``, or ``relativistic``: each real volume against the generated one of its row (Huang et
            al., NeurIPS 2024, eq. 2).
        real: Logits of real volumes ``[B]``.
        fake: Logits of generated volumes ``[B]``.
    """
    if objective == "relativistic":
        return F.softplus(fake - real).mean()
    if objective in ("bce", "minimax"):
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if objective == "lsgan":
        return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
    return fake.mean() - real.mean()


def g_loss(objective: str, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the generator's loss, a scalar, for logits ``fake [B]``.

    bce is the non-saturating form, -ln D(G(z)); minimax the saturating one, ln(1 - D(G(z))). lsgan is not halved, as
    the published weights of CycleGAN and UP-GAN count it.
    ``relativistic`` also takes the logits ``real [B]``.
    """
    if objective == "relativistic":
        assert real is not None
        return F.softplus(real - fake).mean()
    if objective == "bce":
        return F.softplus(-fake).mean()
    if objective == "minimax":
        return -F.softplus(fake).mean()
    if objective == "lsgan":
        return ((fake - 1) ** 2).mean()
    return -fake.mean()


def differentiable(x: Tensor) -> Tensor:
    """Detach ``x`` and let it require a gradient, for a penalty on the gradient of a discriminator.

    The result is a view, not a leaf: PyTorch cannot call hooks (such as those of an operation counter) while it
    differentiates with respect to a leaf.
    """
    return x.detach().requires_grad_().view_as(x)


def squared_gradient_penalty(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Half the mean squared norm of the gradient of ``logits [B]`` in ``inputs``, a scalar.

    Of real volumes it is R1, of generated ones R2. Source: Mescheder et al., Which Training Methods for GANs do
    actually Converge?, ICML 2018, eq. 9.
    """
    return _squared_gradient(logits, inputs).mean() / 2


def gradient_penalty(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """WGAN-GP: mean of (norm of the gradient of ``logits [B]`` in ``inputs`` - 1)^2, a scalar.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, eq. 3.
    """
    norm = (_squared_gradient(logits, inputs) + 1e-12).sqrt()  # the root has no gradient at 0
    return ((norm - 1) ** 2).mean()


def interpolated_penalty(
    logits_of: Callable[[list[Tensor]], Tensor], real: Sequence[Tensor], fake: Sequence[Tensor], mix: np.ndarray
) -> Tensor:
    """WGAN-GP gradient penalty on random interpolates of real and generated volumes, a scalar.

    Not under autocast: in half precision its second derivative overflows.

    Args:
        logits_of: Maps a list of inputs to logits ``[B]``.
        real: Real inputs of the discriminator, each ``[B, C, D, H, W]``.
        fake: Generated ones.
        mix: Position of each interpolate, uniform in [0, 1), ``[B, 1]``.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, algorithm 1.
    """
    with torch.autocast(fake[0].device.type, enabled=False):
        dtype = torch.promote_types(fake[0].dtype, torch.float32)
        t = to_device(mix, fake[0].device, dtype)[:, :, None, None, None]
        inputs = [differentiable(torch.lerp(x.to(dtype), y.to(dtype), t)) for x, y in zip(real, fake, strict=True)]
        return gradient_penalty(logits_of(inputs), inputs)


def _squared_gradient(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Squared norm ``[B]`` of the gradient of each logit in all inputs together."""
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
