"""All forms of an operator compute the same: values, gradients and second derivatives, in every layout."""

import pytest
import torch
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.ops import forms, upsample_conv
from hagan3d.ops.block_conv import fold_blocks, to_blocks, unfold_blocks
from hagan3d.ops.device import planned_for
from hagan3d.ops.forms import LAYOUTS, Call, Table
from hagan3d.ops.upsample_conv import METHODS

HALVING = {"stride": (2, 2, 2), "padding": (1, 1, 1)}


def arguments(shape=(2, 1, 4, 6, 8), channels=3, side=4, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    weight, bias = torch.randn(channels, shape[1], *(side,) * 3, dtype=dtype), torch.randn(channels, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)]


@pytest.fixture
def gpu():
    """The branches of a GPU, on the CPU."""
    with planned_for("cuda"):
        yield


def blocks(*tensors):
    return ops.conv3d(*tensors, **HALVING, form="blocks")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_halving_convolution_of_one_channel_equals_that_of_its_blocks(gpu, layout):
    inputs = arguments()
    with forms.using(Table(layout)):
        ours = blocks(*inputs)
    theirs = F.conv3d(*inputs, stride=2, padding=1)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_blocks_of_first_and_second_order(gpu):
    inputs = arguments((1, 1, 2, 2, 4), 2)
    assert torch.autograd.gradcheck(blocks, inputs)
    assert torch.autograd.gradgradcheck(lambda *t: blocks(*t).tanh(), inputs, atol=1e-4)


def test_a_frozen_weight_of_blocks_saves_nothing(gpu):
    x, weight, bias = arguments()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t), lambda _: None):
        y = blocks(x, weight.detach(), bias.detach())
    assert not saved
    expected = F.conv3d(x, weight.detach(), bias.detach(), stride=2, padding=1)
    grad = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(one, x, grad)[0] for one in (y, expected))
    torch.testing.assert_close(ours, theirs)


def test_blocks_under_autocast_have_its_type(gpu):
    inputs = arguments(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = blocks(*inputs)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.conv3d(*inputs, stride=2, padding=1), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("shape", "side", "padding"), [((1, 2, 4, 4, 4), 4, 1), ((1, 1, 5, 4, 4), 4, 1), ((1, 1, 4, 4, 4), 3, 1)]
)
def test_what_has_no_blocks_is_computed_directly(gpu, shape, side, padding):
    inputs = arguments(shape, side=side)
    torch.testing.assert_close(blocks(*inputs), F.conv3d(*inputs, stride=2, padding=padding))


def test_a_cpu_has_no_blocks(monkeypatch):
    monkeypatch.setattr("hagan3d.ops.conv.to_blocks", lambda x: 1 / 0)
    inputs = arguments()
    torch.testing.assert_close(blocks(*inputs), F.conv3d(*inputs, stride=2, padding=1))


def test_the_blocks_of_a_kernel_are_unfolded_by_the_adjoint():
    weight = torch.randn(5, 1, 4, 4, 4)
    assert torch.equal(unfold_blocks(fold_blocks(weight)), weight)
    assert to_blocks(torch.ones(2, 1, 4, 6, 8)).sum() == 2 * 4 * 6 * 8


def recorded(function, calls):
    """Return a function that notes its name, and whether its input is contiguous."""

    def call(x, *rest):
        calls.append((function.__name__, x.is_contiguous()))
        return function(x, *rest)

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_table_decides_how_to_upsample(monkeypatch, kind, method, layout):
    inputs = arguments((1, 4, 3, 4, 5), 6, side=3)
    key = str(Call("upsample_conv3d", (1, 4, 3, 4, 5), (6, 4, 3, 3, 3), torch.float64, (1,), "xw"))
    expected, taken = ops.upsample_conv3d_reference(*inputs, 1), []
    for name in ("_by_parity", "_by_transposition", "upsample_conv3d_reference", "upsample_conv3d_winograd"):
        monkeypatch.setattr(upsample_conv, name, recorded(getattr(upsample_conv, name), taken))
    with planned_for(kind), forms.using(Table(layout, forms={key: method})):
        y = ops.upsample_conv3d(*inputs, trim=1)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)
    own = {"plain": "upsample_conv3d_reference", "parity": "_by_parity", "transposed": "_by_transposition"}
    winograd = "upsample_conv3d_winograd" if kind == "cpu" else "_by_transposition"
    is_last = layout == "channels_last" and method != "winograd"
    assert taken == [(own.get(method, winograd), not is_last)]


def test_calls_are_recorded_with_what_their_time_depends_on(gpu):
    x, weight, bias = arguments(dtype=torch.float32)
    with forms.recording() as calls:
        ops.conv3d(x, weight, bias, **HALVING)
        with torch.no_grad():
            ops.conv3d(x, weight, bias, **HALVING)
        with torch.autocast("cpu", torch.bfloat16):
            ops.conv3d(x, weight.detach(), bias, **HALVING)
            ops.conv3d(x, weight.detach(), bias, **HALVING)
        ops.rms_norm(x, bias[:1], bias[:1])
    ops.conv3d(x, weight, bias, **HALVING)
    shape = "2x1x4x6x8 3x1x4x4x4"
    assert {str(call): count for call, count in calls.items()} == {
        f"conv3d {shape} float32 (2,2,2) (1,1,1) xw": 1,
        f"conv3d {shape} float32 (2,2,2) (1,1,1) -": 1,
        f"conv3d {shape} bfloat16 (2,2,2) (1,1,1) x": 2,
        "rms_norm 2x1x4x6x8 1 float32 none xw": 1,
    }


def test_the_table_ends_with_its_block():
    before = torch.backends.cudnn.benchmark
    x = torch.randn(1, 2, 3, 4, 5)
    with pytest.raises(ZeroDivisionError), forms.using(Table("channels_last", benchmark=not before)):
        assert torch.backends.cudnn.benchmark != before
        assert forms.in_layout(x).is_contiguous(memory_format=torch.channels_last_3d)
        raise ZeroDivisionError
    assert torch.backends.cudnn.benchmark == before and forms.in_layout(x) is x


def test_norms_of_a_gpu_keep_the_layout(gpu):
    x = torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight, bias = torch.randn(8), torch.randn(8)
    for y in (ops.group_norm_relu(x, 4, weight, bias), ops.rms_norm(x, weight, bias)):
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
        (gradient,) = torch.autograd.grad((y * y).sum(), x)
        assert gradient.is_contiguous(memory_format=torch.channels_last_3d)
