"""Peak memory: each storage is counted once, as long as it is allocated."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.engine.step_memory import count_step
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.peak_memory import PeakMemory
from tests.helpers import make_config

KIB = 1024


def test_storages_are_counted_once_until_they_are_freed():
    with PeakMemory() as memory:
        x = torch.zeros(256)  # 1 KiB
        view = x.view(16, 16)[1:]
        assert memory.now == KIB
        y = x + 1
        assert memory.now == 2 * KIB
        del x, view
        assert memory.now == KIB
        y.mul_(2)
        assert (memory.now, memory.peak) == (KIB, 2 * KIB)
        memory.reset_peak()
        assert memory.peak == KIB


def test_sizes_are_rounded_up_to_blocks_and_existing_tensors_count():
    before = torch.zeros(3)
    with PeakMemory([before, before[1:]]) as memory:
        assert memory.now == 512
        after = torch.zeros(129)
        assert memory.now == 512 + 1024
        del after
    assert memory.now == 512


def peaks():
    """Peak memory of one forward and backward pass of G."""
    torch.manual_seed(0)
    nets = make_networks(make_config("hagan", latent_dim=8, channels=64, d_channels=64))
    with PeakMemory(nets.state_dict().values()) as memory:
        window, low = nets.g(torch.randn(2, 8), torch.zeros(2, dtype=torch.int64))
        (window.mean() + low.mean()).backward()
        return memory.peak


def test_fake_tensors_count_as_real_ones():
    real = peaks()
    with FakeTensorMode():
        fake = peaks()
    assert real > 1_000_000
    assert abs(fake - real) <= 0.01 * real


@pytest.mark.slow
@pytest.mark.parametrize("train", [{}, {"checkpointing": True, "precision": "bf16"}])
def test_a_whole_step_counts_the_same_fake_and_real(train):
    sizes = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2}
    method = make_method(make_config("hagan", **sizes, diffaug=DiffAugConfig(translate=0.1, brightness=0.1), **train))
    fake, real = count_step(method), count_step(method, fake=False)
    assert fake.keys() == real.keys() == {"d", "g", "e_h", "e_g", "static"}
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.01 * real[name], name


@pytest.mark.parametrize("state", ["fp32", "lean", "bf16", "8bit", "offload"])
def test_every_optimizer_state_is_counted_in_fp16(state):
    sizes = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2}
    method = make_method(make_config("hagan", **sizes, precision="fp16", optimizer_state=state))
    assert count_step(method, kind="cuda")["static"] > 0


@pytest.mark.parametrize("depth", [20, 28])
def test_a_last_slab_that_is_thinner_is_counted(depth):
    sizes = {"latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2, "autoencode": 1.0}
    method = make_method(make_config("hagan", subvolume_depth=depth, **sizes))
    fake, real = count_step(method), count_step(method, fake=False)
    assert fake == {name: pytest.approx(value, rel=0.01) for name, value in real.items()}
    assert [slab.shape[2] for slab in method.zero_batch().slabs()] == [depth, 32 - depth]
