"""A sub-volume equals its window of the volume (norm: rms)."""

import pytest
import torch
from torch import nn

from hagan3d.methods.registry import make_networks
from hagan3d.networks.layers import Conv3d
from hagan3d.ops import extension
from tests.helpers import make_config


def networks(size, depth, **settings):
    torch.manual_seed(0)
    sizes = {"size": size, "subvolume_depth": depth, "latent_dim": 8, "channels": 64, "d_channels": 64}
    nets = make_networks(make_config("hagan", **sizes, **settings))
    for parameter in nets.g.high.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too: a wrong halo would show
    return nets


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32, 32), (64, 32, 96), (96, 64, 32)])
@pytest.mark.parametrize("high_convs", [0, 1, 2])
@pytest.mark.parametrize("upsample", ["folded", "plain"])
@pytest.mark.parametrize("output_skip", [False, True])
def test_every_window_equals_its_slices_of_the_volume(device, size, high_convs, upsample, output_skip):
    depth = size[0] // 8
    depth += -depth % 4
    g = networks(size, depth, high_convs=high_convs, upsample=upsample, output_skip=output_skip).g.to(device)
    z = torch.randn(1, 8, device=device)
    with torch.no_grad():
        volume = g.volume(z)
        assert volume.std() > 0.02
        for start in range(0, size[0] - depth + 1, g.factor):
            window, _ = g(z, torch.tensor([start], device=device))
            torch.testing.assert_close(window, volume[:, :, start : start + depth], atol=1e-5, rtol=0)


def test_every_sample_has_its_own_window():
    g = networks((32, 32, 32), 8).g
    z, starts = torch.randn(3, 8), torch.tensor([24, 0, 12])
    with torch.no_grad():
        windows, volumes = g(z, starts)[0], g.volume(z)
    for window, volume, start in zip(windows, volumes, starts.tolist(), strict=True):
        torch.testing.assert_close(window, volume[:, start : start + 8], atol=1e-5, rtol=0)


def test_the_gradient_of_a_window_reaches_its_halo():
    g = networks((32, 32, 32), 8).g
    a = torch.randn(1, 8, 8, 8, 8, requires_grad=True)
    g.high(a, torch.tensor([2]), 2).sum().backward()
    moved = a.grad.abs().sum((0, 1, 3, 4)) > 0
    assert moved.tolist() == [False, True, True, True, True, False, False, False]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_window_has_the_same_gradients_without_compiled_operators(device, kernels, monkeypatch, recompute):
    g = networks((32, 32, 32), 8, high_convs=1).g.double().to(device)
    g.high.recompute = recompute
    z, start, target = torch.randn(2, 8), torch.tensor([0, 24]), torch.randn(2, 1, 8, 32, 32)  # both ends of the volume
    z, start, target = z.double().to(device), start.to(device), target.to(device)

    def voxels_and_gradients():
        window, low = g(z, start)
        loss = (window * target).sum() + low.sum()
        return window, *torch.autograd.grad(loss, list(g.parameters()))

    compiled = voxels_and_gradients()
    for name in ("_NO_CPU", "_NO_CUDA"):
        monkeypatch.setattr(extension, name, "switched off")
    torch.testing.assert_close(compiled, voxels_and_gradients(), rtol=1e-7, atol=1e-7)


def test_windows_with_group_norm_are_as_published_but_not_exact():
    g = networks((32, 32, 32), 8, norm="group").g
    z = torch.randn(1, 8)
    with torch.no_grad():
        a = g.common(z)
        window = g.high(a, torch.tensor([2]), 2)
        torch.testing.assert_close(window, g.high(a[:, :, 2:4]))
        assert (window - g.volume(z)[:, :, 8:16]).abs().max() > 1e-3


def test_an_output_skip_adds_a_residual_to_the_low_resolution_volume():
    g = networks((32, 32, 32), 8, output_skip=True).g
    nn.init.zeros_(g.high.last.weight)
    nn.init.zeros_(g.high.last.bias)
    with torch.no_grad():
        a = g.common(torch.randn(2, 8))
        expected = g.low.logits(a)
        for _ in range(2):
            expected = nn.functional.interpolate(expected, scale_factor=2, mode="trilinear")
        torch.testing.assert_close(g.voxels(a), torch.tanh(expected), atol=1e-6, rtol=0)


def test_folded_and_plain_upsampling_are_the_same_function():
    folded, plain = networks((32, 32, 32), 8), networks((32, 32, 32), 8, upsample="plain")
    z = torch.randn(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded.g.volume(z), plain.g.volume(z), atol=1e-5, rtol=1e-4)


def test_a_convolution_to_one_channel_equals_conv3d():
    torch.manual_seed(0)
    conv = Conv3d(3, 1).double()
    x = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    for trim in (0, 1):
        expected = nn.functional.conv3d(x, conv.weight, conv.bias, padding=(1 - trim, 1, 1))
        torch.testing.assert_close(conv(x, trim), expected)
