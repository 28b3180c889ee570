"""Spectral norm: the weight has length 1, and a forward pass never changes it."""

import torch

from hagan3d.networks.discriminator import HighDiscriminator
from hagan3d.networks.layers import SpectralConv3d, SpectralLinear, iterate_spectral_norms


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


def test_a_forward_pass_leaves_the_network_as_it_is():
    torch.manual_seed(0)
    d_h = HighDiscriminator((32, 32, 32), 4, channels=64)
    before = {key: value.clone() for key, value in d_h.state_dict().items()}
    d_h.train()(torch.randn(2, 1, 4, 32, 32), torch.tensor([0, 28]))
    assert all(torch.equal(value, before[key]) for key, value in d_h.state_dict().items())
    iterate_spectral_norms(d_h)
    assert not torch.equal(d_h.state_dict()["convs.0.u"], before["convs.0.u"])
