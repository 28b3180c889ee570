"""What keeps G from making one volume: filters that start centred, and a D^L that sees how much volumes differ."""

import pytest
import torch

from hagan3d.config import Config, ModelConfig, TrainConfig
from hagan3d.errors import InputError
from hagan3d.methods.hagan.networks import Networks
from hagan3d.networks.layers import SpectralConv3d, SpectralLinear, minibatch_std

SMALL = {"latent_dim": 32, "channels": 64, "d_channels": 64}


def variety(init):
    """Share of the variance of A that the latent decides, at the start."""
    torch.manual_seed(0)
    nets = Networks((32, 32, 32), 16, ModelConfig(init=init, **SMALL))
    with torch.no_grad():
        a = nets.g.common(torch.randn(16, 32))
    spread = a - a.mean((0, 2, 3, 4), keepdim=True)
    return float((a - a.mean(0)).square().mean() / spread.square().mean())


def test_centred_filters_keep_latents_apart():
    assert variety("centred") > 1.2 * variety("default")


def test_centred_filters_do_not_see_a_constant():
    nets = Networks((32, 32, 32), 16, ModelConfig(init="centred", **SMALL))
    conv = nets.g.common.blocks[0].conv
    out = conv(torch.full((1, 64, 4, 4, 4), 3.0))
    torch.testing.assert_close(out, torch.zeros_like(out), atol=1e-5, rtol=0)


def test_minibatch_std_is_the_spread_of_each_group():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2, 2)
    x[3] = x[2]
    y = minibatch_std(x, 2)
    expected = x[:2].std(0, unbiased=False).mean()
    torch.testing.assert_close(y[:, :3], x)
    torch.testing.assert_close(y[:2, 3], expected.expand(2, 2, 2, 2))
    assert y[2:, 3].max() < 1e-3


def test_volumes_that_are_all_alike_are_told_from_others():
    torch.manual_seed(0)
    d_l = Networks((32, 32, 32), 16, ModelConfig(minibatch_std=2, **SMALL)).d_l
    one, other = torch.randn(2, 1, 1, 8, 8, 8)
    logits, _ = d_l(torch.cat([one, one, one, other]))
    assert torch.equal(logits[0], logits[1]) and not torch.isclose(logits[0], logits[2])


def test_spectral_norm_can_be_left_out():
    nets = Networks((32, 32, 32), 16, ModelConfig(spectral_norm=False, **SMALL))
    assert not any(isinstance(m, (SpectralConv3d, SpectralLinear)) for m in nets.modules())
    plain = sum(p.numel() for p in Networks((32, 32, 32), 16, ModelConfig(**SMALL)).parameters())
    assert sum(p.numel() for p in nets.parameters()) == plain


def test_groups_must_fit_the_batch():
    with pytest.raises(InputError, match="minibatch_std 4"):
        Config(model=ModelConfig(minibatch_std=4), train=TrainConfig(batch_size=8, accumulate=4))
    with pytest.raises(InputError, match="at least 2"):
        ModelConfig(minibatch_std=1)
    assert Config(model=ModelConfig(minibatch_std=3), train=TrainConfig(batch_size=6, autoencode=1.0)).group == 6
    with pytest.raises(InputError, match="autoencode 1 compare"):
        Config(train=TrainConfig(batch_size=4, accumulate=4, autoencode=1.0))


def test_autoencoding_wants_encoders():
    with pytest.raises(InputError, match="train.autoencode 0"):
        TrainConfig(autoencode=1.0, encoder=False)
