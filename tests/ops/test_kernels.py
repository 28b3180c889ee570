"""The compiled libraries as such: both built, every operator registered as PyTorch wants it."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import hagan3d
from hagan3d import ops
from hagan3d.ops.winograd.upsample import upsample_conv3d_winograd

FOLDER = Path(hagan3d.__file__).parent
NAMES = (
    "select_subvolume",
    "ggd_nll",
    "ggd_nll_backward",
    "ggd_nll_mean",
    "ggd_scale_",
    "ggd_sigma",
    "ggd_sigma_backward",
    "ggd_sigma_mean",
    "ggd_guide",
    "ggd_guide_backward",
    "rms_norm",
    "rms_norm_backward",
)
CPU_NAMES = (
    "winograd_upsample",
    "winograd_upsample_x",
    "winograd_upsample_weight",
    "winograd_upsample_both",
)


def skip_unless_built(library):
    if not (FOLDER / library).exists():
        pytest.skip(f"{library} was not built")


@pytest.mark.parametrize("library", ["_C.so", "_C_cuda.so"])
def test_the_library_loads_and_has_every_kernel(library):
    skip_unless_built(library)
    torch.ops.load_library(FOLDER / library)  # needs no device
    key = "CPU" if library == "_C.so" else "CUDA"
    for name in NAMES if key == "CUDA" else NAMES + CPU_NAMES:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hagan3d::{name}", key)


def test_the_backend_is_named():
    skip_unless_built("_C.so")
    assert ops.backend().startswith("compiled CPU")


def voxels(*shape, device, spread=0.5):
    torch.manual_seed(0)
    return (spread * torch.randn(shape, device=device)).requires_grad_()


def samples(device):
    """Arguments for every operator."""
    e, g, v = (voxels(2, 3, 2, 3, 2, device=device) for _ in range(3))
    a, lb = (voxels(2, 1, 2, 3, 2, device=device) for _ in range(2))
    weight, mean, factor = torch.rand_like(a), torch.rand(2, device=device) + 0.5, torch.tensor(0.1, device=device)
    channel, start = voxels(3, device=device), torch.tensor([-1, 1], device=device)
    sums = [torch.rand(4, device=device) for _ in range(3)]
    return {
        "select_subvolume": (e, start, 3, 1, 1, False, torch.float32, 2.0),
        "ggd_nll": (e, a, lb, weight),
        "ggd_nll_backward": (g, e, a, lb, weight),
        "ggd_nll_mean": (e, a, lb, weight, factor, True),
        "ggd_scale_": (*sums, factor),
        "ggd_sigma": (a, lb, True),
        "ggd_sigma_backward": (voxels(2, 1, 2, 3, 2, device=device), a, lb, False),
        "ggd_sigma_mean": (a, lb),
        "ggd_guide": (v, a, lb, mean, 10.0),
        "ggd_guide_backward": (g, v, a, lb, mean, 10.0),
        "rms_norm": (e, channel, channel.detach(), True, 1e-6),
        "rms_norm_backward": (g, e, channel, channel.detach(), True, 1e-6),
    }


def winograd_samples():
    """Arguments for the Winograd operators, which have no derivative of their own."""
    x, y, folded = ((0.5 * torch.randn(shape)) for shape in ((2, 3, 2, 3, 4), (2, 2, 4, 6, 8), (27 * 2, 3)))
    return {
        "winograd_upsample": (x, folded, None, 0, 1000),
        "winograd_upsample_x": (y, folded, 0, 1000),
        "winograd_upsample_weight": (y, x, 0, 1000),
        "winograd_upsample_both": (y, x, folded, 0, 1000),
    }


@pytest.mark.parametrize("name", CPU_NAMES)
def test_opcheck_of_winograd(name):
    skip_unless_built("_C.so")
    checks = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(getattr(torch.ops.hagan3d, name).default, winograd_samples()[name], test_utils=checks)


@pytest.mark.parametrize("name", CPU_NAMES)
def test_operations_of_winograd_are_counted(name):
    skip_unless_built("_C.so")
    with FlopCounterMode(display=False) as counter:
        getattr(torch.ops.hagan3d, name)(*winograd_samples()[name])
    products = 2 if name == "winograd_upsample_both" else 1
    assert counter.get_total_flops() == products * 2 * 27 * (2 * 3) * (2 * 2 * 3 * 4)


def test_operations_of_trimmed_slices_are_counted():
    skip_unless_built("_C.so")
    grad, folded = torch.zeros(2, 2, 2, 6, 8), torch.zeros(27 * 2, 3)  # of two slices, two are cut off
    with FlopCounterMode(display=False) as counter:
        torch.ops.hagan3d.winograd_upsample_x(grad, folded, 1, 1000)
    assert counter.get_total_flops() == 2 * 27 * (2 * 3) * (2 * 2 * 3 * 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(device, name):
    skip_unless_built("_C.so")
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name != "ggd_nll_mean":  # its saved gradients refuse the gradient that this check asks them for
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(getattr(torch.ops.hagan3d, name).default, samples(device)[name], test_utils=checks)


@pytest.mark.slow
def test_compile_passes_through_without_a_graph_break(device):
    x = voxels(2, 3, 4, 4, 4, device=device)
    start, weight = torch.tensor([0, 1], device=device), voxels(3, 3, 3, 3, 3, device=device)
    channel = voxels(3, device=device)

    def everything(x):
        y = ops.rms_norm(ops.upsample_conv3d(x, weight, channel), channel, channel, "relu")
        y = ops.select_subvolume(y, start, 4, axis=1, halo=1)
        guide = ops.ggd_guide(y, 0.1 * y, 0.1 * y)
        return ops.ggd_nll(guide, 0.1 * y, 0.1 * y) + ops.ggd_nll(y, 0 * y, 0 * y, reduction="none").mean()

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), everything(x))
    (ours,), (expected,) = torch.autograd.grad(compiled(x), x), torch.autograd.grad(everything(x), x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compile_passes_through_winograd():
    skip_unless_built("_C.so")
    x, weight, bias = (voxels(*shape, device="cpu") for shape in ((1, 3, 2, 2, 2), (8, 3, 3, 3, 3), (8,)))

    def function(x, weight, bias):
        return upsample_conv3d_winograd(x, weight, bias, trim=0).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    inputs = (x, weight, bias)
    ours, expected = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, function))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
