"""Layers in plain tensors, and networks with random weights, to write forward passes out."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.networks.spectral import iterate_spectral_norms

State = Mapping[str, Tensor]


def randomised(network: nn.Module, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network in float64 with random weights, scales and offsets, converged spectral norms, and its state.

    Weights are small enough that no tanh saturates, which would hide what is wrong before it. In the state those with a
    spectral norm are divided by their largest singular value.
    """
    random = torch.Generator().manual_seed(seed)
    network = network.double().requires_grad_(False)
    for weight in network.parameters():
        values = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        weight.copy_(values / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.3 * values + 0.5)
    state, previous = network.state_dict(), None
    vectors = [value for name, value in state.items() if name.endswith(".u")]
    while vectors and (
        previous is None or any((u - v).abs().max() > 1e-12 for u, v in zip(vectors, previous, strict=True))
    ):
        previous = [u.clone() for u in vectors]
        iterate_spectral_norms(network)
    for name in [key for key in state if key.endswith(".u")]:
        weight = state[name.removesuffix("u") + "weight"]
        is_transposed = isinstance(network.get_submodule(name.removesuffix(".u")), nn.ConvTranspose3d)
        matrix = weight.transpose(0, 1) if is_transposed else weight
        state[name.removesuffix("u") + "weight"] = weight / torch.linalg.svdvals(matrix.flatten(1))[0]
    return network, state


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Return standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(x: Tensor, state: State, name: str, stride: int | tuple[int, ...] = 1, padding: int | tuple = 0) -> Tensor:
    return F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)


def reflecting_conv(x: Tensor, state: State, name: str, padding: int) -> Tensor:
    return conv(F.pad(x, [padding] * 6, mode="reflect"), state, name)


def doubling_conv(x: Tensor, state: State, name: str) -> Tensor:
    """Transposed convolution of kernel 3 and stride 2 that doubles every side."""
    return F.conv_transpose3d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2, 1, 1)


def up_conv(x: Tensor, state: State, name: str) -> Tensor:
    """Each voxel repeated along all axes, then a 3^3 convolution."""
    for axis in (2, 3, 4):
        x = x.repeat_interleave(2, axis)
    return conv(x, state, name, padding=1)


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0)


def standardised(x: Tensor, groups: int) -> Tensor:
    """Normalise over space and the channels of each group."""
    rows = x.reshape(len(x), groups, -1)
    mean, variance = rows.mean(2, keepdim=True), rows.var(2, keepdim=True, correction=0)
    return ((rows - mean) / (variance + 1e-5).sqrt()).view_as(x)


def scaled(x: Tensor, state: State, name: str) -> Tensor:
    """Multiply channels by a weight each and add an offset."""
    weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
    return x * weight + bias


def instance(x: Tensor, state: State, name: str) -> Tensor:
    return scaled(standardised(x, x.shape[1]), state, name)


def group(x: Tensor, state: State, name: str) -> Tensor:
    return scaled(standardised(x, 8), state, name)


def rms(x: Tensor, state: State, name: str) -> Tensor:
    return scaled(x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt(), state, name)
