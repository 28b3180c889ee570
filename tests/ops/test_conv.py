"""Convolutions with frozen weights: the same values and gradients, and no input saved."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hagan3d.ops import conv, conv3d, conv_transpose3d

CASES = [
    (conv3d, F.conv3d, (1, 1, 1), (1, 1, 1), (3, 3, 3)),
    (conv3d, F.conv3d, (2, 2, 2), (1, 1, 1), (4, 4, 4)),
    (conv3d, F.conv3d, (2, 1, 2), (0, 1, 0), (2, 3, 4)),
    (conv_transpose3d, F.conv_transpose3d, (2, 2, 2), (1, 1, 1), (4, 4, 4)),
    (conv_transpose3d, F.conv_transpose3d, (1, 1, 1), (2, 1, 1), (3, 3, 3)),
]


def tensors(device, transposed, kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 6, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(*((3, 5) if transposed else (5, 3)), *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    return x.to(device).requires_grad_(), weight.to(device), bias.to(device)


@pytest.mark.parametrize(("ours", "theirs", "stride", "padding", "kernel"), CASES)
def test_frozen_weights_change_neither_values_nor_gradients(device, ours, theirs, stride, padding, kernel):
    x, weight, bias = tensors(device, theirs is F.conv_transpose3d, kernel)
    expected = theirs(x, weight, bias, stride, padding)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    y = ours(x, weight, bias, stride, padding)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], gradient)


@pytest.mark.parametrize("shape", [(1, 16, 8, 40, 40), (1, 16, 40, 40, 8)])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_single_flat_volume_is_convolved_with_fast_kernels(shape, frozen):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(shape[1], shape[1], 3, 3, 3)
    leaves = [x] if frozen else [x, weight.requires_grad_()]
    expected = F.conv3d(x, weight, None, 1, 1)
    gradients = torch.autograd.grad(expected.square().mean(), leaves)
    with torch.profiler.profile() as profile:
        y = conv3d(x, weight, None, (1, 1, 1), (1, 1, 1))
        found = torch.autograd.grad(y.square().mean(), leaves)
    torch.testing.assert_close((y, *found), (expected, *gradients), rtol=1e-4, atol=1e-3)
    assert not [event.key for event in profile.key_averages() if "slow_conv" in event.key]


@pytest.mark.parametrize(("ours", "theirs", "stride", "padding", "kernel"), CASES)
def test_any_order_of_derivative(device, ours, theirs, stride, padding, kernel):
    x, weight, bias = tensors(device, theirs is F.conv_transpose3d, kernel)
    x = x[:1, :, :4, :4, :4].detach().requires_grad_()
    torch.autograd.gradcheck(lambda x: ours(x, weight, bias, stride, padding), x, fast_mode=True)
    torch.autograd.gradgradcheck(lambda x: ours(x, weight, bias, stride, padding).tanh(), x, fast_mode=True)


def kept(run):
    """Shapes of what is kept for the backward pass."""
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(tuple(t.shape)), t)[1], lambda t: t):
        run()
    return shapes


def test_the_input_is_kept_only_where_a_weight_learns():
    x, weight, bias = tensors("cpu", False, (3, 3, 3))
    assert tuple(x.shape) not in kept(lambda: conv3d(x * 2, weight, bias))
    assert tuple(x.shape) in kept(lambda: conv3d(x * 2, weight.requires_grad_(), bias))


def test_bias_alone_can_learn():
    x, weight, bias = tensors("cpu", False, (3, 3, 3))
    bias.requires_grad_()
    conv3d(x, weight, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, 2 * 5 * 4 * 6))


def test_autocast_gives_its_own_type():
    x, weight, bias = (t.float().detach() for t in tensors("cpu", False, (3, 3, 3)))
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv3d(x, weight, bias), F.conv3d(x, weight, bias)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("frozen", [False, True])
def test_a_flat_volume_is_turned_and_turned_back(frozen):
    torch.manual_seed(0)
    x = torch.randn(1, 16, 4, 20, 70, requires_grad=True)
    weight = torch.randn(4, 16, 3, 3, 2, requires_grad=not frozen)
    y, expected = conv3d(x, weight, None, (1, 2, 1), (0, 1, 1)), F.conv3d(x, weight, None, (1, 2, 1), (0, 1, 1))
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-5)
    assert y.is_contiguous()
    leaves = [x] if frozen else [x, weight]
    gradients = [torch.autograd.grad(out.square().mean(), leaves) for out in (y, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_does_not_compute_a_frozen_convolution_again():
    x, weight, bias = tensors("cpu", False, (3, 3, 3))
    calls = []

    def fold(kernel):
        calls.append(len(calls))
        return kernel

    def run(x):
        return conv3d(x.tanh(), weight, bias, fold=conv.Fold(fold, fold))

    checkpoint(run, x, use_reentrant=False).sum().backward()
    assert len(calls) == 2  # once forward, once for the gradient
    (expected,) = torch.autograd.grad(F.conv3d(x.tanh(), weight, bias).sum(), x)
    torch.testing.assert_close(x.grad, expected)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Convolutions that learn are differentiated by their own maps, as on a GPU."""
    monkeypatch.setattr(conv, "_differentiates_by_contraction", lambda x, weight: weight.requires_grad)


