"""Convolutions with frozen weights and Winograd convolutions: the same values and gradients, and no input saved."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hagan3d.ops import conv3d, conv_transpose3d, has_winograd
from hagan3d.ops.winograd import conv as winograd_conv
from hagan3d.ops.winograd.taps import fold_taps, unfold_taps

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


@pytest.mark.parametrize("shape", [(1, 16, 32, 32, 32), (1, 64, 9, 8, 8), (1, 16, 8, 40, 40), (1, 16, 40, 40, 8)])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_single_small_volume_is_convolved_with_fast_kernels(shape, frozen):
    if not has_winograd(torch.empty(0)):
        pytest.skip("the compiled operators were not built")
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


@pytest.fixture
def winograd():
    """The Winograd convolution itself, whichever would be faster."""
    if not has_winograd(torch.empty(0)):
        pytest.skip("the compiled operators were not built")
    return winograd_conv.conv3d_winograd


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(3, 1, 1), (4, 6, 8), (7, 5, 3)])
@pytest.mark.parametrize("slab_bytes", [1, 20_000, 1 << 22])
@pytest.mark.parametrize("threads", [1, 3])
def test_winograd_is_the_convolution(winograd, monkeypatch, threads, slab_bytes, size, padding):
    monkeypatch.setattr(winograd_conv, "_SLAB_BYTES", slab_bytes)
    torch.manual_seed(0)
    shapes = (2, 3, *size), (5, 3, 3, 3, 3), (5,)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    y = winograd(*leaves, padding)
    expected = F.conv3d(*leaves, padding=(padding, 1, 1))
    found = torch.autograd.grad(y.square().sum(), leaves)
    torch.set_num_threads(before)
    torch.testing.assert_close((y, *found), (expected, *torch.autograd.grad(expected.square().sum(), leaves)))


def test_winograd_has_any_derivative(winograd):
    torch.manual_seed(0)
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((1, 2, 3, 2, 2), (2, 2, 3, 3, 3))]
    torch.autograd.gradcheck(lambda x, w: winograd(x, w, None, 1), leaves, fast_mode=True)
    torch.autograd.gradgradcheck(lambda x, w: winograd(x, w, None, 1).tanh(), leaves, fast_mode=True)


@pytest.mark.parametrize("channels", [(64, 40), (13, 1), (7, 19)])
def test_winograd_is_as_exact_as_the_library(winograd, channels):
    torch.manual_seed(0)
    c_in, c_out = channels
    x, weight = torch.randn(1, c_in, 6, 20, 21), torch.randn(c_out, c_in, 3, 3, 3) / (27 * c_in) ** 0.5
    exact = F.conv3d(x.double(), weight.double(), None, 1, 1)
    errors = [
        (y - exact).square().mean().sqrt() for y in (winograd(x, weight, None, 1), F.conv3d(x, weight, None, 1, 1))
    ]
    assert errors[0] < 3 * errors[1] + 1e-7


@pytest.mark.parametrize("channels", [(1, 1), (5, 13), (32, 32)])
def test_taps_are_folded_and_unfolded(winograd, channels):
    torch.manual_seed(0)
    weight, taps = torch.randn(*channels, 3, 3, 3), torch.randn(9, 27)
    folded = fold_taps(weight, taps)
    expected = torch.einsum("oit,pt->poi", weight.flatten(2), taps).flatten(0, 1)
    torch.testing.assert_close(folded, expected)
    unfolded = torch.einsum("poi,pt->oit", expected.unflatten(0, (9, -1)), taps)
    torch.testing.assert_close(unfold_taps(expected, taps), unfolded.unflatten(2, (3, 3, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "channels", "summands"), [(16, 33, 32), (16, 32, 31), (2, 32, 32)], ids=["channels", "bias", "depth"]
)
def test_what_does_not_fit_is_refused(depth, channels, summands):
    x, weight, bias = torch.zeros(1, 32, depth, 16, 16), torch.zeros(32, channels, 3, 3, 3), torch.zeros(summands)
    with pytest.raises(RuntimeError):
        conv3d(x, weight, bias, padding=(0, 1, 1))


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
        return conv3d(x.tanh(), weight, bias, fold=fold)

    checkpoint(run, x, use_reentrant=False).sum().backward()
    assert len(calls) == 2  # once forward, once for the gradient
    (expected,) = torch.autograd.grad(F.conv3d(x.tanh(), weight, bias).sum(), x)
    torch.testing.assert_close(x.grad, expected)
