"""Beyond 2^31 elements. The memory of these tensors is never written but for a few pages, and so never taken."""

import pytest
import torch

from hagan3d.ops import select_subvolume

SIDE = 1024
DEPTH = 2**31 // SIDE**2 + 8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_window_lies_right_beyond_2_to_the_31_elements(axis):
    x = torch.empty(1, 1, DEPTH, SIDE, SIDE, dtype=torch.float16)
    marked = x[0, 0, -8:, -8:, -8:]
    marked.copy_(torch.arange(512).view(8, 8, 8))
    seen = x if axis == 0 else x[:, :, -8:]
    window = select_subvolume(seen, torch.tensor([x.shape[2 + axis] - 8]), 8, axis)
    assert torch.equal(window[0, 0, -8:, -8:, -8:], marked)
