import itertools

import pytest
import torch

from hagan3d.ops import conv, fold_weight, upsample_conv3d, upsample_conv3d_reference
from hagan3d.ops.upsample_conv import METHODS, fold_parities, unfold_parities, unfold_weight
from hagan3d.ops.winograd import upsample as winograd_upsample

FOLDED = [method for method in METHODS if method != "plain"]


def arguments(shape, channels, device, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(shape, device=device, dtype=dtype)
    weight = torch.randn(channels, shape[1], 3, 3, 3, device=device, dtype=dtype) / (27 * shape[1]) ** 0.5
    bias = torch.randn(channels, device=device, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)]


@pytest.mark.parametrize("method", FOLDED)
@pytest.mark.parametrize("trim", [0, 1, 2])
@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4, 5, 6), 2), ((1, 16, 3, 1, 2), 1), ((1, 1, 3, 2, 3), 40)])
def test_equals_upsampling_and_convolution(device, shape, channels, trim, method):
    inputs = arguments(shape, channels, device)
    ours, theirs = upsample_conv3d(*inputs, trim, method), upsample_conv3d_reference(*inputs, trim)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("method", METHODS)
def test_layouts_and_no_bias(device, method):
    x, weight, _ = arguments((2, 8, 3, 4, 5), 4, device, torch.float32)
    for source in (x.contiguous(memory_format=torch.channels_last_3d), x.transpose(2, 4).contiguous().transpose(2, 4)):
        expected = upsample_conv3d_reference(x, weight, None)
        torch.testing.assert_close(upsample_conv3d(source, weight, None, method=method), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", FOLDED)
def test_gradients_of_first_and_second_order(device, method):
    inputs = arguments((1, 1, 2, 1, 2), 1, device)
    assert torch.autograd.gradcheck(lambda *t: upsample_conv3d(*t, 1, method), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: upsample_conv3d(*t, 0, method), inputs, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 1, 5, 6), 2), ((1, 16, 1, 65, 65), 8), ((1, 2, 4, 3, 2), 3)])
def test_a_flat_kernel_upsamples_h_and_w_alone(device, shape, channels, method):
    x, weight, bias = arguments(shape, channels, device)
    flat = weight[:, :, :1].detach().clone().requires_grad_()
    ours = upsample_conv3d(x, flat, bias, method=method)
    rows = x.movedim(2, 1).flatten(0, 1)  # slices as a batch of images
    theirs = torch.nn.functional.conv2d(
        torch.nn.functional.interpolate(rows, scale_factor=2), flat[:, :, 0], bias, padding=1
    )
    theirs = theirs.unflatten(0, (shape[0], shape[2])).movedim(1, 2)
    torch.testing.assert_close(ours, theirs)
    grad, inputs = torch.randn_like(ours), (x, flat, bias)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="trim must be 0 for a flat kernel"):
        upsample_conv3d(x, flat, bias, trim=1)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_flat_kernel(device, method):
    x, weight, bias = arguments((1, 1, 1, 2, 2), 1, device)
    inputs = [x, weight[:, :, :1].detach().clone().requires_grad_(), bias]
    assert torch.autograd.gradcheck(lambda *t: upsample_conv3d(*t, 0, method), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: upsample_conv3d(*t, 0, method), inputs, atol=1e-4)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("slab_bytes", [1, 200_000, 10**7])
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_winograd_does_not_depend_on_its_slabs(monkeypatch, slab_bytes, threads):
    monkeypatch.setattr(winograd_upsample, "_SLAB_BYTES", slab_bytes)
    inputs = arguments((3, 5, 7, 37, 2), 4, torch.device("cpu"))
    ours, theirs = upsample_conv3d(*inputs, 1, "winograd"), upsample_conv3d_reference(*inputs, 1)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    ours, theirs = (torch.autograd.grad(y, inputs, grad, retain_graph=True) for y in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_slabs_shared_among_threads_add_up_the_same_way_every_time(monkeypatch, threads):
    monkeypatch.setattr(winograd_upsample, "_SLAB_BYTES", 100_000)
    inputs = arguments((2, 8, 6, 7, 9), 4, torch.device("cpu"), torch.float32)

    def run():
        y = upsample_conv3d(*inputs, method="winograd")
        return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]

    first = run()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_winograd_in_inference_mode(monkeypatch, threads):
    monkeypatch.setattr(winograd_upsample, "_SLAB_BYTES", 100_000)
    inputs = arguments((1, 8, 6, 7, 9), 4, torch.device("cpu"))
    expected = upsample_conv3d_reference(*inputs).detach()
    with torch.inference_mode():
        torch.testing.assert_close(upsample_conv3d(*inputs, method="winograd"), expected)


