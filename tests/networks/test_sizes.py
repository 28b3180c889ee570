"""Networks of every size: published parameter counts, and all sizes that are multiples of 32."""

from dataclasses import replace

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.hagan.discriminator import HighDiscriminator
from hagan3d.methods.hagan.encoder import encode
from hagan3d.methods.hagan.networks import HAGANNetworks
from tests.helpers import make_config

COUNTS = {  # side: G, D^H, D^L, E^H, E^G
    32: (52_518_210, 4_207_809, 33_025, 161_152, 17_827_584),
    64: (52_518_210, 4_470_017, 2_122_113, 161_152, 19_400_832),
    128: (52_518_210, 4_599_073, 2_642_369, 161_152, 19_663_168),
    256: (52_518_210, 4_630_833, 2_771_425, 161_152, 19_663_264),
}
SMALL = HAGANConfig(latent_dim=8, channels=64, d_channels=64)


@pytest.mark.parametrize("side", COUNTS)
def test_published_parameter_counts(side):
    with torch.device("meta"):
        nets = HAGANNetworks((side,) * 3, side // 8, HAGANConfig(norm="group"))
    counts = tuple(sum(p.numel() for p in nets[name].parameters()) for name in ("g", "d_h", "d_l", "e_h", "e_g"))
    assert counts == COUNTS[side]


@pytest.mark.parametrize(("num_classes", "inputs"), [(0, 1024), (3, 1027)])
def test_a_low_rank_first_layer_has_the_parameters_of_two_factors(num_classes, inputs):
    with torch.device("meta"):
        g = HAGANNetworks((256,) * 3, 32, HAGANConfig(fc_rank=128), num_classes).g
    assert sum(p.numel() for p in g.common.fc.parameters()) == inputs * 128 + 128 * 32_768 + 32_768
    assert sum(p.numel() for p in g.parameters()) == COUNTS[256][0] - 1024 * 32_768 + inputs * 128 + 128 * 32_768


def test_a_low_rank_first_layer_starts_with_the_variance_of_a_full_one():
    torch.manual_seed(0)
    whole, factors = (HAGANNetworks((32,) * 3, 8, replace(SMALL, latent_dim=64, fc_rank=rank)).g for rank in (0, 32))
    z = torch.randn(64, 64)
    deviations = [g.common.fc(z).std().item() for g in (whole, factors)]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.1)
    window, low = factors(z[:1], torch.zeros(1, dtype=torch.int64))
    assert window.shape == (1, 1, 8, 32, 32) and low.shape == (1, 1, 8, 8, 8)


def test_a_negative_rank_is_refused():
    with pytest.raises(InputError, match=r"hagan\.fc_rank: must be at least 0, got -1"):
        HAGANConfig(fc_rank=-1)


@pytest.mark.parametrize("side", [512, 1024])
def test_large_sizes_grow_by_levels_not_by_width(side):
    with torch.device("meta"):
        nets = HAGANNetworks((side,) * 3, side // 8, HAGANConfig())
    assert nets.g.factor == side // 64
    assert sum(p.numel() for p in nets.parameters()) == pytest.approx(79_744_884, rel=0.002)


@pytest.mark.parametrize(
    ("size", "depth"),
    [((32, 32, 32), 4), ((64, 96, 32), 8), ((32, 64, 160), 16), ((96, 32, 32), 96), ((96, 64, 32), 20)],
)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_size_runs(size, depth, num_classes):
    nets = HAGANNetworks(size, depth, SMALL, num_classes)
    z, start, label = torch.randn(2, 8), torch.tensor([0, size[0] - depth]), torch.tensor([0, num_classes - 1])
    window, low = nets.g(z, start, label if num_classes else None)
    assert window.shape == (2, 1, depth, *size[1:])
    assert low.shape == (2, 1, *(side // nets.g.factor for side in size))
    logits, classes = nets.logits(start, window, low)
    assert [logit.shape for logit in logits] == [(2,), (2,)]
    assert [head.shape for head in classes] == [(2, 3)] * (2 if num_classes else 0)
    volume = nets.g.volume(z, label if num_classes else None)
    assert volume.shape == (2, 1, *size)
    assert encode(nets.e_h, nets.e_g, list(volume.split(depth, 2))).shape == (2, 8)


@pytest.mark.parametrize("depth", [1, 3, 5, 7, 9, 12, 16, 20, 24, 28, 44, 60])
def test_d_h_sees_every_slice_of_a_window(depth):
    torch.manual_seed(0)
    d = HighDiscriminator((64, 32, 32), depth, channels=64).double()
    x = torch.randn(1, 1, depth, 32, 32, dtype=torch.float64, requires_grad=True)
    (slices,) = torch.autograd.grad(d(x, torch.tensor([0]))[0].sum(), x)
    assert (slices.abs().amax((0, 1, 3, 4)) > 0).all()


def test_logits_have_the_precision_of_float32_under_autocast():
    torch.manual_seed(0)
    nets = HAGANNetworks((32,) * 3, 8, SMALL)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        high, _ = nets.d_h(torch.randn(4, 1, 8, 32, 32), torch.zeros(4))
        low, _ = nets.d_l(torch.randn(4, 1, 8, 8, 8))
    for logits in (high, low):
        assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())


def test_a_volume_whose_sides_differ_too_much_is_refused_in_one_line():
    words = {"latent_dim": 8, "channels": 64, "d_channels": 64}
    make_config("hagan", size=(2048, 32, 32), **words)
    with pytest.raises(
        InputError, match="the low-resolution volume would have a side of 65 voxels, and 64 is the most"
    ):
        make_config("hagan", size=(2080, 32, 32), **words)
