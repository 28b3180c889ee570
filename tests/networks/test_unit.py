"""The networks of UNIT: attention against its formula, and shared blocks."""

import pytest
import torch

from hagan3d.methods.unit.config import UNITConfig
from hagan3d.methods.unit.networks import SelfAttention, UNITNetworks
from hagan3d.peak_memory import PeakMemory


def test_attention_is_the_softmax_of_all_pairs():
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    x = torch.randn(2, 16, 2, 3, 4, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # gamma starts at 0
    torch.nn.init.constant_(layer.gamma, 0.7)
    f, g, h = (conv(x).flatten(2) for conv in (layer.f, layer.g, layer.h))
    weights = torch.einsum("bci,bcj->bij", f, g).softmax(2)
    attended = torch.einsum("bij,bcj->bci", weights, h).unflatten(2, (2, 3, 4))
    torch.testing.assert_close(layer(x), 0.7 * layer.o(attended) + x)


def test_both_domains_use_the_shared_blocks():
    torch.manual_seed(0)
    settings = UNITConfig(width=4, critic_width=4, critic_layers=2)
    nets = UNITNetworks((32, 32, 32), settings).requires_grad_(False)
    x = torch.randn(1, 1, 32, 32, 32)
    before = [nets.encode(name, x) for name in ("source", "target")]
    assert before[0].shape == (1, 16, 8, 8, 8)
    nets.e_shared[0].change[0].weight.mul_(2)
    after = [nets.encode(name, x) for name in ("source", "target")]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_memory_of_attention_is_linear_in_the_voxels(training):
    layer = SelfAttention(64)
    torch.nn.init.constant_(layer.gamma, 0.5)
    peaks = {}
    for side in (8, 16, 32):
        x = torch.randn(1, 64, side, side, side // 4, requires_grad=training)
        with torch.set_grad_enabled(training), PeakMemory([x, *layer.parameters()]) as memory:
            y = layer(x)
            if training:
                y.square().mean().backward()
        peaks[side**2 * (side // 4)] = memory.peak
    (small, least), (middle, more), (large, most) = peaks.items()
    slope = (most - more) / (large - middle)
    assert slope == pytest.approx((more - least) / (middle - small), rel=0.15)
    assert most < 0.25 * 4 * large**2  # one matrix of all pairs in float32 is four times as large
