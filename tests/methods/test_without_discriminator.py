"""With an adversarial weight of 0 a method with a target is plain regression: no discriminator learns or is asked."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method
from hagan3d.methods.restore.config import RestoreConfig
from tests.helpers import changed_networks, weights
from tests.methods.small import TRANSLATION, make_updates, run_steps, small_batch, small_config

OFF = {
    "medgan": {"critic_features": False, "style_share": 0.0, "content_share": 0.0},
    "restore": {"perceptual_share": 0.0},
}


@pytest.mark.parametrize("method", TRANSLATION)
def test_a_discriminator_that_no_term_needs_does_not_learn(method, small_store):
    config = small_config(method, adversarial_weight=0.0, **OFF.get(method, {}))
    assert not [phase.name for phase in make_method(config).phases() if phase.name.startswith("d")]
    updates, asked = make_updates(config), []
    for name, network in updates.networks.named_children():
        if name.startswith("d"):
            for module in network.modules():
                module.register_forward_hook(lambda *_: asked.append(1))
    before = weights(updates.networks)
    run_steps(updates, small_batch(config, small_store), config.train.steps)
    changed = changed_networks(before, weights(updates.networks))
    assert changed and not {name for name in changed if name[0] in "df"} and not asked


def test_restoration_without_a_discriminator_updates_g_in_every_step():
    settings = {"adversarial_weight": 0.0, "perceptual_share": 0.0, "critic_steps": 5}
    (phase,) = make_method(small_config("restore", **settings)).phases()
    assert phase.every == 1
    assert [phase.every for phase in make_method(small_config("restore", critic_steps=5)).phases()] == [5, 1]


def test_restoration_without_any_term_is_refused():
    with pytest.raises(InputError, match="restore: perceptual_share, adversarial_weight, .* are all 0; set one of"):
        RestoreConfig(l2_weight=0.0, adversarial_weight=0.0)


@pytest.mark.parametrize("method", ["medgan", "restore"])
def test_the_discriminator_learns_as_long_as_its_features_are_compared(method):
    phases = make_method(small_config(method, adversarial_weight=0.0)).phases()
    assert [phase.name for phase in phases] == ["g", "d"]


def test_the_l1_term_of_restoration(small_store):
    settings = {"l2_weight": 0.0, "nmse_weight": 0.0, "frequency_weight": 0.0, "slice_tv_weight": 0.0}
    settings |= {"gradient_weight": 0.0}
    config = small_config("restore", adversarial_weight=0.0, perceptual_share=0.0, l1_weight=2.0, **settings)
    method, batch = make_method(config), small_batch(config, small_store)
    nets = make_updates(config).networks
    (phase,) = method.phases()
    terms = phase.loss(nets, batch)
    with torch.no_grad():
        expected = (nets.generate(batch.source) - batch.target).abs().mean()
    assert terms.keys() == {"l1"} and phase.weights["l1"] == 2.0
    torch.testing.assert_close(terms["l1"].detach(), expected)
