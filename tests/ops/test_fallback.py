"""Operators without compiled kernels: references that save their inputs alone, as the plan of a run counts."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from hagan3d import ops
from hagan3d.ops import extension
from hagan3d.peak_memory import PeakMemory


@pytest.fixture(autouse=True)
def not_built(monkeypatch):
    monkeypatch.setattr(extension, "_NO_CPU", "not built")


def leaves(*shapes, dtype=torch.float64):
    torch.manual_seed(0)
    return [(0.3 * torch.randn(shape, dtype=dtype)).requires_grad_() for shape in shapes]


VOLUME, CHANNEL = (1, 2, 2, 3, 2), (2,)
CASES = {
    "rms_norm": (lambda *t: ops.rms_norm(*t, "relu"), (VOLUME, CHANNEL, CHANNEL)),
    "ggd_nll": (lambda *t: ops.ggd_nll(*t, reduction="none"), (VOLUME, VOLUME, VOLUME)),
    "ggd_sigma": (ops.ggd_sigma, (VOLUME, VOLUME)),
    "ggd_mean_sigma": (ops.ggd_mean_sigma, (VOLUME, VOLUME)),
    "ggd_guide": (ops.ggd_guide, (VOLUME, VOLUME, VOLUME, (1,))),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_first_and_second_order(name):
    function, shapes = CASES[name]
    inputs = leaves(*shapes)
    if name == "ggd_guide":
        inputs[-1] = (inputs[-1].detach().abs() + 1).requires_grad_()
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_the_inputs(name):
    function, _ = CASES[name]
    shape = (1, 8, 16, 16, 16)
    shapes = [shape if s == VOLUME else (8,) if s == CHANNEL else s for s in CASES[name][1]]
    inputs = leaves(*shapes, dtype=torch.float32)
    with PeakMemory(inputs) as memory:
        before = memory.now
        y = function(*inputs)
        saved = memory.now - before
    assert saved <= -(-y.nbytes // 512) * 512 + 4096
