"""Spectral norm: the largest singular value is 1, and a forward pass never changes the state."""

import contextlib

import pytest
import torch

from hagan3d.engine.ema import EMA
from hagan3d.losses.gan import squared_gradient_penalty
from hagan3d.methods.hagan.discriminator import HighDiscriminator
from hagan3d.networks.spectral import SpectralConv3d, SpectralLinear, iterate_spectral_norms, shared_spectral_norms


def test_converges_to_the_largest_singular_value():
    torch.manual_seed(0)
    for layer in (SpectralConv3d(3, 6, (2, 4, 4)), SpectralLinear(20, 7)):
        for _ in range(200):
            iterate_spectral_norms(layer)
        largest = torch.linalg.matrix_norm(layer.normalized_weight().flatten(1), ord=2)
        torch.testing.assert_close(largest, torch.ones(()), atol=1e-4, rtol=0)


def test_gradient_is_that_of_the_quotient():
    torch.manual_seed(0)
    layer = SpectralLinear(5, 4).double()

    def quotient(weight):
        return weight / torch.dot(layer.u, weight @ layer.v)

    x = torch.randn(3, 5, dtype=torch.float64)
    layer(x).sum().backward()
    weight = layer.weight.detach().requires_grad_()
    torch.nn.functional.linear(x, quotient(weight), layer.bias).sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_a_forward_pass_does_not_change_the_state():
    torch.manual_seed(0)
    d_h = HighDiscriminator((32, 32, 32), 4, channels=64)
    before = {key: value.clone() for key, value in d_h.state_dict().items()}
    d_h.train()(torch.randn(2, 1, 4, 32, 32), torch.tensor([0, 28]))
    assert all(torch.equal(value, before[key]) for key, value in d_h.state_dict().items())
    iterate_spectral_norms(d_h)
    assert not torch.equal(d_h.state_dict()["convs.0.u"], before["convs.0.u"])


def d_gradients(d_h, is_shared, precision=torch.float32):
    """Loss and gradients of two micro-batches, each with a real and a generated pass and R1."""
    random = torch.Generator().manual_seed(1)
    d_h.zero_grad()
    total = 0.0
    with shared_spectral_norms(d_h) if is_shared else contextlib.nullcontext():
        for start in (torch.tensor([0, 28]), torch.tensor([4, 8])):
            real, fake = (torch.randn(2, 1, 4, 32, 32, generator=random) for _ in range(2))
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                loss = (d_h(fake, start)[0] - d_h(real, start)[0]).float().sum()
            real.requires_grad_()
            loss = loss + squared_gradient_penalty(d_h(real, start)[0], [real])
            loss.backward()
            total += loss.item()
    assert not any(layer.is_shared for layer in d_h.convs)
    return [torch.tensor(total), *(parameter.grad.clone() for parameter in d_h.parameters())]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_norms_change_no_gradient(checkpointing):
    torch.manual_seed(0)
    d_h = HighDiscriminator((32, 32, 32), 4, channels=64)
    d_h.checkpointing = checkpointing
    for one, other in zip(d_gradients(d_h, False), d_gradients(d_h, True), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_norms_under_autocast_differ_by_its_rounding(checkpointing):
    torch.manual_seed(0)
    d_h = HighDiscriminator((32, 32, 32), 4, channels=64)
    d_h.checkpointing = checkpointing
    exact = d_gradients(d_h, False)
    apart, shared = (d_gradients(d_h, is_shared, torch.bfloat16) for is_shared in (False, True))
    for true, one, other in zip(exact, apart, shared, strict=True):
        assert (other - true).norm() <= 1.1 * (one - true).norm() + 1e-6


def test_shared_norms_are_computed_once_and_need_a_gradient_only_if_the_weight_does():
    layer = SpectralLinear(5, 4)
    with shared_spectral_norms(layer):
        assert layer.normalized_weight() is layer.normalized_weight()
        assert layer.normalized_weight().requires_grad
    layer.requires_grad_(False)
    with shared_spectral_norms(layer):
        assert not layer.normalized_weight().requires_grad
    assert layer.normalized_weight() is not layer.normalized_weight()


def test_sharing_ends_after_an_error_too():
    layer = SpectralLinear(5, 4)
    with pytest.raises(ValueError, match="stop"), shared_spectral_norms(layer):
        layer(torch.ones(1, 5)).sum().backward()
        raise ValueError("stop")
    assert not layer.is_shared and layer.weight.grad is None


def test_averaged_weights_are_divided_by_their_own_norm():
    torch.manual_seed(0)
    layer = SpectralConv3d(8, 16, (3, 3, 3))
    average = EMA(layer, 0.99)
    for step in range(400):
        with torch.no_grad():
            layer.weight += 0.02 * torch.randn_like(layer.weight)
        layer.iterate()
        average.update(step)
    for vector in ("u", "v"):
        torch.testing.assert_close(average.state[vector].norm(), torch.tensor(1.0))
    with average.applied():
        norm = torch.linalg.matrix_norm(layer.used_weight().flatten(1), 2)
    assert 1 <= norm + 1e-5 < 1.15
