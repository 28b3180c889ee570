"""Training that starts from the weights of another run, and parts that do not learn."""

from dataclasses import replace

import pytest
import torch

from hagan3d import cli, train
from hagan3d.checkpoint import files
from hagan3d.engine.initial_weights import take_weights
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_networks
from tests.helpers import changed_networks, weights
from tests.methods.small import make_trainer, make_updates, run_steps, small_batch, small_config


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    """A pix2pix run of two steps."""
    out = tmp_path_factory.mktemp("first") / "run"
    make_trainer(small_store, out, small_config("pix2pix", steps=2, ema=0.5)).run()
    return out


def test_all_weights_of_the_same_networks_are_taken_averaged_where_they_are(run):
    networks = make_networks(small_config("pix2pix"))
    rows = take_weights(networks, run)
    checkpoint = files.load(files.newest(run))
    for key, value in networks.g.state_dict().items():
        assert torch.equal(value, checkpoint.ema["g"][key])
    for key, value in networks.d.state_dict().items():
        assert torch.equal(value, checkpoint.networks["d"][key])
    assert [(row.network, row.first_left) for row in rows] == [("g", ""), ("d", "")]
    assert all(row.taken == row.total > 0 for row in rows)


def test_what_does_not_fit_keeps_its_initial_values_and_is_named(run):
    torch.manual_seed(1)
    networks = make_networks(small_config("pix2pix", source_channels=2, critic_layers=2))
    before = weights(networks)
    g, d = take_weights(networks, run)
    assert g.taken == g.total - 1 and g.first_left.startswith("downs.0.weight ([4, 2, 4, 4, 4] here, [4, 1, 4, 4, 4]")
    assert torch.equal(before["g.downs.0.weight"], networks.g.downs[0].weight)
    assert "not in that run" in str(d) or "here" in str(d)


def test_spectral_norms_fit_the_weights_that_stayed(small_store, tmp_path):
    settings = {"spectral_norm": True, "prior": "normal"}
    make_trainer(small_store, tmp_path / "first", small_config("hagan", steps=1, **settings)).run()
    networks = make_networks(replace_data(small_config("hagan", **settings), channels=2))
    take_weights(networks, tmp_path / "first")
    for network in (networks.d_h, networks.d_l):
        assert all(sigma(layer) > 0.3 for layer in network.modules() if hasattr(layer, "iterate"))


def replace_data(config, **changed):
    """Return a config with other settings of its data."""
    return replace(config, data=replace(config.data, **changed))


def sigma(layer):
    """Return the estimate of the largest singular value of a layer's weight, as a fraction of the exact one."""
    exact = torch.linalg.matrix_norm(layer.matrix(), 2)
    return float(torch.dot(layer.u, layer.matrix() @ layer.v) / exact)


def test_a_run_takes_them_once_and_resumes(run, small_store, tmp_path, capsys):
    out = tmp_path / "second"
    narrow = ("width 4", "levels 2", "critic_width 4", "critic_layers 1")
    small = " ".join(f"--pix2pix.{setting}" for setting in narrow)
    data = f"--data.store {small_store} --data.degrade.kind noise --train.device cpu --log.preview_every 0"
    words = f"--config pix2pix_32 {data} {small} --out {out} --train.weights {run} --train.freeze g.downs".split()
    assert cli.run(train.main, [*words, "--train.steps", "1"]) == 0
    printed = capsys.readouterr().err
    assert f"weights of {run}:" in printed and "\n  g: " in printed
    first, second = (files.load(files.newest(folder)) for folder in (run, out))
    for key, value in second.networks["g"].items():
        assert torch.equal(value, first.ema["g"][key]) == key.startswith("downs."), key
    assert cli.run(train.main, [*words, "--train.steps", "2"]) == 0
    assert "weights of" not in capsys.readouterr().err


@pytest.mark.parametrize(("method", "whole"), [("hagan", "g"), ("cyclegan", "d_source"), ("unit", "g_target")])
def test_a_whole_network_can_be_frozen(method, whole, small_store):
    config = small_config(method, freeze=(whole,))
    updates, batch = make_updates(config), small_batch(config, small_store)
    learning = {name for phase in updates.phases for name in phase.updates} - {whole}
    before = weights(updates.networks)
    run_steps(updates, batch, 2)
    assert learning <= changed_networks(before, weights(updates.networks))
    for name, parameter in updates.networks[whole].named_parameters():  # its buffers are not frozen
        assert torch.equal(parameter, before[f"{whole}.{name}"])


@pytest.mark.parametrize(
    ("method", "part"), [("pix2pix", "g.downs"), ("hagan", "g.common"), ("upgan", "g_1.unet.stem")]
)
def test_frozen_parts_stay_as_they_are(method, part, small_store):
    config = small_config(method, freeze=(part,))
    updates, batch = make_updates(config), small_batch(config, small_store)
    before = weights(updates.networks)
    run_steps(updates, batch, 2)
    after = weights(updates.networks)
    frozen = [key for key, _ in updates.networks.named_parameters() if key.startswith(f"{part}.")]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert part.split(".")[0] in changed_networks(before, after)  # the rest of the network learns


def test_less_memory_is_counted_for_what_does_not_learn(small_store):
    sizes = []
    for freeze in ((), ("g.downs",)):
        updates = make_updates(small_config("pix2pix", freeze=freeze))
        sizes.append(sum(p.numel() for group in updates.optimizers["g"].param_groups for p in group["params"]))
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ("g.nothing",)}, "train.freeze g.nothing: no such part; there are g, d, d.convs"),
        ({"freeze": ("g.down",)}, "train.freeze g.down: no such part"),
        ({"freeze": ("d",)}, "nothing is left to learn for the phase d"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        make_updates(small_config("pix2pix", **settings))
    assert "\n" not in str(error.value)


def test_runs_that_do_not_fit_are_one_line(run, tmp_path):
    with pytest.raises(InputError, match="no checkpoint in this folder"):
        take_weights(make_networks(small_config("pix2pix")), tmp_path)
    with pytest.raises(InputError, match="no tensor fits by name and shape: that run is of method pix2pix"):
        take_weights(make_networks(small_config("unit")), run)
