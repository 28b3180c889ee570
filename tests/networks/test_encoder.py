"""The encoders: latents stay near the prior while E^G learns; without norm they keep the contrast of a volume."""

import pytest
import torch

from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.hagan.encoder import GroundEncoder, HighEncoder, encode
from hagan3d.methods.hagan.networks import HAGANNetworks


def test_a_step_of_its_last_layer_moves_z_by_a_small_part_of_its_deviation():
    torch.manual_seed(0)
    encoder = GroundEncoder((8, 8, 8), 64, 128)
    a = torch.randn(4, 64, 8, 8, 8)
    optimizer = torch.optim.Adam(encoder.last.parameters(), lr=4e-4, betas=(0.0, 0.99))
    before = encoder(a)
    before.sum().backward()
    optimizer.step()
    change = (encoder(a) - before).detach()
    assert before.square().mean().sqrt() < 1
    assert 0.005 < change.square().mean().sqrt() < 0.1  # without the equalized learning rate it would be 3


@pytest.mark.parametrize(("norm", "least", "most"), [("none", 0.25, 0.75), ("group", 0, 0.15)])
def test_latents_show_half_the_contrast_only_without_norm(norm, least, most):
    torch.manual_seed(0)
    e_h, e_g = HighEncoder(4, 16, norm=norm), GroundEncoder((8, 8, 8), 16, 64, norm=norm)
    x = torch.randn(8, 1, 32, 32, 32)
    with torch.no_grad():
        z, half = encode(e_h, e_g, [x]), encode(e_h, e_g, [0.5 * x])
    assert least < float((z - half).norm() / z.norm()) < most


def test_without_norm_features_keep_their_size():
    torch.manual_seed(0)
    with torch.no_grad():
        a = HighEncoder(16, 64, norm="none")(torch.randn(2, 1, 64, 64, 64))
    assert 0.3 < float(a.square().mean().sqrt()) < 3


@pytest.mark.parametrize(("norm", "blocks"), [("group", 3), ("none", 0)])
def test_both_encoders_have_the_norm_of_the_settings(norm, blocks):
    nets = HAGANNetworks((32, 32, 32), 16, HAGANConfig(channels=64, d_channels=64, latent_dim=16, encoder_norm=norm))
    counts = [sum(isinstance(module, torch.nn.GroupNorm) for module in e.modules()) for e in (nets.e_h, nets.e_g)]
    assert counts == [blocks, min(blocks, 1)]
