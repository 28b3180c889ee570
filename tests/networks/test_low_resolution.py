"""Hierarchical training: windows see their slices of the low-resolution prediction, and its network fits any size."""

import pytest
import torch
from torch.nn import functional as F

from hagan3d.config import DataConfig
from hagan3d.methods.upgan.config import UPGANConfig
from hagan3d.networks.translation import LowResolutionUNet, concat_low_resolution


def test_windows_see_their_slices_of_the_upsampled_prediction(device):
    source, prediction = torch.rand(3, 2, 8, 16, 24, device=device), torch.rand(3, 1, 8, 4, 6, device=device)
    start = torch.tensor([0, 12, 24], device=device)
    result = concat_low_resolution(source, prediction, start)
    whole = F.interpolate(prediction, scale_factor=4, mode="trilinear")
    assert result.shape == (3, 3, 8, 16, 24) and torch.equal(result[:, :2], source)
    for i, first in enumerate(start.tolist()):
        torch.testing.assert_close(result[i, 2], whole[i, 0, first : first + 8])


@pytest.mark.parametrize("size", [(32, 32, 32), (256, 256, 288), (32, 32, 512), (32, 64, 1024)])
def test_a_low_resolution_network_fits_any_size_and_starts_as_the_identity(size):
    low = DataConfig(size=size).low_size
    assert max(low) <= 72  # voxels of the longest side
    settings = UPGANConfig(width=4, residual=True, norm="rms")
    network = LowResolutionUNet(low, DataConfig(size=size).factor, settings)
    source = torch.rand(1, 1, *low)
    assert torch.equal(network(source), source)
    assert network.unet.stem.conv.weight.shape[0] == 4