def test_winograd_is_as_exact_as_the_plain_pair():
    x, weight, bias = arguments((1, 256, 4, 4, 4), 64, torch.device("cpu"))
    exact = upsample_conv3d_reference(x, weight, bias)
    x, weight, bias = x.float(), weight.float(), bias.float()
    errors = [(upsample_conv3d(x, weight, bias, method=m) - exact).square().mean() for m in ("winograd", "plain")]
    assert errors[0] < 16 * errors[1]
    assert errors[0].sqrt() < 1e-6 * exact.square().mean().sqrt()


def test_the_fold_sums_the_taps_that_meet_the_same_voxel():
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[0, 0, :, 1, 1] = torch.tensor([1.0, 10.0, 100.0])
    assert fold_weight(weight)[0, 0, :, 1, 1].tolist() == [100, 110, 11, 1]


@pytest.mark.parametrize("method", FOLDED)
def test_autocast_folds_in_the_precision_of_the_weight(device, method):
    x, weight, bias = arguments((1, 8, 4, 4, 4), 4, device, torch.float32)
    with torch.autocast(device.type, torch.bfloat16):
        y = upsample_conv3d(x, weight, bias, method=method)
    exact = upsample_conv3d_reference(x, weight, bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", FOLDED)
def test_saves_the_small_input_only(method):
    inputs, saved = arguments((1, 8, 8, 8, 8), 8, torch.device("cpu"), torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes), lambda _: None):
        upsample_conv3d(*inputs, method=method)
    assert sum(saved) < inputs[0].nbytes * 8 / 4 + 8 * 8 * 64 * 4 * 2


@pytest.mark.parametrize("method", METHODS)
def test_empty_batch(device, method):
    x, weight, bias = arguments((0, 2, 2, 2, 2), 3, device)
    assert upsample_conv3d(x, weight, bias, method=method).shape == (0, 3, 4, 4, 4)


def test_rejects():
    x, weight, bias = torch.zeros(1, 2, 2, 2, 2), torch.zeros(3, 2, 3, 3, 3), torch.zeros(3)
    bad = [(x[0], weight, bias), (x, weight[:, :1], bias), (x, weight, bias[:2]), (x, weight, bias, 2)]
    for arguments_, options in itertools.chain(((b, {}) for b in bad), [((x, weight, bias), {"method": "fast"})]):
        with pytest.raises(ValueError, match="must be|expected"):
            upsample_conv3d(*arguments_, **options)


@pytest.mark.parametrize(
    ("fold", "adjoint", "taps"),
    [
        (fold_weight, unfold_weight, (3, 3, 3)),
        (fold_weight, unfold_weight, (1, 3, 3)),
        (fold_parities, unfold_parities, (3, 3, 3)),
    ],
)
def test_a_gradient_is_unfolded_by_the_adjoint(fold, adjoint, taps):
    torch.manual_seed(0)
    weight = torch.randn(5, 2, *taps, dtype=torch.float64, requires_grad=True)
    kernel = fold(weight)
    gradient = torch.randn_like(kernel)
    torch.testing.assert_close(adjoint(gradient), torch.autograd.grad(kernel, weight, gradient)[0])


@pytest.mark.parametrize("method", ["transposed", "parity"])
@pytest.mark.parametrize("trim", [0, 2])
def test_on_a_gpu_the_weight_itself_is_saved_and_the_gradients_are_the_same(monkeypatch, method, trim):
    monkeypatch.setattr(conv, "_differentiates_by_contraction", lambda x, weight: weight.requires_grad)
    inputs = arguments((1, 2, 3, 2, 2), 3, "cpu")
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(t.shape), t)[1], lambda t: t):
        ours = upsample_conv3d(*inputs, trim, method)
    assert {(4, 4, 4), (2, 2, 2)}.isdisjoint(shape[2:] for shape in shapes if len(shape) == 5 and shape[0] != 1)
    theirs = upsample_conv3d_reference(*inputs, trim)
    grad = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(lambda *t: upsample_conv3d(*t, trim, method).tanh(), inputs, fast_mode=True)
