"""Windows of G^H equal the whole volume, with either norm."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hagan3d.methods.hagan.volume_windows import _statistics, volume_windows
from hagan3d.methods.registry import make_networks
from tests.helpers import make_config


def generator(size, norm, high_convs=0):
    torch.manual_seed(0)
    sizes = {"latent_dim": 8, "channels": 64, "d_channels": 64}
    g = make_networks(make_config("hagan", size=size, norm=norm, high_convs=high_convs, **sizes)).g
    for parameter in g.high.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases too: a wrong halo would show
    return g


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["rms", "group"])
@pytest.mark.parametrize(
    ("size", "depth"), [((32, 32, 32), 2), ((32, 64, 96), 3), ((96, 64, 32), 7), ((96, 32, 32), 30)]
)
@pytest.mark.parametrize("high_convs", [0, 1, 2])
@torch.no_grad()
def test_windows_equal_the_whole_volume(device, norm, size, depth, high_convs):
    g = generator(size, norm, high_convs).to(device)
    a = g.common(torch.randn(2, 8, device=device))
    windows = list(volume_windows(g.high, a, depth))
    assert [window.shape[2] for window in windows[:-1]] == [4 * depth] * (len(windows) - 1)
    # statistics of a whole volume in float32 are a little off themselves, so the whole pass is in float64
    exact = copy.deepcopy(g.high).double()
    whole = exact(a.double())
    assert whole.std() > 0.05
    torch.testing.assert_close(torch.cat(windows, dim=2).double(), whole, atol=1e-5, rtol=0)
    skip = torch.randn(2, 1, *a.shape[2:], device=device)
    added = torch.cat(list(volume_windows(g.high, a, depth, skip)), dim=2)
    torch.testing.assert_close(added.double(), exact(a.double(), skip=skip.double()), atol=1e-5, rtol=0)
    assert (added.double() - whole).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["rms", "group"])
@torch.no_grad()
def test_windows_of_a_published_generator_equal_the_whole_volume(norm):
    torch.manual_seed(0)
    g = make_networks(make_config("hagan", size=(128, 128, 128), norm=norm)).g
    a = g.common(torch.randn(1, 1024))
    windows = torch.cat(list(volume_windows(g.high, a, 5)), dim=2)
    torch.testing.assert_close(windows, g.high(a), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_window_thicker_than_the_volume_is_the_whole_volume():
    g = generator((32, 32, 32), "group")
    a = g.common(torch.randn(1, 8))
    (window,) = volume_windows(g.high, a, 100)
    torch.testing.assert_close(window, g.high(a), atol=1e-5, rtol=0)


def test_statistics_of_slabs_equal_those_of_the_volume():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((2, 16, 9, 3, 4)) * 0.01 + 1000)  # where sums of squares fail
    mean, variance = _statistics(x.split(4, dim=2), 8)
    groups = x.numpy().reshape(2, 8, -1)
    np.testing.assert_allclose(mean.numpy(), groups.mean(axis=2), rtol=1e-13)
    np.testing.assert_allclose(variance.numpy(), groups.var(axis=2), rtol=1e-7)


@torch.no_grad()
def test_windows_are_computed_lazily():
    g = generator((64, 32, 32), "rms")
    calls = []
    g.high.last.register_forward_hook(lambda *_: calls.append(1))
    windows = volume_windows(g.high, g.common(torch.randn(1, 8)), 4)
    assert not calls
    next(windows)
    assert len(calls) == 1


@pytest.mark.parametrize(("side", "depth"), [(32, 4), (256, 32), (512, 64), (1024, 64), (2048, 64)])
def test_windows_are_those_of_training_up_to_64_slices(side, depth):
    with torch.device("meta"):
        networks = make_networks(make_config("hagan", size=(side, side, side)))
    assert networks.default_depth() == depth
