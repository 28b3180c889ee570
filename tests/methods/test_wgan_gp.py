"""WGAN-GP: its losses against the formulas, its two speeds, and the way from training to volumes."""

import dataclasses
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hagan3d import cli, generate, plan, train
from hagan3d.data.store.store import Store
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.methods.wgan_gp.networks import VolumeGenerator
from hagan3d.networks.layers import VolumeOutput
from tests.helpers import make_config

SMALL = {"latent_dim": 8, "width": 8, "critic_steps": 2, "batch_size": 2, "device": "cpu"}


def batch_of(store_path, method, step=0):
    batch = method.batches(Store(store_path), 2).batch(step)
    return dataclasses.replace(batch, phase="d")


def test_critic_terms_are_those_of_the_paper(small_store):
    method = make_method(make_config("wgan_gp", **SMALL, gp_weight=10.0))
    torch.manual_seed(0)
    nets = make_networks(method.config)
    batch = batch_of(small_store, method)
    terms = method.d_loss(nets, batch)
    real, fake = batch.window, nets.g(batch.normal("z", 8)).detach()
    t = torch.from_numpy(batch.uniform("mix", 1))[:, :, None, None, None]
    between = (real + t * (fake - real)).requires_grad_()
    (gradient,) = torch.autograd.grad(nets.d(between).sum(), between)
    torch.testing.assert_close(terms["gan"], nets.d(fake).mean() - nets.d(real).mean())
    torch.testing.assert_close(terms["gp"], ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean())


def test_generator_loss_is_minus_the_mean_score(small_store):
    method = make_method(make_config("wgan_gp", **SMALL))
    nets = make_networks(method.config)
    batch = batch_of(small_store, method)
    expected = -nets.d(nets.g(batch.normal("z", 8))).mean()
    torch.testing.assert_close(method.g_loss(nets, batch)["gan"], expected)


@pytest.mark.parametrize("size", [(288, 288, 544), (256, 256, 288), (32, 32, 96)])
def test_generated_volumes_have_the_size_of_the_data(size):
    with FakeTensorMode(), torch.no_grad():
        made = VolumeGenerator(size, 4, 8, VolumeOutput(1, 0))(torch.zeros(1, 4))
    assert made.shape == (1, 1, *size)


def test_the_generator_learns_in_every_second_step():
    method = make_method(make_config("wgan_gp", **SMALL))
    due = [[phase.name for phase in method.phases() if phase.is_due(step)] for step in range(3)]
    assert due == [["d", "g"], ["d"], ["d", "g"]]


def test_uniform_latents_fill_the_interval_evenly():
    config = make_config("wgan_gp", **SMALL, latent="uniform")
    nets = make_networks(config)
    z = nets.latent(torch.randn(20000, 8, generator=torch.Generator().manual_seed(0)))
    counts = torch.histc(z, 10, -1, 1) / z.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.005, rtol=0)
    torch.testing.assert_close(z.T.cov(), nets.prior_covariance(), atol=0.02, rtol=0)
    assert float(z.square().mean()) == pytest.approx(nets.prior_mean_square(), rel=0.01)
    assert make_networks(make_config("wgan_gp", **SMALL)).prior_mean_square() == 1


def test_cross_entropy_has_no_gradient_penalty(small_store):
    method = make_method(make_config("wgan_gp", **SMALL | {"critic_steps": 1}, objective="bce", latent="uniform"))
    nets, batch = make_networks(method.config), batch_of(small_store, method)
    assert method.d_loss(nets, batch).keys() == {"gan"} and all(not phase.penalised for phase in method.phases())
    nets.d.logits.weight.data.zero_()
    nets.d.logits.bias.data.fill_(3.0)  # D is certain that everything is real
    expected = math.log1p(math.exp(-3)), math.log1p(math.exp(-3)) + math.log1p(math.exp(3))
    assert float(method.g_loss(nets, batch)["gan"]) == pytest.approx(expected[0])
    assert float(method.d_loss(nets, batch)["gan"]) == pytest.approx(expected[1])


@pytest.mark.slow
def test_from_training_to_volumes(small_store, tmp_path, capsys):
    run = tmp_path / "run"
    options = f"--config wgan_gp_32 --data.store {small_store} --wgan_gp.width 8 --train.batch_size 2"
    assert cli.run(plan.main, f"{options} --vram 16GB".split()) == 0
    assert "fits" in capsys.readouterr().out
    length = "--train.steps 2 --train.device cpu --log.preview_every 2"
    assert cli.run(train.main, f"{options} {length} --out {run}".split()) == 0
    assert (run / "previews" / "step-00000002.png").exists()
    assert cli.run(generate.main, f"{run} --num 1 --out {tmp_path / 'volumes'} --device cpu".split()) == 0
    assert (tmp_path / "volumes" / "volume-000000.nii.gz").exists()
