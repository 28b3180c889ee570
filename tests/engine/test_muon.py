"""Muon: matrices are made orthogonal, the rest is Adam's, and a resume changes nothing."""

import math

import pytest
import torch

from hagan3d.config import TrainConfig
from hagan3d.engine.muon import MOMENTUM, Muon, orthogonal
from hagan3d.engine.step_memory import count_step
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method
from tests.engine.small_runs import make_trainer, tiny_config
from tests.engine.test_lean_adam import trajectory
from tests.helpers import CPU, make_config


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (128, 3456)])
def test_singular_values_become_1_and_directions_stay(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    made = u.T @ orthogonal(x) @ v.T
    assert made.diagonal()[values > 0.01 * values.max()].min() > 0.6 and made.diagonal().max() < 1.25
    assert (made - torch.diag(made.diagonal())).abs().max() < 1e-3


def test_a_gradient_of_zeros_moves_nothing():
    assert torch.equal(orthogonal(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_matrices_move_along_orthogonal_momentum_and_the_rest_as_with_adam():
    random = torch.Generator().manual_seed(0)
    conv, bias, row, other = (
        torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((6, 4, 3, 3, 3), (6,), (1, 9), (6, 4))
    )
    start = conv.detach().clone()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in (bias, row, other)]
    optimizer = Muon([{"params": [conv, bias, row], "muon": True}, {"params": [other]}], 0.1, (0.0, 0.99))
    adam, first, expected = torch.optim.Adam(copies, lr=0.1, betas=(0.0, 0.99)), torch.zeros(6, 108), start.flatten(1)
    for _ in range(3):
        for p, copy in zip((conv, bias, row, other), (None, *copies), strict=True):
            p.grad = torch.randn(p.shape, generator=random)
            if copy is not None:
                copy.grad = p.grad.clone()
        gradient = conv.grad.flatten(1)
        first = MOMENTUM * first + (1 - MOMENTUM) * gradient
        step = orthogonal(MOMENTUM * first + (1 - MOMENTUM) * gradient) * math.sqrt(108) * 0.1
        assert 0.07 < step.square().mean().sqrt() < 0.12  # the learning rate
        expected = expected - step
        optimizer.step()
        adam.step()
    torch.testing.assert_close(conv.detach().flatten(1), expected)
    for p, copy in zip((bias, row, other), copies, strict=True):
        torch.testing.assert_close(p, copy)
    assert set(optimizer.state[conv]) == {"step", "exp_avg"}


@pytest.mark.parametrize(("bits", "home"), [(32, None), (16, None), (8, None), (32, CPU)])
def test_resuming_from_a_saved_state_changes_nothing(bits, home):
    def make(weights):
        return Muon([{"params": weights, "muon": True}], 0.1, (0.0, 0.99), bits, home)

    assert torch.equal(trajectory(make), trajectory(make, stop_after=2))


@pytest.mark.slow
def test_it_learns_the_networks_that_are_named(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path / "run", tiny_config(muon=("g",)))
    kinds = {name: type(optimizer).__name__ for name, optimizer in trainer.updates.optimizers.items()}
    assert kinds["g"] == "Muon" and kinds["d"] == "Adam"
    assert trainer.run()


def test_networks_that_there_are_not_are_named(small_store, tmp_path):
    with pytest.raises(InputError, match="train.muon f: no such network; there are g, d_h, d_l"):
        make_trainer(small_store, tmp_path / "run", tiny_config(muon=("f",)))
    with pytest.raises(InputError, match="train.optimizer apex: works without train.muon only; use --train.muon=."):
        TrainConfig(muon=("g",), optimizer="apex")


@pytest.mark.slow
def test_memory_is_counted_the_same_fake_and_real():
    sizes = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2}
    method = make_method(make_config("hagan", **sizes, muon=("g",)))
    fake, real = count_step(method), count_step(method, fake=False)
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.01 * real[name], name
