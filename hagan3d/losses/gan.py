"""The games between generator and discriminator, and the penalties on the discriminator's gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def d_loss(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss, a scalar.

    Args:
        objective: ``bce`` (Goodfellow 2014), ``hinge`` (Lim and Ye 2017), ``lsgan`` (Mao 2017) or ``wgan-gp``.
        real: Logits of real volumes ``[B]``.
        fake: Logits of generated volumes ``[B]``.
    """
    if objective == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if objective == "lsgan":
        return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
    return fake.mean() - real.mean()


def g_loss(objective: str, fake: Tensor) -> Tensor:
    """Return the generator's loss, a scalar, for logits ``fake [B]``; bce is the non-saturating form."""
    if objective == "bce":
        return F.softplus(-fake).mean()
    if objective == "lsgan":
        return ((fake - 1) ** 2).mean() / 2
    return -fake.mean()


def differentiable(x: Tensor) -> Tensor:
    """Give the values of ``x`` apart from what made them, for a penalty on a gradient in them.

    They are a view and no leaf of the graph, whose hooks PyTorch cannot call while it derives in a leaf: one that
    counts the operations of networks, for example.
    """
    return x.detach().requires_grad_().view_as(x)


def r1_penalty(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Half the mean squared length of the gradient of ``logits [B]`` in ``inputs``, a scalar.

    Source: Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, eq. 9.
    """
    return _squared_gradient(logits, inputs).mean() / 2


def gradient_penalty(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Mean of (length of the gradient of ``logits [B]`` in ``inputs`` - 1)^2, a scalar.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, eq. 3.
    """
    length = (_squared_gradient(logits, inputs) + 1e-12).sqrt()  # the root has no gradient at 0
    return ((length - 1) ** 2).mean()


def _squared_gradient(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Squared length ``[B]`` of the gradient of each logit in all inputs together."""
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
