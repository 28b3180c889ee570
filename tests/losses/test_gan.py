"""Adversarial losses and gradient penalties, against closed forms."""

import math

import pytest
import torch

from hagan3d.losses.gan import d_loss, g_loss, gradient_penalty, squared_gradient_penalty

OBJECTIVES = ("bce", "minimax", "hinge", "lsgan", "wgan-gp", "relativistic")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_discriminator_loss_falls_with_real_logits_and_rises_with_fake_ones(objective):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    d_loss(objective, real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all() or (objective == "lsgan" and (fake.grad == 0).all())
    assert d_loss(objective, torch.full((3,), 0.9), torch.full((3,), -0.1)) < d_loss(objective, -real - 1, fake + 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_generator_loss_falls_with_fake_logits(objective):
    fake = torch.zeros(3, requires_grad=True)
    g_loss(objective, fake, torch.zeros(3)).backward()
    assert (fake.grad < 0).all()


def test_relativistic_pairs_compare_each_real_volume_with_the_generated_one_of_its_row():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    expected = (math.log1p(math.exp(0.5 - 2.0)) + math.log1p(math.exp(1.0 + 1.0))) / 2
    assert d_loss("relativistic", real, fake).item() == pytest.approx(expected)
    expected = (math.log1p(math.exp(2.0 - 0.5)) + math.log1p(math.exp(-1.0 - 1.0))) / 2
    assert g_loss("relativistic", fake, real).item() == pytest.approx(expected)
    shifted = d_loss("relativistic", real + 7, fake + 7)  # what both have in common does not count
    torch.testing.assert_close(shifted, d_loss("relativistic", real, fake))


def test_bce_is_binary_cross_entropy_on_logits():
    real, fake = torch.randn(5), torch.randn(5)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones(5)) + bce(fake, torch.zeros(5))
    torch.testing.assert_close(d_loss("bce", real, fake), expected)
    torch.testing.assert_close(g_loss("bce", fake), bce(fake, torch.ones(5)))
    assert d_loss("bce", torch.zeros(1), torch.zeros(1)).item() == pytest.approx(2 * math.log(2))


def test_minimax_is_the_negative_loss_of_the_discriminator_on_fakes():
    fake = torch.randn(5)
    expected = torch.log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(g_loss("minimax", fake), expected)
    torch.testing.assert_close(d_loss("minimax", fake, fake), d_loss("bce", fake, fake))


def test_penalties_of_a_linear_discriminator_have_a_closed_form():
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([2.0])]
    inputs = [torch.randn(4, 2, requires_grad=True), torch.randn(4, 1, requires_grad=True)]
    logits = inputs[0] @ weights[0] + inputs[1] @ weights[1]
    assert squared_gradient_penalty(logits, inputs).item() == pytest.approx(9 / 2)  # |(1, 2, 2)|^2 = 9
    assert gradient_penalty(logits, inputs).item() == pytest.approx((3 - 1) ** 2)


def test_penalties_have_a_gradient_in_the_weights():
    weight = torch.randn(3, 1, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    squared_gradient_penalty((x @ weight).tanh().flatten(), [x]).backward()
    assert weight.grad.abs().min() > 0


def test_least_squares_of_the_generator_is_not_halved():
    fake = torch.tensor([0.0, 3.0])
    assert g_loss("lsgan", fake).item() == (1 + 4) / 2  # mean of (D - 1)^2
    assert d_loss("lsgan", fake, fake).item() == pytest.approx((1 + 4) / 4 + (0 + 9) / 4)
