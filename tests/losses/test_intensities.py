"""The distance of histograms: blind to places, exact on shifts, and a gradient that moves intensities, not places."""

import torch

from hagan3d.losses.intensities import sorted_l1


def test_places_do_not_matter_and_amounts_do():
    torch.manual_seed(0)
    real = torch.rand(2, 1, 4, 8, 8)
    shuffled = real.flatten(1)[:, torch.randperm(256)].view_as(real)
    assert sorted_l1(shuffled, real) == 0
    torch.testing.assert_close(sorted_l1(shuffled + 0.25, real), torch.tensor(0.25))
    some = torch.ones(1, 1, 4, 5, 5)
    fewer = some.clone()
    some.view(-1)[:30], fewer.view(-1)[60:80] = 0.0, 0.0  # patches of different size, elsewhere
    torch.testing.assert_close(sorted_l1(fewer, some), torch.tensor(10 / 100))


def test_volumes_are_compared_one_by_one():
    dark, bright = torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    assert sorted_l1(torch.cat([dark, bright]), torch.cat([bright, dark])) == 1


def test_descending_it_gives_the_intensities_of_the_real_volume():
    torch.manual_seed(0)
    real = torch.rand(1, 1, 2, 4, 4)
    fake = torch.rand(1, 1, 2, 4, 4).requires_grad_()
    ranks = fake.detach().flatten().argsort()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(sorted_l1(fake, real), fake)
        fake = (fake - 0.1 * gradient).detach().requires_grad_()
    torch.testing.assert_close(fake.detach().flatten().sort().values, real.flatten().sort().values, atol=0.01, rtol=0)
    assert fake.detach().flatten()[ranks].diff().min() > -0.02  # darker voxels are still the darker ones
