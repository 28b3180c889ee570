"""Distance of latents from the prior: small for normal latents, large for any others."""

import torch

from hagan3d.losses.prior import prior_distance


def test_the_distance_is_small_only_for_latents_of_the_prior():
    torch.manual_seed(0)
    z = torch.randn(64, 512)
    near = prior_distance(z)
    assert near < 0.02
    assert prior_distance(2 * z) > 1
    assert prior_distance(z / 2) > 0.2
    assert prior_distance(0.3 * z + 0.95 * z[:1]) > 0.5  # of the right norm, but nearly all equal
    assert prior_distance(0.1 * z[:1].expand(64, 512)) > 1.5


def test_the_distance_is_that_of_neighbouring_pairs():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    expected = (0 + 1) / 2 + ((2 - 1) ** 2 + (0.5 - 1) ** 2) / 4
    torch.testing.assert_close(prior_distance(z), torch.tensor(expected))
    torch.testing.assert_close(prior_distance(z), (prior_distance(z[:2]) + prior_distance(z[2:])) / 2)
