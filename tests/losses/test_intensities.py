"""L1 of sorted intensities: invariant to positions in a block, exact on shifts, with a gradient on intensities."""

import numpy as np
import torch

from hagan3d.losses.intensities import sorted_l1


def test_positions_within_a_block_do_not_matter_but_the_histogram_does():
    torch.manual_seed(0)
    real = torch.rand(2, 1, 8, 8, 8)
    shuffled = real.flatten(1)[:, torch.randperm(512)].view_as(real)
    assert sorted_l1(shuffled, real) == 0
    torch.testing.assert_close(sorted_l1(shuffled + 0.25, real), torch.tensor(0.5))  # in the whole and in the block
    some = torch.ones(1, 1, 4, 8, 8)
    fewer = some.clone()
    some.view(-1)[:64], fewer.view(-1)[100:132] = 0.0, 0.0  # patches of different size, elsewhere
    torch.testing.assert_close(sorted_l1(fewer, some), torch.tensor(2 * 32 / 256))


def test_voxels_of_different_blocks_are_not_exchangeable():
    left, right = torch.zeros(1, 1, 8, 8, 16), torch.zeros(1, 1, 8, 8, 16)
    left[..., 2:4], right[..., 12:14] = 1.0, 1.0
    torch.testing.assert_close(sorted_l1(left, right), torch.tensor(2 / 8))  # nothing in the whole, both blocks off
    torch.testing.assert_close(sorted_l1(left, left.flip(4).roll(8, dims=4)), torch.tensor(0.0))


def test_blocks_are_cubes_of_neighbours():
    torch.manual_seed(0)
    real = torch.rand(1, 1, 16, 24, 32)
    within = real.clone()
    within[:, :, 8:16, 16:24, 8:16] = real[:, :, 8:16, 16:24, 8:16].flip(2, 3, 4)
    assert sorted_l1(within, real) == 0
    assert sorted_l1(real.roll(4, dims=3), real) > 0.001


def test_sides_need_not_be_multiples_of_the_block():
    torch.manual_seed(0)
    fake, real = torch.rand(2, 1, 4, 6, 20), torch.rand(2, 1, 4, 6, 20)
    assert 0 < sorted_l1(fake, real) < 1
    assert sorted_l1(real, real) == 0


def test_volumes_are_compared_one_by_one():
    dark, bright = torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    assert sorted_l1(torch.cat([dark, bright]), torch.cat([bright, dark])) == 2


def test_gradient_descent_matches_the_intensities_of_the_real_volume():
    torch.manual_seed(0)
    real = torch.rand(1, 1, 2, 4, 4)
    fake = torch.rand(1, 1, 2, 4, 4).requires_grad_()
    ranks = fake.detach().flatten().argsort()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(sorted_l1(fake, real), fake)
        fake = (fake - 0.05 * gradient).detach().requires_grad_()
    torch.testing.assert_close(fake.detach().flatten().sort().values, real.flatten().sort().values, atol=0.01, rtol=0)
    assert fake.detach().flatten()[ranks].diff().min() > -0.02  # darker voxels are still the darker ones


def test_the_gradient_moves_each_voxel_towards_the_intensity_of_its_rank_for_a_byte_of_memory():
    fake, real = torch.randn(2, 2, 8, 16, 12, generator=torch.Generator().manual_seed(0)).chunk(2, dim=1)
    fake = fake.clone().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        value = 3 * sorted_l1(fake, real)
    (gradient,) = torch.autograd.grad(value, fake)
    expected = torch.zeros_like(fake)
    for sample in range(2):
        x, y, to = fake[sample, 0].detach().numpy(), real[sample, 0].numpy(), expected[sample, 0].numpy()
        blocks = [(slice(None), slice(0, 8), slice(4 * k, 4 * k + 4)) for k in range(3)]
        blocks += [(slice(None), slice(8, 16), where) for _, _, where in blocks]
        for part in [(), *blocks]:  # the whole; blocks of 8 x 8 x 4 voxels
            order = np.argsort(x[part], axis=None)
            signs = np.empty(order.size, np.float32)
            signs[order] = np.sign(x[part].ravel()[order] - np.sort(y[part], axis=None))
            to[part] += signs.reshape(x[part].shape)
    torch.testing.assert_close(gradient, 3 * expected / fake.numel())
    assert sum(x.nbytes for x in kept if x.numel() > 1) == fake.numel()
