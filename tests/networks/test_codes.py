"""Codes of InfoGAN in the latents of HA-GAN: their distribution, moments and settings."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.hagan.codes import Codes
from hagan3d.methods.hagan.prior import Prior
from tests.helpers import make_config


@pytest.mark.parametrize("codes", [Codes(4, 2), Codes(4, 0), Codes(0, 2), Codes()])
def test_the_moments_are_those_of_samples(codes):
    prior = Prior(8, 0, encoded=False, codes=codes)
    z = prior(torch.randn(40000, 8, generator=torch.Generator().manual_seed(0)))
    category, continuous = codes.split(z)
    assert (category.sum(1) == 1).all() or not codes.categories
    torch.testing.assert_close(category.mean(0), torch.full((codes.categories,), 0.25), atol=0.01, rtol=0)
    assert continuous.abs().max() <= 1 if codes.continuous else continuous.numel() == 0
    torch.testing.assert_close(z.T.cov(), prior.covariance, atol=0.03, rtol=0)
    assert float(z.square().mean()) == pytest.approx(prior.mean_square, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": 1}, "must be 0 or at least 2"),
        ({"categories": 5, "continuous_codes": 4, "latent_dim": 8}, "9 of 8 latent dimensions"),
        ({"continuous_codes": 1, "autoencode": 1.0}, "use --hagan.autoencode 0 --hagan.prior normal"),
    ],
)
def test_what_has_no_place_for_codes_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_config("hagan", **settings)
