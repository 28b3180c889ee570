import pytest
import torch

from hagan3d.ops import rms_norm, rms_norm_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = [
    (2, 5, 3, 4, 7),
    (2, 64, 8, 8, 9),
    (1, 300, 2, 2, 2),
    (3, 7, 1, 1, 1),
    (2, 5, 1, 6, 7),
    (2, 1, 3, 3, 3),
    (1, 3, 12, 16, 16),
    (1, 300, 5, 15, 17),  # more tiles than tasks, and not a multiple of them
    (0, 4, 2, 2, 2),
]


def arguments(shape, dtype, device, layout=torch.contiguous_format):
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(2, shape[1], device=device).to(dtype)
    return [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]


def test_unit_weights_give_unit_root_mean_square(device):
    x, _, _ = arguments((2, 8, 3, 3, 3), torch.float64, device)
    y = rms_norm(x, torch.ones(8, device=device), torch.zeros(8, device=device), eps=0.0)
    torch.testing.assert_close(y.square().mean(1), torch.ones_like(y[:, 0]))


def test_a_window_equals_its_slice(device):
    x, weight, bias = arguments((1, 8, 6, 5, 4), torch.float32, device)
    window = rms_norm(x[:, :, 2:4], weight, bias, "relu")
    assert torch.equal(window, rms_norm(x, weight, bias, "relu")[:, :, 2:4])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_matches_reference(device, shape, dtype, layout, activation):
    inputs = arguments(shape, dtype, device, layout)
    ours, theirs = rms_norm(*inputs, activation), rms_norm_reference(*inputs, activation)
    grad = torch.randn_like(ours)
    pairs = zip(
        (ours, *torch.autograd.grad(ours, inputs, grad)),
        (theirs, *torch.autograd.grad(theirs, inputs, grad)),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


def test_strided_input(device):
    x, weight, bias = arguments((2, 8, 6, 5, 4), torch.float32, device)
    for view in (x[:, :, ::2], x.transpose(2, 4), x.expand(2, 8, 6, 5, 4)):
        torch.testing.assert_close(rms_norm(view, weight, bias), rms_norm_reference(view, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_voxels_that_start_anywhere_in_memory(device, dtype, offset):
    """As parts of a larger tensor, which loads of several voxels must not assume to be aligned."""
    shape = (2, 8, 2, 4, 4)
    x, weight, bias = arguments(shape, dtype, device)
    flat = torch.empty(x.numel() + offset, device=device, dtype=dtype)
    shifted = flat[offset:].view(shape).copy_(x.detach()).requires_grad_()
    ours, theirs = rms_norm(shifted, weight, bias, "relu"), rms_norm(x, weight, bias, "relu")
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(ours)
    own = torch.autograd.grad(ours, (shifted, weight, bias), grad)
    expected = torch.autograd.grad(theirs, (x, weight, bias), grad)
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_gradients_of_first_and_second_order(device, activation):
    inputs = arguments((2, 3, 2, 2, 2), torch.float64, device)
    assert torch.autograd.gradcheck(lambda *t: rms_norm(*t, activation), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: rms_norm(*t, activation), inputs)


def test_saves_its_input_only(device, kernels):
    inputs, saved = arguments((1, 8, 8, 8, 8), torch.float32, device), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda _: None):
        rms_norm(*inputs, "relu")
    assert sum(saved) == inputs[0].numel() + 2 * 8


def test_gradients_do_not_depend_on_the_number_of_threads(device, kernels):
    inputs, gradients = arguments((2, 8, 16, 16, 16), torch.float32, device), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        gradients.append(torch.autograd.grad(rms_norm(*inputs, "relu").square().sum(), inputs))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_rejects_wrong_shapes_and_activations():
    x, weight = torch.zeros(1, 4, 2, 2, 2), torch.zeros(4)
    for bad in ((x[0], weight, weight), (x, weight[:3], weight), (x, weight, weight[:3]), (x, weight, weight, "gelu")):
        with pytest.raises(ValueError, match="must be|expected"):
            rms_norm(*bad)


def test_what_is_not_a_number_stays_so(device):
    x = torch.randn(1, 16, 2, 3, 4, device=device)
    x[0, 3, 1, 2, 0] = float("nan")
    weight, bias = torch.ones(16, device=device), torch.zeros(16, device=device)
    out = rms_norm(x, weight, bias, activation="relu")
    assert out[0, :, 1, 2, 0].isnan().all()
    assert out.isnan().sum() == 16


def test_scales_and_offsets_may_have_any_strides():
    x = torch.randn(2, 8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    for weight in (torch.linspace(0, 1, 16)[::2], torch.full((1,), 2.0).expand(8)):
        torch.testing.assert_close(rms_norm(x, weight, weight), rms_norm_reference(x, weight, weight))


def test_another_device_is_refused():
    x, weight = torch.zeros(1, 4, 2, 2, 2), torch.zeros(4)
    with pytest.raises(ValueError, match="expected one device, got x on cpu, weight on meta"):
        rms_norm(x, weight.to("meta"), weight)
