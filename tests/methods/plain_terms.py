"""Terms that several losses share, in plain tensors: adversarial, penalties, feature distances."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Written = dict[str, Tensor]


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def generator_term(objective: str, logits: Tensor, real: Tensor | None = None) -> Tensor:
    if objective == "relativistic":
        return torch.log1p(torch.exp(real - logits)).mean()
    if objective == "bce":
        return -log_sigmoid(logits).mean()
    return ((logits - 1) ** 2).mean() if objective == "lsgan" else -logits.mean()


def discriminator_term(objective: str, real: Tensor, fake: Tensor) -> Tensor:
    if objective == "relativistic":
        return torch.log1p(torch.exp(fake - real)).mean()
    if objective == "bce":
        return -log_sigmoid(real).mean() - log_sigmoid(-fake).mean()
    if objective == "lsgan":
        return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean()
    return fake.mean() - real.mean()


def penalty(logits_of: Callable[[list[Tensor]], Tensor], real: list[Tensor], fake: list[Tensor], t: Tensor) -> Tensor:
    """(|gradient| - 1)^2 at x = (1 - t) real + t fake."""
    t = t.view(-1, 1, 1, 1, 1)
    inputs = [((1 - t) * a + t * b).detach().requires_grad_() for a, b in zip(real, fake, strict=True)]
    gradients = torch.autograd.grad(logits_of(inputs).sum(), inputs, create_graph=True)
    norms = sum((g**2).sum((1, 2, 3, 4)) for g in gradients) ** 0.5
    return ((norms - 1) ** 2).mean()


def mix(batch: Any) -> Tensor:
    return torch.from_numpy(batch.uniform("mix", 1)).to(batch.device).double()


def mae(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def gram(x: Tensor) -> Tensor:
    return torch.einsum("bcdhw,bkdhw->bck", x, x) / (x.shape[2] * x.shape[3] * x.shape[4])


def style(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    return sum(
        ((gram(a) - gram(b)) ** 2).sum((1, 2)).mean() / (4 * a.shape[1] ** 2) for a, b in zip(fake, real, strict=True)
    )


def content(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    return sum(((a - b) ** 2).mean() for a, b in zip(fake, real, strict=True))


def features(conv_net: Any, x: Tensor, norms: bool) -> list[Tensor]:
    """Feature maps of convolutions with LeakyReLU 0.2, after instance norm in all but the first layer."""
    maps = []
    for number, conv in enumerate(conv_net.convs):
        x = torch.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        if norms and number:
            mean = x.mean((2, 3, 4), keepdim=True)
            x = (x - mean) / (((x - mean) ** 2).mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
        maps.append(x)
    return maps


def pair(source: Tensor, x: Tensor) -> Tensor:
    return torch.cat([source, x], 1)
