"""Restoration losses, against closed forms."""

import pytest
import torch

from hagan3d.losses.restoration import charbonnier, frequency_l2, gradient_difference, nmse, slice_tv


def volumes(side, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 4, 6, side, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("side", [7, 8])
def test_the_half_spectrum_gives_the_loss_of_the_whole(side):
    x = volumes(side)
    torch.testing.assert_close(frequency_l2(x, torch.zeros_like(x)), x.square().mean())  # Parseval
    whole = torch.fft.fftn(x, dim=(2, 3, 4), norm="ortho").abs()
    other = torch.fft.fftn(volumes(side, 1), dim=(2, 3, 4), norm="ortho").abs()
    torch.testing.assert_close(frequency_l2(x, volumes(side, 1)), (whole - other).square().mean())


def test_a_shifted_volume_has_the_same_magnitudes():
    x = volumes(8)
    assert float(frequency_l2(x, x.roll((1, 2, 3), (2, 3, 4)))) < 1e-20


def test_equal_volumes_have_finite_gradients():
    x = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    frequency_l2(x, torch.zeros_like(x)).backward()
    assert torch.isfinite(x.grad).all()


def test_nmse_is_a_ratio_of_norms_in_which_background_counts():
    real, fake = volumes(8), volumes(8, 1)
    ratios = [((a - b).norm() / b.norm()) for a, b in zip(fake, real, strict=True)]
    torch.testing.assert_close(nmse(fake, real), torch.stack(ratios).mean())
    background = torch.full_like(real, -1)
    assert float(nmse(background + 0.05, background)) == pytest.approx(0.05)
    mask = torch.zeros_like(real)
    mask[..., :3] = 1
    torch.testing.assert_close(nmse(fake, real, mask), nmse(fake[..., :3], real[..., :3]))


def test_gradient_difference_compares_magnitudes_along_every_axis():
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 6, 8)
    assert float(gradient_difference(2 * ramp, ramp)) == 1
    assert float(gradient_difference(-ramp, ramp)) == 0  # of magnitudes, not of signs
    assert float(gradient_difference(ramp[:, :, :, :4].transpose(2, 3), ramp[:, :, :, :4])) == 2
    one = torch.zeros(1, 1, 1, 4, 4)
    assert float(gradient_difference(one, one)) == 0


def test_nmse_of_equal_volumes_has_no_gradient():
    x = volumes(4).requires_grad_()
    nmse(x, x.detach().clone()).backward()
    assert float(x.grad.abs().max()) == 0


def test_slices_differ_along_the_first_axis_alone():
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 6, 8)
    assert float(slice_tv(0.5 * ramp, ramp)) == 0.25
    assert float(slice_tv(0.5 * ramp, ramp, "l1")) == 0.5
    assert float(slice_tv(0.5 * ramp, ramp, "match")) == 0.5
    assert float(slice_tv(ramp + 1, ramp, "match")) == 0
    assert float(slice_tv(ramp.transpose(2, 3), ramp)) == 0


def test_charbonnier_is_smooth_at_no_error_and_absolute_beyond():
    x = torch.zeros(1, 1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    at_zero = charbonnier(x, torch.zeros_like(x))
    at_zero.backward()
    assert float(at_zero.detach()) == pytest.approx(1e-3) and float(x.grad.abs().max()) == 0
    assert float(charbonnier(x.detach() + 1, torch.zeros_like(x))) == pytest.approx(1, abs=1e-6)
