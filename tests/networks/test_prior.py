"""The encoded prior: latents are sampled with the moments of the observed ones."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.hagan.prior import Prior
from tests.helpers import make_config


def encoded(count: int, seed: int = 0) -> torch.Tensor:
    """Latents like those of an encoder: of large variance in few directions, with a nonzero mean."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.tensor([5.0, 3.0, 1.0, 0.1, 0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    return torch.randn(count, 6, generator=random) * spread @ turn + 2


def test_latents_are_sampled_with_the_moments_of_encoded_volumes():
    prior = Prior(6, 0, encoded=True)
    for update in range(300):
        prior.observe(encoded(64, update), None, 1.0)
        prior.absorb()
    z, real = prior(torch.randn(4000, 6, generator=torch.Generator().manual_seed(3))), encoded(4000, 1000)
    assert (z.mean(0) - real.mean(0)).abs().max() < 0.5  # the root of 25 / (50 updates x 64) is 0.09
    assert (z.T.cov() - real.T.cov()).norm() / real.T.cov().norm() < 0.2
    torch.testing.assert_close(prior.covariance, prior.factor @ prior.factor.T)
    assert prior.mean_square == pytest.approx(float(real.square().mean()), rel=0.1)


def test_each_class_has_its_mean():
    prior, shift = Prior(6, 2, encoded=True), torch.tensor([[0.0], [10.0]])
    for update in range(300):
        label = torch.arange(64) % 2
        prior.observe(encoded(64, update) + shift[label], label, 1.0)
        prior.absorb()
    label = torch.tensor([0, 1])
    z = prior(torch.zeros(2, 6), label)
    torch.testing.assert_close(z[1] - z[0], torch.full((6,), 10.0), atol=0.5, rtol=0)
    assert prior.covariance.diagonal().max() < 30  # of one class; of both together it would be 25 more


def test_an_update_moves_the_moments_by_a_fiftieth_towards_those_of_the_batch():
    """Of each class its mean: a class that is a part of the batch counts as much as a batch of it alone."""
    prior, z = Prior(3, 2, encoded=True), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 1, 0, 1, 0])
    prior.observe(z, label, 1.0)
    prior.absorb()
    torch.testing.assert_close(prior.mean, 0.02 * torch.stack([z[label == k].mean(0) for k in (0, 1)]))
    covariance = 0.98 * torch.eye(3) + 0.02 * (z.T @ z / 6 + 1e-4 * torch.eye(3))
    torch.testing.assert_close(prior.covariance, covariance)
    x = torch.randn(2, 3)
    expected = prior.mean[[1, 0]] + torch.stack([prior.factor @ row for row in x])
    torch.testing.assert_close(prior(x, torch.tensor([1, 0])), expected)


def test_micro_batches_add_up_to_the_batch():
    whole, split = Prior(6, 0, encoded=True), Prior(6, 0, encoded=True)
    z = encoded(8)
    whole.observe(z, None, 1.0)
    for micro_batch in z.chunk(4):
        split.observe(micro_batch, None, 0.25)
    for prior in (whole, split):
        prior.absorb()
    torch.testing.assert_close(split.factor, whole.factor)
    torch.testing.assert_close(split.mean, whole.mean)
    assert not split.new_moment.any() and not split.new_mean.any()


def test_latents_that_overflow_are_ignored():
    prior = Prior(6, 0, encoded=True)
    prior.observe(encoded(8).index_fill(0, torch.tensor([3]), float("inf")), None, 1.0)
    prior.absorb()
    assert prior.factor.isfinite().all() and prior.mean.isfinite().all()


def test_a_normal_prior_is_the_identity_without_state():
    prior, x = Prior(6, 0, encoded=False), torch.randn(2, 6)
    assert prior(x) is x and not prior.state_dict()
    torch.testing.assert_close(prior.covariance, torch.eye(6))
    assert prior.mean_square == 1


def test_an_encoded_prior_needs_the_autoencoder_loss():
    with pytest.raises(InputError, match="hagan.prior encoded"):
        make_config("hagan", prior="encoded")
    make_config("hagan", prior="encoded", autoencode=1.0)
