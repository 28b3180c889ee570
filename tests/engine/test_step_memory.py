"""The counter of live bytes: storages, once each, for as long as they live."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hagan3d.config import Config, DataConfig, DiffAugConfig, ModelConfig, TrainConfig
from hagan3d.engine.step_memory import count_step
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.hagan.networks import Networks
from hagan3d.peak_memory import LiveBytes

KIB = 1024


def test_counts_storages_once_and_lets_them_go():
    with LiveBytes() as live:
        x = torch.zeros(256)  # 1 KiB
        view = x.view(16, 16)[1:]
        assert live.now == KIB
        y = x + 1
        assert live.now == 2 * KIB
        del x, view
        assert live.now == KIB
        y.mul_(2)
        assert (live.now, live.peak) == (KIB, 2 * KIB)
        live.reset_peak()
        assert live.peak == KIB


def test_rounds_up_to_blocks_and_starts_from_what_is_there():
    before = torch.zeros(3)
    with LiveBytes([before, before[1:]]) as live:
        assert live.now == 512
        after = torch.zeros(129)
        assert live.now == 512 + 1024
        del after
    assert live.now == 512


def peaks():
    """Peak of one pass of G forward and backward."""
    torch.manual_seed(0)
    nets = Networks((32, 32, 32), 4, ModelConfig(latent_dim=8, channels=64, d_channels=64))
    with LiveBytes(nets.state_dict().values()) as live:
        window, low = nets.g(torch.randn(2, 8), torch.zeros(2, dtype=torch.int64))
        (window.mean() + low.mean()).backward()
        return live.peak


def test_fake_tensors_count_as_real_ones():
    real = peaks()
    with FakeTensorMode():
        fake = peaks()
    assert real > 1_000_000
    assert abs(fake - real) <= 0.01 * real


@pytest.mark.parametrize("train", [{}, {"checkpointing": True, "precision": "bf16"}])
def test_a_whole_step_counts_the_same_fake_and_real(train):
    config = Config(
        data=DataConfig(size=(32, 32, 32), subvolume_depth=8),
        model=ModelConfig(latent_dim=8, channels=64, d_channels=64),
        train=TrainConfig(batch_size=2, diffaug=DiffAugConfig(translate=0.1, brightness=0.1), **train),
    )
    recipe = hagan.recipe(config.train)
    fake, real = count_step(config, recipe), count_step(config, recipe, fake=False)
    assert fake.keys() == real.keys() == {"d", "g", "e_h", "e_g", "static"}
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.01 * real[name], name
