"""Stochastic rounding to fewer bits: the mean is unchanged, and a number becomes one of its two neighbours."""

import pytest
import torch

from hagan3d.engine.rounding import from_levels, round_stochastically, to_levels


def noise():
    return torch.Generator().manual_seed(0)


def test_rounding_keeps_the_mean_and_moves_to_a_neighbour():
    x = torch.tensor([1.0 + 2**-9, -3.3, 1e-20]).repeat_interleave(40_000)  # bfloat16 near 1: steps of 2^-7
    rounded = round_stochastically(x, noise()).float()
    assert ((rounded / x - 1).abs() < 2**-7).all()
    torch.testing.assert_close(rounded.view(3, -1).mean(1), x.view(3, -1)[:, 0], rtol=1e-4, atol=0)
    exact = torch.tensor([0.0, 1.0, -2.5, float("inf"), 2.0**-120])
    assert torch.equal(round_stochastically(exact, noise()).float(), exact)


@pytest.mark.parametrize(("dtype", "decades", "spacing"), [(torch.uint8, 10, 0.095), (torch.int8, 6, 0.116)])
def test_levels_keep_the_mean_and_are_a_factor_apart(dtype, decades, spacing):
    sizes = 10 ** torch.linspace(-decades + 0.1, -0.1, 7)
    x = torch.cat([torch.ones(7, 1), sizes[:, None].expand(7, 40_000)], 1) * 3e-7  # the first of a row is its largest
    x = x * torch.tensor([1.0, -1.0]).repeat(4)[:7, None] if dtype.is_signed else x
    codes, scale = to_levels(x, dtype, noise())
    result = from_levels(codes, scale)
    assert codes.dtype == dtype and scale.shape == (7, 1)
    assert ((result / x - 1).abs() < spacing).all() and not torch.equal(result, x)
    torch.testing.assert_close(result[:, 1:].mean(1), x[:, 1], rtol=1e-3, atol=0)
    torch.testing.assert_close(result[:, 0], x[:, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_zeros_and_what_is_below_the_lowest_level(dtype):
    x = torch.zeros(2, 3, 1)
    x[1] = torch.tensor([[1.0], [1e-20], [0.0]])
    result = from_levels(*to_levels(x, dtype, noise()))
    lowest = 1e-10 if dtype == torch.uint8 else 1e-6
    expected = [1.0, lowest, lowest if dtype == torch.uint8 else 0.0]  # a second moment of 0 would divide by 0
    torch.testing.assert_close(result[1, :, 0], torch.tensor(expected), rtol=1e-3, atol=0)
    assert not result[0].any()


def test_one_number_per_row_is_exact():
    x = torch.tensor([0.0, 3.25, 1e-30])
    assert torch.equal(from_levels(*to_levels(x, torch.uint8, noise())), x)
