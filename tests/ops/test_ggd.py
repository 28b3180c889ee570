import math

import pytest
import scipy.stats
import torch

from hagan3d.ops import ggd_guide, ggd_log_sigma, ggd_mean_sigma, ggd_nll, ggd_nll_reference, ggd_sigma
from hagan3d.ops.ggd_reference import guide_reference, mean_sigma_reference, sigma_reference

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def arguments(channels, parameter_channels, dtype, device, spread=3.0, size=(4, 5, 7)):
    """Residuals and raw parameters, many of them outside their bounds."""
    torch.manual_seed(0)
    e = torch.randn(2, channels, *size)
    a, lb = spread * torch.randn(2, 2, parameter_channels, *size)
    return [tensor.to(device, dtype).detach().requires_grad_() for tensor in (e, a, 0.4 * lb)]


def assert_same(ours, theirs, inputs, tolerance):
    grad = torch.randn_like(ours)
    for a, b in zip(
        (ours, *torch.autograd.grad(ours, inputs, grad)),
        (theirs, *torch.autograd.grad(theirs, inputs, grad)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_nll_is_that_of_scipy(device, shape):
    x = torch.linspace(-1.6, 1.7, 64, dtype=torch.float64, device=device).view(1, 1, 4, 4, 4)
    scale = 0.7
    nll = ggd_nll(x, torch.full_like(x, math.log(scale)), torch.full_like(x, math.log(shape)), reduction="none")
    expected = -scipy.stats.gennorm.logpdf(x.cpu().numpy(), shape, scale=scale)
    torch.testing.assert_close(nll.cpu(), torch.from_numpy(expected), rtol=2e-3, atol=0)  # |e| is smoothed by 1e-3


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_sigma_is_that_of_scipy(device, shape):
    a = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64, device=device)
    sigma = ggd_sigma(a + math.log(0.7), a + math.log(shape)).item()
    assert sigma == pytest.approx(scipy.stats.gennorm.std(shape, scale=0.7), rel=1e-9)


@pytest.mark.parametrize("weight_channels", [None, 1, 3])
@pytest.mark.parametrize("parameter_channels", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nll_matches_reference(device, dtype, parameter_channels, weight_channels, reduction):
    inputs = arguments(3, parameter_channels, dtype, device)
    weight = None
    if weight_channels:
        weight = torch.rand(2, weight_channels, 4, 5, 7, device=device).to(dtype)
    ours = ggd_nll(*inputs, weight, reduction)
    assert_same(ours, ggd_nll_reference(*inputs, weight, reduction), inputs, TOLERANCE[dtype])


SIZES = [(1, 1, 1), (1, 9, 13), (8, 8, 8), (8, 8, 9), (13, 11, 17)]  # with one block of voxels, several, and a rest


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nll_matches_reference_at_any_size(device, size, reduction):
    inputs = arguments(2, 1, torch.float32, device, size=size)
    weight = torch.rand(2, 1, *size, device=device)
    for mask in (None, weight):
        ours, theirs = (function(*inputs, mask, reduction) for function in (ggd_nll, ggd_nll_reference))
        assert_same(ours, theirs, inputs, 2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_sigma_and_guide_match_reference_at_any_size(device, size):
    inputs = arguments(2, 1, torch.float32, device, spread=0.7, size=size)
    value, a, lb = inputs
    assert_same(ggd_sigma(a, lb), sigma_reference(a, lb), (a, lb), 2e-5)
    assert_same(ggd_mean_sigma(a, lb), mean_sigma_reference(a, lb), (a, lb), 2e-5)
    expected = guide_reference(*inputs, mean_sigma_reference(a, lb), 2.0)
    assert_same(ggd_guide(value, a, lb, limit=2.0), expected, inputs, 2e-5)


def test_nll_of_strided_tensors_of_several_types(device):
    e, a, lb = (tensor.detach() for tensor in arguments(2, 2, torch.float32, device))
    mixed = (e.transpose(2, 4), a.bfloat16().transpose(2, 4), lb.transpose(2, 4)[:, :1])
    expected = ggd_nll_reference(mixed[0], mixed[1].float(), mixed[2].expand(2, 2, 7, 5, 4), None, "none")
    torch.testing.assert_close(ggd_nll(*mixed, reduction="none"), expected, rtol=2e-5, atol=1e-4)


def test_gradients_inside_the_bounds(device):
    inputs = arguments(2, 1, torch.float64, device, spread=0.5, size=(2, 2, 3))
    assert torch.autograd.gradcheck(ggd_nll, inputs)
    assert torch.autograd.gradcheck(lambda *t: ggd_nll(*t, reduction="none"), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: ggd_nll(*t, reduction="none"), inputs)


def test_mean_refuses_a_second_derivative(device, kernels):
    inputs = arguments(1, 1, torch.float32, device)
    (grad,) = torch.autograd.grad(ggd_nll(*inputs), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_a_kept_graph_gives_the_same_gradients_twice(device):
    inputs = arguments(1, 1, torch.float32, device)
    mean = ggd_nll(*inputs)
    first = [g.clone() for g in torch.autograd.grad(3 * mean, inputs, retain_graph=True)]
    again = torch.autograd.grad(3 * mean, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("raw_scale", [-20.0, -9.0, 4.0, 20.0])
@pytest.mark.parametrize("raw_shape", [-3.0, 4.0])
def test_descent_returns_from_outside_the_bounds(device, raw_scale, raw_shape):
    e = torch.randn(1, 1, 4, 4, 4, device=device)
    a, lb = (torch.full_like(e, raw).requires_grad_() for raw in (raw_scale, raw_shape))
    ggd_nll(e, a, lb).backward()
    for raw, low, high in ((a, math.log(1e-3), math.log(10)), (lb, math.log(0.25), math.log(8))):
        assert torch.isfinite(raw.grad).all()
        outwards = ((raw < low) & (raw.grad > 0)) | ((raw > high) & (raw.grad < 0))
        assert not outwards.any()


def test_gradient_is_finite_where_the_residual_is_zero(device):
    e, a, lb = (torch.zeros(1, 1, 1, 1, 1, device=device).requires_grad_() for _ in range(3))
    ggd_nll(e, a - 5, lb - 1.3).backward()
    assert all(torch.isfinite(t.grad).all() for t in (e, a, lb))


def test_a_mask_drops_its_voxels(device):
    e, a, lb = arguments(1, 1, torch.float32, device)
    mask = torch.zeros_like(e, dtype=torch.bool)
    mask[..., 2:] = True
    masked = ggd_nll(e, a, lb, mask)
    torch.testing.assert_close(masked, ggd_nll(e[..., 2:], a[..., 2:], lb[..., 2:]))
    (grad,) = torch.autograd.grad(masked, e)
    assert (grad[..., :2] == 0).all()


def test_nothing_to_average_gives_zero(device):
    e, a, lb = arguments(1, 1, torch.float32, device)
    assert ggd_nll(e, a, lb, torch.zeros_like(e)).item() == 0
    assert ggd_nll(e[:0], a[:0], lb[:0]).item() == 0
    assert ggd_nll(e[:0], a[:0], lb[:0], reduction="none").shape == (0, 1, 4, 5, 7)


def test_mean_does_not_depend_on_the_number_of_threads(device, kernels):
    inputs, results = arguments(1, 1, torch.float32, device, size=(32, 32, 32)), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(ggd_nll(*inputs))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_mean_saves_twelve_bytes_per_voxel(device, kernels):
    inputs, saved = arguments(1, 1, torch.float32, device, size=(8, 8, 8)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes), lambda _: None):
        ggd_nll(*inputs)
    assert sum(saved) == 12 * inputs[0].numel()


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_minimising_recovers_scale_and_shape(shape):
    torch.manual_seed(0)
    scale, count = 0.3, 200_000
    p = torch.distributions.Gamma(1 / shape, 1.0).sample((count,))
    e = (scale * p.pow(1 / shape) * torch.randn(count).sign()).view(1, 1, 1, 1, count)
    raw = torch.zeros(2, requires_grad=True)
    descent = torch.optim.LBFGS([raw], lr=1, max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        descent.zero_grad()
        nll = ggd_nll(e, raw[0].expand_as(e), raw[1].expand_as(e))
        nll.backward()
        return nll

    descent.step(loss)
    assert raw[0].exp().item() == pytest.approx(scale, rel=0.03)
    assert raw[1].exp().item() == pytest.approx(shape, rel=0.03)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sigma_matches_reference(device, dtype, log):
    _, a, lb = arguments(2, 2, dtype, device)
    ours = (ggd_log_sigma if log else ggd_sigma)(a, lb)
    assert_same(ours, sigma_reference(a, lb, log), (a, lb), TOLERANCE[dtype])
    assert_same(ggd_mean_sigma(a, lb), mean_sigma_reference(a, lb), (a, lb), TOLERANCE[dtype])


@pytest.mark.parametrize("given_mean", [False, True])
@pytest.mark.parametrize("parameter_channels", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_guide_matches_reference(device, dtype, parameter_channels, given_mean):
    inputs = arguments(3, parameter_channels, dtype, device, spread=0.7)
    mean = torch.tensor([0.5, 1.5], device=device, dtype=torch.promote_types(dtype, torch.float32)).requires_grad_()
    ours = ggd_guide(*inputs, mean if given_mean else None, limit=2.0)
    theirs = guide_reference(*inputs, mean if given_mean else mean_sigma_reference(*inputs[1:]), 2.0)
    assert_same(ours, theirs, [*inputs, mean] if given_mean else inputs, TOLERANCE[dtype])


def test_sigma_and_guide_are_twice_differentiable(device):
    value, a, lb = arguments(2, 1, torch.float64, device, spread=0.3, size=(2, 2, 2))
    for function, inputs in ((ggd_log_sigma, (a, lb)), (ggd_sigma, (a, lb)), (ggd_guide, (value, a, lb))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_rejects_wrong_shapes():
    e = torch.zeros(1, 2, 3, 3, 3)
    for bad in ((e[0], e, e), (e, e[:, :, :2], e), (e, e, e[..., :1]), (e, e, e, e[..., :1]), (e.int(), e, e)):
        with pytest.raises(ValueError, match="must be|expected"):
            ggd_nll(*bad)
    for call in (
        lambda: ggd_nll(e, e, e, reduction="sum"),
        lambda: ggd_sigma(e, e[:, :1]),
        lambda: ggd_guide(e, e, e, e),
    ):
        with pytest.raises(ValueError, match="must be|expected"):
            call()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e20])
def test_what_has_no_finite_likelihood_gets_none(bad, device):
    e, zero = torch.full((1, 1, 2, 2, 8), 0.1, device=device), torch.zeros(1, 1, 2, 2, 8, device=device)
    e[..., 1] = bad
    found, expected = (f(e, zero, zero, reduction="none") for f in (ggd_nll, ggd_nll_reference))
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not ggd_nll(e, zero, zero).isfinite()


def test_parameters_on_another_device_are_refused():
    e = torch.zeros(1, 1, 2, 2, 2)
    for companions in ((e.to("meta"), e), (e, e.to("meta")), (e, e, e.to("meta"))):
        with pytest.raises(ValueError, match="on cpu, got meta"):
            ggd_nll(e, *companions)
