"""Group norm with its ReLU: the same function as the two, of which the input alone is kept."""

import pytest
import torch

from hagan3d.ops import group_norm, group_norm_relu, group_norm_relu_reference, group_norm_tiles


@pytest.fixture(params=["as on a CPU", "as on a GPU"], autouse=True)
def kind(request, monkeypatch):
    """Both ways of computing it; tiles are so small that there are several."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(group_norm, "_OnCPU", group_norm._OnGPU)
        monkeypatch.setattr(group_norm_tiles, "TILE", 100)
    return request.param


def tensors(device="cpu", dtype=torch.float64, shape=(3, 16, 2, 5, 3)):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, shape[1], shape[1]))
    return [t.to(device, dtype).requires_grad_() for t in (x, weight, bias)]


@pytest.mark.parametrize("shape", [(3, 16, 2, 5, 3), (2, 16, 1, 5, 3), (1, 8, 1, 1, 2), (2, 64, 4, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_matches_reference(device, shape, layout):
    leaves = tensors(device, shape=shape)
    x, weight, bias = leaves
    x = x.contiguous(memory_format=layout)
    expected = group_norm_relu_reference(x, 8, weight, bias)
    gradients = torch.autograd.grad(expected.square().sum(), leaves)
    y = group_norm_relu(x, 8, weight, bias)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(torch.autograd.grad(y.square().sum(), leaves), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients(device):
    x, weight, bias = tensors(device, shape=(2, 8, 1, 3, 2))
    torch.autograd.gradcheck(lambda *t: group_norm_relu(t[0], 4, *t[1:]), (x, weight, bias))


def test_a_second_derivative_is_refused(device):
    x, weight, bias = tensors(device)
    (gradient,) = torch.autograd.grad(group_norm_relu(x, 8, weight, bias).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_keeps_the_input_alone(kind):
    x, weight, bias = tensors()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        group_norm_relu(x, 8, weight, bias)
    statistics = [3 * 8, 3 * 8] if kind == "as on a GPU" else []
    assert sorted(sizes) == sorted([16, 16, *statistics, x.numel()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves_under_autocast(dtype):
    x, weight, bias = tensors(dtype=torch.float32)
    half = x.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        y = group_norm_relu(half, 8, weight, bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), group_norm_relu_reference(x, 8, weight, bias), atol=0.1, rtol=0.02)
    y.float().sum().backward()
    assert half.grad.dtype == dtype and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_halves_are_float32(device, dtype):
    x, weight, bias = (t.detach().to(dtype if t.ndim == 5 else torch.float32) for t in tensors(device, torch.float64))
    x = x + 30  # mean 30, standard deviation 1: a mean rounded to bfloat16 is off by up to 1/16 of a deviation
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    y = group_norm_relu(x, 8, weight, bias)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = group_norm_relu_reference(exact[0], 8, *exact[1:])
    bits = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=bits, atol=1e-4)
    pairs = zip(torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs, rtol=bits, atol=bits)


def test_wrong_shapes_are_named():
    x, weight, bias = tensors()
    with pytest.raises(ValueError, match="multiple of 3"):
        group_norm_relu(x, 3, weight, bias)
    with pytest.raises(ValueError, match=r"weight \[C\]"):
        group_norm_relu(x, 8, weight[:4], bias)
