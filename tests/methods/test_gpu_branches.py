"""Training on a GPU, as far as it can be tested without one: its branches of the operators, run on the CPU."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hagan3d.config.methods import method_names
from hagan3d.methods.registry import make_method
from hagan3d.ops.device import planned_for
from tests.methods.small import assert_counts_agree, float64, make_updates, small_batch, small_config
from tests.methods.test_methods import PHASES, gradients

# what makes the host wait for a GPU: a value, a size that depends on values, a check for errors, a copy from the host
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_linalg_check_errors", "equal", "unique"}
COPYING = {torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor, Tensor.tolist, Tensor.numpy, Tensor.cpu}
PINNED = "to_device"  # copies from the host without waiting


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), PHASES)
def test_gradients_are_those_of_the_cpu(method, name, small_store):
    config = small_config(method, ema=0.0, **({"pool": 0} if method == "cyclegan" else {}))
    batch = float64(small_batch(config, small_store, 16 if method == "cyclegan" else None))
    expected, terms = gradients(config, name, batch)
    with planned_for("cuda"):
        found, same_terms = gradients(config, name, batch)
    torch.testing.assert_close(same_terms, terms)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_the_memory_of_a_gpu_is_that_of_its_branches(method):
    assert_counts_agree(small_config(method), "cuda")


class Values(TorchDispatchMode):
    """Collects operators for whose values the host waits."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITING:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Collects copies between host and device, but for those from pinned memory."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        caller = sys._getframe(1)
        if func in COPYING and caller.f_code.co_name != PINNED and not prepares_a_copy(caller):
            self.found.append(f"{func.__name__} in {caller.f_code.co_name}")
        return func(*args, **(kwargs or {}))


def prepares_a_copy(frame):
    """Whether a tensor of the host is made as the argument of a copy from pinned memory."""
    return frame.f_code.co_name in ("warp", "_units")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), PHASES)
def test_the_host_does_not_wait_for_the_gpu_inside_an_update(method, name, small_store):
    config = small_config(method, betas=(0.5, 0.999))
    updates, batch = make_updates(config), small_batch(config, small_store)
    phase = next(phase for phase in updates.phases if phase.name == name)
    updates.prepare(phase.first)
    batch = replace(batch, phase=name, step=phase.first, state=make_method(config).initial_state())
    found = []
    with planned_for("cuda"), Values(found), Copies(found):
        updates.run(phase, batch)
    assert found == []


def test_a_wait_is_found():
    found = []
    with Values(found), Copies(found):
        x = torch.ones(2)
        float(x.sum())
        x.new_tensor([1.0])
    assert found == ["_local_scalar_dense", "new_tensor in test_a_wait_is_found"]
