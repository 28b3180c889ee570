import math

import pytest
import scipy.stats
import torch

from hagan3d.losses import GeneralizedNormal
from hagan3d.ops import ggd_sigma

X = torch.linspace(-3, 3, 13, dtype=torch.float64)
P = torch.linspace(0.01, 0.99, 15, dtype=torch.float64)
SHAPES = (0.5, 1.0, 2.0, 8.0)


def pair(shape):
    parameters = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.7, shape))
    return GeneralizedNormal(*parameters), scipy.stats.gennorm(shape, loc=0.3, scale=0.7)


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_scipy(shape):
    ours, theirs = pair(shape)
    for a, b in (
        (ours.log_prob(X), theirs.logpdf(X)),
        (ours.cdf(X), theirs.cdf(X)),
        (ours.icdf(P), theirs.ppf(P)),
        (ours.entropy(), theirs.entropy()),
        (ours.stddev, theirs.std()),
        (ours.mean, theirs.mean()),
    ):
        torch.testing.assert_close(a, torch.as_tensor(b, dtype=torch.float64), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_have_the_deviation_and_quantiles_of_the_distribution(shape):
    torch.manual_seed(0)
    ours, _ = pair(shape)
    x = ours.sample((100_000,))
    assert x.std().item() == pytest.approx(ours.stddev.item(), rel=0.02)
    assert (x < ours.icdf(torch.tensor(0.9, dtype=torch.float64))).double().mean().item() == pytest.approx(
        0.9, abs=0.005
    )


def test_shape_two_is_the_normal():
    normal, ours = torch.distributions.Normal(0.1, 0.5), GeneralizedNormal(0.1, 0.5 * math.sqrt(2), 2.0)
    torch.testing.assert_close(ours.log_prob(X), normal.log_prob(X))
    torch.testing.assert_close(ours.entropy(), normal.entropy())


def test_sigma_of_the_operator_is_the_standard_deviation():
    log_scale, log_shape = torch.randn(2, 1, 1, 2, 2, 2, dtype=torch.float64) * 0.5
    ours = GeneralizedNormal(0.0, log_scale.exp(), log_shape.exp()).stddev
    torch.testing.assert_close(ours, ggd_sigma(log_scale, log_shape))


def test_gradients():
    loc, scale, shape = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.7, 1.5))
    assert torch.autograd.gradcheck(lambda *t: GeneralizedNormal(*t).log_prob(X), (loc, scale, shape))
    fixed = shape.detach()
    assert torch.autograd.gradcheck(lambda *t: GeneralizedNormal(*t, fixed).cdf(X), (loc, scale))
    assert torch.autograd.gradcheck(
        lambda p, *t: GeneralizedNormal(*t, fixed).icdf(p), (P.requires_grad_(), loc, scale)
    )
    GeneralizedNormal(loc, scale, shape).rsample((8,)).sum().backward()
    assert all(torch.isfinite(t.grad) for t in (loc, scale, shape))


def test_a_gradient_in_the_shape_of_the_cdf_is_refused():
    shape = torch.tensor(1.5, requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        GeneralizedNormal(0.0, 1.0, shape).cdf(torch.ones(())).backward()


def test_expand_and_rejected_parameters():
    assert GeneralizedNormal(0.0, 1.0, 2.0).expand(torch.Size([3])).sample((2,)).shape == (2, 3)
    with pytest.raises(ValueError, match="scale"):
        GeneralizedNormal(0.0, -1.0, 2.0, validate_args=True)
