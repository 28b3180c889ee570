"""The window arithmetic of G^H: closed forms of halos, trims and slices."""

import pytest
import torch

from hagan3d.methods.hagan.windows import Window, halos_of, window_plan

SCALES = [[2, 2], [2, 1, 2, 1], [2, 1, 1, 2, 1, 1, 2], [2, 2, 2, 2], [1, 1, 1]]


def fields(plan):
    return [(window.first, window.count, window.total, window.trim) for window in plan]


def test_halos_grow_by_the_receptive_field_of_each_layer():
    assert halos_of([2, 2]) == [1, 1, 0]
    assert halos_of([2, 1, 2, 1]) == [2, 2, 1, 1, 0]
    assert halos_of([1, 1, 1]) == [3, 2, 1, 0]


def test_plan_of_two_upsampling_layers_is_as_worked_out_by_hand():
    # A: 3 slices from 2 and a halo of 1. Twice as many are 10 from 2; one at each end is beyond the halo of 1.
    assert fields(window_plan([2, 2], 2, 3, 8)) == [(1, 5, 8, 0), (3, 8, 16, 1), (8, 12, 32, 2)]


@pytest.mark.parametrize("scales", SCALES)
def test_whole_volume_has_no_trim_and_no_slices_outside(scales):
    plan, factor = window_plan(scales, None, 1, 8), 1
    for scale, window in zip([1, *scales], plan, strict=True):
        factor *= scale
        assert (window.first, window.count, window.total, window.trim) == (0, 8 * factor, 8 * factor, 0)
        assert window.outside == (0, 0)


@pytest.mark.parametrize("scales", SCALES)
def test_int_start_equals_tensor_start(scales):
    starts = torch.arange(6)
    batched = window_plan(scales, starts, 3, 8)
    for start in range(6):
        for one, many in zip(window_plan(scales, start, 3, 8), batched, strict=True):
            assert (one.count, one.total, one.trim) == (many.count, many.total, many.trim)
            assert one.first == int(many.first[start])
            x = torch.rand(1, 2, one.count, 1, 3) + 1
            many = Window(many.first[start : start + 1], many.count, many.total, many.trim)
            assert torch.equal(one.zero_outside_(x.clone()), many.zero_outside_(x.clone()))


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("start", range(6))
def test_last_window_is_the_requested_one_and_each_layer_has_the_slices_it_reads(scales, start):
    plan, factor = window_plan(scales, start, 3, 8), torch.tensor(scales).prod().item()
    assert (plan[-1].first, plan[-1].count) == (factor * start, factor * 3)
    for scale, x, y in zip(scales, plan, plan[1:], strict=False):
        assert 0 <= y.trim <= scale  # what the convolutions of ops support
        # Output slice i reads slices (i - 1) // scale to (i + 1) // scale of the input: all lie in its window.
        assert (y.first - 1) // scale >= x.first
        assert (y.first + y.count) // scale < x.first + x.count
        assert y.count == scale * x.count - 2 * y.trim


def test_zeros_are_exactly_the_slices_outside_of_the_volume():
    x = Window(torch.tensor([-2, 0, 3]), 4, 5, 0).zero_outside_(torch.ones(3, 1, 4, 1, 1)).flatten(1)
    assert x.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert Window(-2, 9, 5, 0).zero_outside_(torch.ones(1, 1, 9, 1, 1)).flatten().tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        1,
        0,
        0,
    ]
