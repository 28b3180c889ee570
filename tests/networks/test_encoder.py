"""E^G: its latents stay near the prior while it learns."""

import torch

from hagan3d.methods.hagan.encoder import GroundEncoder


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
