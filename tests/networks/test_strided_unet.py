"""The strided U-Net: how far it goes down, and what of its options is refused."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.networks.flat_layers import flat_layers
from hagan3d.networks.strided_unet import StridedUNet

SEEDS = [1, 2]


def bottleneck(unet: StridedUNet, x: torch.Tensor) -> tuple[int, ...]:
    """Return the sides of the innermost feature map."""
    seen = []
    unet.downs[-1].register_forward_hook(lambda _, __, made: seen.append(tuple(made.shape[2:])))
    assert unet(x, SEEDS).shape == x.shape
    return seen[0]


@pytest.mark.parametrize("norm", ["instance", "rms"])
@pytest.mark.parametrize(
    ("size", "levels", "left"),
    [
        ((32, 32, 32), 5, (1, 1, 1)),
        ((16, 32, 64), 6, (1, 1, 1)),
        ((16, 24, 32), 4, (1, 3, 2)),
        ((8, 8, 8), 2, (2, 2, 2)),
    ],
)
def test_every_even_side_is_halved_down_to_one_voxel(norm, size, levels, left):
    torch.manual_seed(0)
    unet = StridedUNet(1, 1, size, width=4, levels=levels, norm=norm)
    assert bottleneck(unet, torch.randn(2, 1, *size)) == left


def test_slices_of_256_pixels_have_eight_levels_as_published():
    with flat_layers():
        unet = StridedUNet(1, 1, (1, 256, 256), width=4, levels=8, norm="instance")
    assert bottleneck(unet, torch.randn(2, 1, 1, 256, 256)) == (1, 1, 1)
    assert [conv.out_channels for conv in unet.downs] == [4, 8, 16, 32, 32, 32, 32, 32]  # published: 64 to 512
    assert len(unet.ups) == 8 and unet.downs[0].kernel_size == (1, 4, 4)


def test_a_single_voxel_learns_although_it_has_no_instance_norm():
    torch.manual_seed(0)
    unet = StridedUNet(1, 1, (8, 8, 8), width=4, levels=3, norm="instance")
    unet(torch.randn(2, 1, 8, 8, 8)).square().mean().backward()
    assert all(conv.weight.grad.abs().max() > 0 for conv in (*unet.downs, *unet.ups))


def test_more_levels_than_sides_can_be_halved_are_refused():
    with pytest.raises(
        InputError, match="levels 4: after 3 halvings 1 x 1 x 3 of 8 x 8 x 24 voxels are left; use at most 3"
    ):
        StridedUNet(1, 1, (8, 8, 24), width=4, levels=4, norm="instance")
