"""What a window sees of its anchor is a part of the whole, and the anchor fits any size."""

import pytest
import torch
from torch.nn import functional as F

from hagan3d.config import DataConfig, TranslationConfig
from hagan3d.networks.hierarchical import Anchor, beside


def test_windows_see_the_slices_of_what_is_said_of_the_whole(device):
    source, said = torch.rand(3, 2, 8, 16, 24, device=device), torch.rand(3, 1, 8, 4, 6, device=device)
    start = torch.tensor([0, 12, 24], device=device)
    made = beside(source, said, start)
    whole = F.interpolate(said, scale_factor=4, mode="trilinear")
    assert made.shape == (3, 3, 8, 16, 24) and torch.equal(made[:, :2], source)
    for i, first in enumerate(start.tolist()):
        torch.testing.assert_close(made[i, 2], whole[i, 0, first : first + 8])


@pytest.mark.parametrize("size", [(32, 32, 32), (256, 256, 288), (32, 32, 512), (32, 64, 1024)])
def test_an_anchor_fits_any_size_and_begins_as_the_source(size):
    low = DataConfig(size=size).low_size
    assert max(low) <= 72  # voxels of the longest side
    anchor = Anchor(low, DataConfig(size=size).factor, TranslationConfig(width=4, residual=True, norm="rms"))
    source = torch.rand(1, 1, *low)
    assert torch.equal(anchor(source), source)
    assert anchor.unet.stem.conv.weight.shape[0] == 4