def learning(transposed, kernel):
    x, weight, bias = tensors("cpu", transposed, kernel)
    x = x[:1, :, :5, :4, :6].detach()
    return [t.requires_grad_() for t in (x, weight[..., :2, :2, :2].contiguous(), bias)]


@pytest.mark.parametrize(("ours", "theirs", "stride", "padding", "kernel"), CASES)
def test_maps_of_a_convolution_are_its_derivatives(as_on_a_gpu, ours, theirs, stride, padding, kernel):
    inputs = learning(theirs is F.conv_transpose3d, kernel)
    padding = tuple(min(p, 1) for p in padding)
    expected, y = theirs(*inputs, stride, padding), ours(*inputs, stride, padding)
    torch.testing.assert_close(y, expected)
    for one, other in zip(*(torch.autograd.grad(t.square().sum(), inputs) for t in (y, expected)), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradgradcheck(lambda *t: ours(*t, stride, padding).tanh(), inputs, fast_mode=True)


@pytest.mark.parametrize(("ours", "theirs", "stride", "padding", "kernel"), CASES)
def test_a_gradient_penalty_has_the_gradients_of_pytorch(as_on_a_gpu, ours, theirs, stride, padding, kernel):
    inputs = learning(theirs is F.conv_transpose3d, kernel)
    padding = tuple(min(p, 1) for p in padding)
    found = []
    for function in (ours, theirs):
        (slope,) = torch.autograd.grad(function(*inputs, stride, padding).tanh().sum(), inputs[0], create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), inputs[:2]))
    torch.testing.assert_close(*found)


def test_the_gradient_of_a_penalty_computes_none_of_the_weight(as_on_a_gpu):
    x, weight, bias = learning(False, (2, 2, 2))
    y = conv3d(x.tanh(), weight, bias).tanh()
    with Calls() as calls:
        torch.autograd.grad(y.sum(), x, create_graph=True)
    assert calls.masks == [[True, False, False]]


class Calls(TorchDispatchMode):
    """Collects which gradients of convolutions are computed."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_of_a_convolution_have_the_type_of_autocast(as_on_a_gpu, dtype):
    inputs = [t.detach().float().requires_grad_() for t in learning(False, (2, 2, 2))]
    with torch.autocast("cpu", dtype):
        y, expected = conv3d(*inputs), F.conv3d(*inputs)
    assert y.dtype == expected.dtype == dtype
    torch.testing.assert_close(y, expected)
    gradients = [torch.autograd.grad(t.float().square().sum(), inputs) for t in (y, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=5e-2)
