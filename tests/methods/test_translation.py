"""Translation methods: stages, and that they learn a pair by heart. What holds of every method is in test_methods."""

import math
from dataclasses import replace

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.config.methods import config_class
from tests.helpers import assert_equal
from tests.methods.small import WINDOWED, make_trainer, make_updates, pair_batch, run_steps, small_batch, small_config


@pytest.mark.slow
def test_the_end_of_each_stage_is_kept(small_store, tmp_path):
    make_trainer(small_store, tmp_path, small_config("upgan")).run()
    assert [path.stem for path in files.all_of(tmp_path)] == ["step-00000002", "step-00000004", "step-00000006"]
    first, second, _ = (files.load(path) for path in files.all_of(tmp_path))
    assert_equal(first.networks["g_1"], second.networks["g_1"])  # frozen while stage 2 learns
    assert not torch.equal(
        first.networks["g_2"]["unet.stem.conv.weight"], second.networks["g_2"]["unet.stem.conv.weight"]
    )


@pytest.mark.parametrize("method", WINDOWED)
@pytest.mark.slow
def test_a_method_learns_a_pair_by_heart(method, small_store):
    """Methods that compare with a target voxel by voxel gain 3 dB in 40 steps."""
    stage = {"stages": 1, "stage_steps": 40, "parts": (1.0, 0.0, 0.0)} if method == "upgan" else {}
    weight = {"l1_weight": 1.0} if hasattr(config_class(method), "l1_weight") else {}
    model = {"width": 8, "residual": True, "adversarial_weight": 1e-3, **weight, **stage}
    config = small_config(method, steps=40, lr_g=2e-3, **model)
    updates, batch = make_updates(config), small_batch(config, small_store)

    def psnr():
        with torch.no_grad():
            mean = updates.networks.translate(batch.source).mean
        return -10 * math.log10((mean - batch.target).square().mean() / 4)

    before = psnr()
    run_steps(updates, batch, config.train.steps)
    assert psnr() > before + 3


UNPAIRED = {
    "cyclegan": {"pool": 0, "identity_weight": 0.0, "cycle_weight": 2.0},
    "unit": {"attention": "none", "spectral_norm": "none", "trunk_width": None},
}


@pytest.mark.parametrize("method", UNPAIRED)
@pytest.mark.slow
def test_a_method_without_pairs_learns_two_domains_of_four_by_heart(method):
    """The second domain is the first in another brightness and inverted contrast, each batch in another order."""
    settings = {"width": 8, "critic_width": 8, "batch_size": 4, "lr_g": 2e-3, "lr_d": 2e-3, **UNPAIRED[method]}
    config = small_config(method, steps=100, **settings)
    updates, batch = make_updates(config), pair_batch(4, 16)
    source, target = 0.4 * batch.target + 0.5, -0.4 * batch.target - 0.4
    run_steps(updates, replace(batch, source=source, target=target[[1, 2, 3, 0]], mask=None), config.train.steps)
    with torch.no_grad():
        made = updates.networks.translate(source).mean
    before, after = (-10 * math.log10((x - target).square().mean() / 4) for x in (source, made))
    assert after > before + 10
    assert torch.corrcoef(torch.stack([made.flatten(), target.flatten()]))[0, 1] > 0.3  # the source has -1
