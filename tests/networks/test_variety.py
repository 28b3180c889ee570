"""Measures against mode collapse: centred filters, and a D^L with a minibatch standard deviation layer."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.registry import make_networks
from hagan3d.networks.layers import minibatch_std
from hagan3d.networks.spectral import SpectralConv3d, SpectralLinear
from tests.helpers import make_config

SMALL = {"latent_dim": 32, "channels": 64, "d_channels": 64, "subvolume_depth": 16}


def networks(**settings):
    return make_networks(make_config("hagan", **SMALL | settings))


def variety(init):
    """Share of the variance of A that depends on the latent, at initialization."""
    torch.manual_seed(0)
    nets = networks(init=init)
    with torch.no_grad():
        a = nets.g.common(torch.randn(16, 32))
    spread = a - a.mean((0, 2, 3, 4), keepdim=True)
    return float((a - a.mean(0)).square().mean() / spread.square().mean())


def test_centred_filters_separate_latents():
    assert variety("centred") > 1.2 * variety("default")


def test_centred_filters_ignore_a_constant_input():
    nets = networks(init="centred")
    conv = nets.g.common.blocks[0].conv
    out = conv(torch.full((1, 64, 4, 4, 4), 3.0))
    torch.testing.assert_close(out, torch.zeros_like(out), atol=1e-5, rtol=0)


def test_minibatch_std_is_the_standard_deviation_of_each_group():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2, 2)
    x[3] = x[2]
    y = minibatch_std(x, 2)
    expected = x[:2].std(0, unbiased=False).mean()
    torch.testing.assert_close(y[:, :3], x)
    torch.testing.assert_close(y[:2, 3], expected.expand(2, 2, 2, 2))
    assert y[2:, 3].max() < 1e-3


def test_d_l_distinguishes_a_batch_of_equal_volumes():
    torch.manual_seed(0)
    d_l = networks(minibatch_std=2).d_l
    one, other = torch.randn(2, 1, 1, 8, 8, 8)
    logits, _ = d_l(torch.cat([one, one, one, other]))
    assert torch.equal(logits[0], logits[1]) and not torch.isclose(logits[0], logits[2])


@pytest.mark.parametrize(("side", "width", "spectral"), [(32, 16, False), (64, 8, False), (32, 16, True)])
def test_d_l_can_have_convolutions_before_its_first_halving(side, width, spectral):
    size = {"size": (side,) * 3, "minibatch_std": 2, "spectral_norm": spectral, "subvolume_depth": side // 2}
    plain, deeper = networks(**size).d_l, networks(**size, d_low_convs=2).d_l
    first, second, *others = deeper.convs
    assert [tuple(conv.weight.shape) for conv in (first, second)] == [(width, 1, 3, 3, 3), (width, width, 3, 3, 3)]
    assert len(others) == len(plain.convs) and [conv.stride for conv in others] == [conv.stride for conv in plain.convs]
    logits, _ = deeper(torch.randn(2, 1, side // 4, side // 4, side // 4))
    assert logits.shape == (2,) and logits.isfinite().all()


def test_spectral_norm_can_be_switched_off():
    nets = networks(spectral_norm=False)
    assert not any(isinstance(m, (SpectralConv3d, SpectralLinear)) for m in nets.modules())
    plain = sum(p.numel() for p in networks().parameters())
    assert sum(p.numel() for p in nets.parameters()) == plain


def test_small_batches_have_smaller_groups():
    groups = {(4, 2): 2, (4, 4): 4, (4, 6): 3, (4, 1): 1, (4, 5): 1, (3, 6): 3, (8, 4): 4}
    for (setting, batch_size), expected in groups.items():
        assert make_config("hagan", minibatch_std=setting, batch_size=batch_size).group == expected
    assert networks(minibatch_std=4, batch_size=2).d_l.group == 2
    # with autoencode, groups hold whole pairs of latents
    for (setting, batch_size), expected in {(3, 6): 2, (4, 6): 2, (6, 6): 6, (0, 6): 2}.items():
        config = make_config("hagan", minibatch_std=setting, batch_size=batch_size, autoencode=1.0)
        assert config.group == expected


def test_micro_batches_must_hold_whole_groups():
    with pytest.raises(InputError, match="train.accumulate 4: .* groups of 4; .* of 16, or train.accumulate 2"):
        make_config("hagan", minibatch_std=4, batch_size=8, accumulate=4)
    with pytest.raises(InputError, match="train.accumulate 4: .* groups of 2"):
        make_config("hagan", batch_size=4, accumulate=4, autoencode=1.0)
    with pytest.raises(InputError, match="train.batch_size 3: hagan.autoencode compares pairs"):
        make_config("hagan", batch_size=3, autoencode=1.0)
    with pytest.raises(InputError, match="at least 2"):
        make_config("hagan", minibatch_std=1)


def test_autoencoding_needs_encoders():
    with pytest.raises(InputError, match="--hagan.autoencode 0"):
        make_config("hagan", autoencode=1.0, encoder=False)
