"""Losses on feature maps, against sums written out."""

import torch

from hagan3d.losses.perceptual import content_loss, feature_l1, gram, style_loss


def maps(seed):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, 3, 4, 5, generator=random, dtype=torch.float64) for c in (2, 3)]


def test_layers_add_up():
    fake, real = maps(0), maps(1)
    expected = sum((a - b).abs().mean() for a, b in zip(fake, real, strict=True))
    torch.testing.assert_close(feature_l1(fake, real), expected)
    expected = sum((a - b).square().mean() for a, b in zip(fake, real, strict=True))
    torch.testing.assert_close(content_loss(fake, real), expected)


def test_style_compares_gram_matrices_independently_of_positions():
    x = maps(0)[0]
    expected = torch.einsum("bidhw,bjdhw->bij", x, x) / 60
    torch.testing.assert_close(gram(x), expected)
    torch.testing.assert_close(
        style_loss([x], [x.flip(2, 3)]), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0
    )
    y = maps(1)[0]
    squares = (expected - torch.einsum("bidhw,bjdhw->bij", y, y) / 60).square().sum((1, 2))
    torch.testing.assert_close(style_loss([x], [y]), squares.mean() / 16)


def test_large_features_stay_finite_in_half_precision():
    x = torch.full((1, 2, 16, 16, 16), 200.0, dtype=torch.float16)
    assert torch.isfinite(gram(x)).all()


def test_no_gradient_reaches_the_real_features():
    fake, real = ([x.requires_grad_() for x in maps(seed)] for seed in (0, 1))
    for loss in (feature_l1, content_loss, style_loss):
        loss(fake, real).backward()
    assert all(x.grad is not None for x in fake) and all(x.grad is None for x in real)
