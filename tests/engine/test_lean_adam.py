"""Adam with less state on the device: torch's Adam is the reference, and the memory saved is counted."""

import io

import pytest
import torch

from hagan3d.config import TrainConfig
from hagan3d.engine import lean_adam
from hagan3d.engine.lean_adam import LeanAdam
from hagan3d.engine.step_memory import count_step
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method
from tests.helpers import CPU, make_config


def trajectory(make, steps=6, stop_after=None):
    """Weights after some steps along gradients that do not depend on them, perhaps with a stop on the way."""
    random = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(*shape, generator=random)) for shape in ((7, 5, 3), (4,))]
    optimizer = make(weights)
    for step in range(steps):
        if step == stop_after:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = make(weights)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random)
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("home", [None, CPU])
@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.5, 0.99)])
def test_weights_move_as_with_adam(monkeypatch, betas, home):
    monkeypatch.setattr(lean_adam, "CHUNK", 20)  # one row and two rows at a time
    expected = trajectory(lambda weights: torch.optim.Adam(weights, lr=0.1, betas=betas))
    torch.testing.assert_close(trajectory(lambda weights: LeanAdam(weights, 0.1, betas, home=home)), expected)


@pytest.mark.parametrize(("bits", "atol"), [(16, 0.02), (8, 0.1)])
@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.5, 0.99)])
def test_rounded_moments_move_weights_nearly_as_adam_does(betas, bits, atol):
    expected = trajectory(lambda weights: torch.optim.Adam(weights, lr=0.1, betas=betas))
    result = trajectory(lambda weights: LeanAdam(weights, 0.1, betas, bits))
    torch.testing.assert_close(result, expected, rtol=0, atol=atol)
    assert not torch.equal(result, expected)


@pytest.mark.parametrize(("bits", "home"), [(32, None), (16, None), (8, None), (32, CPU)])
@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.5, 0.99)])
def test_resuming_from_a_saved_state_changes_nothing(monkeypatch, bits, home, betas):
    monkeypatch.setattr(lean_adam, "CHUNK", 20)

    def make(weights):
        return LeanAdam(weights, 0.1, betas, bits, home)

    assert torch.equal(trajectory(make), trajectory(make, stop_after=2))


def test_the_first_moment_is_stored_only_with_a_nonzero_beta():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    for betas, names in (((0.0, 0.9), {"step", "exp_avg_sq"}), ((0.5, 0.9), {"step", "exp_avg_sq", "exp_avg"})):
        optimizer = LeanAdam([weight], 0.1, betas, 16)
        optimizer.step()
        state = optimizer.state[weight]
        assert set(state) == names and state["exp_avg_sq"].dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [16, 8])
def test_a_rounded_moment_forgets_as_fast_as_an_exact_one(bits):
    weight = torch.nn.Parameter(torch.zeros(10, 1000))
    optimizer = LeanAdam([weight], 0.1, (0.0, 0.999), bits)
    gradient = torch.rand(10, 1000, generator=torch.Generator().manual_seed(0)) + 0.5
    for step in range(301):
        weight.grad = gradient * (step == 0)
        optimizer.step()
    weight.grad = gradient
    before = weight.detach().clone()
    optimizer.step()
    exact = 0.001 * (0.999**301 + 1) / (1 - 0.999**302)  # of the squared gradient
    moved = (before - weight.detach()) / 0.1
    assert abs(moved.mean() * exact**0.5 - 1) < 0.01  # rounded to nearest, the old moment would not have decayed at all


def test_moments_of_8_bits_reach_the_same_loss():
    """A student network learns a teacher: the final loss is that of torch's Adam, within a few per cent."""

    def final_loss(make):
        torch.manual_seed(0)
        teacher = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 32))
        student = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.Tanh(), torch.nn.Linear(128, 32))
        x = torch.randn(512, 32)
        target = teacher(x).detach()
        optimizer = make(student.parameters())
        for step in range(400):
            rows = slice(64 * (step % 8), 64 * (step % 8) + 64)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(student(x[rows]), target[rows]).backward()
            optimizer.step()
        return torch.nn.functional.mse_loss(student(x), target).item()

    betas = (0.9, 0.999)
    exact = final_loss(lambda weights: torch.optim.Adam(weights, 1e-3, betas))
    assert final_loss(lambda weights: LeanAdam(weights, 1e-3, betas, 8)) == pytest.approx(exact, rel=0.03)


def tiny_method(**train):
    sizes = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2}
    return make_method(make_config("hagan", **sizes, **train))


@pytest.mark.slow
def test_memory_between_steps_shrinks_by_the_moments_that_are_not_stored(monkeypatch):
    monkeypatch.setattr(lean_adam, "CHUNK", 2**12)
    counts = {}
    for state in ("fp32", "lean", "bf16", "8bit", "offload"):
        counts[state] = count_step(tiny_method(optimizer_state=state))["static"]
    static = counts["offload"]
    moment = (counts["fp32"] - static) / 2
    assert moment > 1_000_000
    assert abs(counts["lean"] - static - moment) < 0.01 * moment
    assert abs(counts["bf16"] - static - moment / 2) < 0.02 * moment
    assert abs(counts["8bit"] - static - moment / 4) < 0.05 * moment  # a scale per row, of 8 weights in this small fc


@pytest.mark.slow
def test_offloaded_moments_count_the_same_fake_and_real():
    method = tiny_method(optimizer_state="offload", betas=(0.5, 0.9))
    fake, real = count_step(method), count_step(method, fake=False)
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.01 * real[name], name


def test_apex_has_no_other_storage_of_its_state():
    with pytest.raises(InputError, match="optimizer_state bf16"):
        TrainConfig(optimizer="apex", optimizer_state="bf16")
