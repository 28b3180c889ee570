"""One update of a phase: averages of later stages, spectral norms, logged terms; what previews and ranks see."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.data.store.store import Store
from hagan3d.engine.distributed import Distributed
from hagan3d.engine.trainer import Trainer
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import CPU, make_config
from tests.methods.small import make_updates, pair_batch, run_phase, run_steps, small_config


class TwoAlike(Distributed):
    """The first of two ranks that see the same volumes."""

    def average(self, gradients):
        pass

    def mean(self, terms, flag):
        return dict(terms), flag

    def check_same_on_all_ranks(self, facts):
        pass


def trainer_of(store_path, out, distributed=None, **settings):
    sizes = {"latent_dim": 8, "channels": 64, "d_channels": 64, "subvolume_depth": 8, "batch_size": 2, "device": "cpu"}
    config = make_config("hagan", **sizes, steps=1, log={"preview_every": 1}, **settings)
    store, method = Store(store_path), make_method(config)
    source = method.batches(store, 2)
    more = {"distributed": distributed} if distributed else {}
    return Trainer(method, make_networks(config), source, store.description(), out, CPU, **more)


def test_the_average_of_a_later_stage_warms_up_from_its_own_first_step():
    updates = make_updates(small_config("upgan", ema=0.9, stages=2, stage_steps=3))
    before = updates.networks.g_2.unet.stem.conv.weight.detach().clone()
    run_phase(updates, "g_2", pair_batch(2, 16))
    after = updates.networks.g_2.unet.stem.conv.weight.detach()
    average = updates.averages["g_2"].state["unet.stem.conv.weight"]
    assert not torch.equal(before, after)
    torch.testing.assert_close(average, 0.1 * before + 0.9 * after)  # (1 + 0) / (10 + 0)


def test_an_average_goes_on_where_another_phase_updates_its_network():
    updates = make_updates(small_config("upgan", ema=0.9, stages=2, stage_steps=3))
    joint = next(phase for phase in updates.phases if phase.name == "g")
    run_phase(updates, "g", pair_batch(2, 16))
    assert joint.first == 6 and updates.first_updates == {"g_1": 0, "g_2": 3}
    for name, step in (("g_1", 6), ("g_2", 3)):
        decay, found = (1 + step) / (10 + step), updates.averages[name].state["unet.stem.conv.weight"]
        after = updates.networks[name].unet.stem.conv.weight.detach()
        torch.manual_seed(0)
        before = make_networks(small_config("upgan", ema=0.9, stages=2, stage_steps=3))[name].unet.stem.conv.weight
        torch.testing.assert_close(found, decay * before.detach() + (1 - decay) * after)


def test_an_update_runs_one_power_iteration_before_it(small_store, tmp_path):
    trainer = trainer_of(small_store, tmp_path, accumulate=2)
    conv, matrix = trainer.networks.d_h.convs[0], trainer.networks.d_h.convs[0].weight.detach().flatten(1).clone()
    v = torch.nn.functional.normalize(matrix.T @ conv.u, dim=0)
    expected = torch.nn.functional.normalize(matrix @ v, dim=0)
    batch = dataclasses.replace(trainer.source.batch(0), phase="d", state=trainer.state)
    trainer.updates.run(trainer.phases[0], batch)
    torch.testing.assert_close(conv.u, expected)
    torch.testing.assert_close(conv.v, v)


def test_logged_terms_are_means_over_micro_batches():
    found = []
    for accumulate in (1, 2):
        updates = make_updates(small_config("pix2pix", accumulate=accumulate, norm="rms", dropout=False))
        found.append(run_phase(updates, "g", pair_batch(2, 16)))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_previews_show_averaged_weights_and_leave_those_of_training(small_store, tmp_path):
    trainer, seen = trainer_of(small_store, tmp_path, ema=0.5), []
    trainer.step(trainer.source.batch(0))
    raw = trainer.networks.g.low[2].weight.detach().clone()
    average = trainer.updates.averages["g"].state["low.2.weight"].clone()
    shown = SimpleNamespace(write=lambda _, networks, __: seen.append(networks.g.low[2].weight.detach().clone()))
    trainer._preview_if_due(shown)
    assert torch.equal(seen[0], average) and not torch.equal(average, raw)
    assert torch.equal(trainer.networks.g.low[2].weight.detach(), raw)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_probability_of_augmentation_follows_the_volumes_of_all_ranks(world_size, small_store, tmp_path):
    config = DiffAugConfig(probability=0.5, adaptive=True, brightness=0.1, ramp=1000)
    trainer = trainer_of(small_store, tmp_path, TwoAlike(0, world_size), diffaug=config)
    trainer.step(trainer.source.batch(0))
    (probability,) = trainer.state.values()
    assert abs(probability - 0.5) == pytest.approx(2 * world_size / 1000)


def test_a_stage_that_ends_takes_its_average():
    config = small_config("upgan", ema=0.9, stages=2, stage_steps=3, steps=8)
    updates, batch = make_updates(config), pair_batch(side=16)

    def apart(name: str) -> float:
        state, average = updates.networks[name].state_dict(), updates.averages[name].state
        return max(float((state[key] - average[key]).abs().max()) for key in state)

    run_steps(updates, batch, 2)
    assert apart("g_1") > 0
    run_steps(updates, batch, 3)
    assert apart("g_1") == 0 and apart("g_2") == 0
