"""The terms of InfoGAN against closed forms."""

import math

import torch

from hagan3d.losses.information import category_information, continuous_information


def test_a_category_that_is_not_predicted_costs_its_entropy():
    code = torch.eye(4, dtype=torch.float64)
    none, certain = torch.zeros(4, 4, dtype=torch.float64), 50 * code
    torch.testing.assert_close(category_information([none], code), torch.tensor(math.log(4), dtype=torch.float64))
    assert float(category_information([certain], code)) < 1e-12
    both = category_information([none, certain], code)
    torch.testing.assert_close(both, torch.tensor(math.log(4) / 2, dtype=torch.float64))


def test_continuous_codes_cost_the_likelihood_of_a_unit_gaussian():
    random = torch.Generator().manual_seed(0)
    means, code = (torch.randn(5, 3, generator=random, dtype=torch.float64) for _ in range(2))
    gaussian = torch.distributions.Normal(means, 1.0)
    constant = 3 * math.log(2 * math.pi) / 2
    expected = -gaussian.log_prob(code).sum(1).mean() - constant
    torch.testing.assert_close(continuous_information([means], code), expected)
    torch.testing.assert_close(continuous_information([means, code], code), expected / 2)
