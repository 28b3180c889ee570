import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hagan3d.ops import missing_halo, select_subvolume, select_subvolume_reference, select_subvolumes

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def by_slicing(x, start, depth, axis, halo):
    """The windows, cut one by one out of a volume padded with zeros."""
    padding = [0] * 6
    padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = depth + halo
    padded = torch.nn.functional.pad(x, padding)
    first = [s + depth for s in start.tolist()]  # s - halo, shifted by the padding
    return torch.cat([padded[i : i + 1].narrow(2 + axis, f, depth + 2 * halo) for i, f in enumerate(first)])


@given(
    size=st.tuples(*[st.integers(1, 6)] * 3),
    axis=st.integers(0, 2),
    halo=st.integers(0, 2),
    starts=st.lists(st.integers(-2, 7), min_size=1, max_size=3),
    data=st.data(),
)
def test_windows_are_slices_of_the_padded_volume(size, axis, halo, starts, data):
    depth = data.draw(st.integers(1, size[axis]))
    x, start = torch.randn(len(starts), 2, *size), torch.tensor(starts).clamp(-depth, size[axis])
    assert torch.equal(select_subvolume(x, start, depth, axis, halo), by_slicing(x, start, depth, axis, halo))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_matches_reference_on_strided_input(device, dtype, axis):
    x = torch.randn(2, 7, 6, 5, 3, device=device).to(dtype).permute(0, 4, 1, 3, 2)
    start = torch.tensor([-1, 3], device=device)
    for source in (x, x.contiguous(memory_format=torch.channels_last_3d), x[:, :1].expand(2, 4, 7, 5, 6)):
        torch.testing.assert_close(
            select_subvolume(source, start, 4, axis, 1), select_subvolume_reference(source, start, 4, axis, 1)
        )


@pytest.mark.parametrize(("axis", "depth", "width"), [(0, 40, 177), (1, 40, 177), (2, 75, 177), (0, 40, 176)])
def test_large_windows_of_rows_of_any_length(device, axis, depth, width):
    """Beyond 4 MiB the CPU writes past its caches, and threads begin within slices."""
    x, start = torch.rand(2, 1, 80, 90, 180, device=device)[..., :width], torch.tensor([3, 5], device=device)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        window = select_subvolume(x, start, depth, axis)
        assert window.numel() * 4 > 2**22
        assert all(torch.equal(window[i], x[i].narrow(1 + axis, 3 + 2 * i, depth)) for i in range(2))
    torch.set_num_threads(before)


def test_int16_becomes_scaled_float(device):
    x = torch.tensor([-32767, -1, 0, 32767], dtype=torch.int16, device=device).view(1, 1, 4, 1, 1)
    y = select_subvolume(x, torch.zeros(1, dtype=torch.int64, device=device), 4, dtype=torch.float32, scale=1 / 32767)
    torch.testing.assert_close(y.flatten().cpu(), torch.tensor([-1.0, -1 / 32767, 0.0, 1.0]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradients_of_first_and_second_order(device, axis):
    x = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    start = torch.tensor([-1, 2], device=device)

    def squared(x):
        return select_subvolume(x, start, 2, axis, 1, scale=0.5).square()

    assert torch.autograd.gradcheck(squared, x)
    assert torch.autograd.gradgradcheck(squared, x)


def test_gradient_keeps_the_type_of_the_volume(device):
    x = torch.randn(1, 1, 4, 4, 4, device=device, dtype=torch.bfloat16, requires_grad=True)
    y = select_subvolume(x, torch.ones(1, dtype=torch.int64, device=device), 2, dtype=torch.float32, scale=2.0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert x.grad[0, 0, :, 0, 0].tolist() == [0, 2, 2, 0]


def test_no_samples_give_no_windows(device):
    x = torch.empty(0, 2, 4, 4, 4, device=device)
    assert select_subvolume(x, torch.empty(0, dtype=torch.int64, device=device), 2).shape == (0, 2, 2, 4, 4)


def test_matching_windows_of_a_volume_and_its_feature_map(device):
    x, a = torch.randn(2, 1, 8, 4, 4, device=device), torch.randn(2, 3, 2, 1, 1, device=device)
    start = torch.tensor([0, 4], device=device)
    sub, sub_a = select_subvolumes((x, a), start, 4)
    assert torch.equal(sub[1], x[1, :, 4:8])
    assert torch.equal(sub_a[1], a[1, :, 1:2])


def test_missing_halo_counts_the_zero_slices():
    start, ones = torch.tensor([-1, 0, 1, 2, 3]), torch.ones(5, 1, 4, 1, 1)
    missing = missing_halo(start, 1, 2, 4)
    zeros = (select_subvolume(ones, start, 1, halo=2) == 0).sum(dim=(1, 2, 3, 4))
    assert torch.equal(missing.sum(1)[1:], zeros[1:])
    assert missing.tolist() == [[2, 0], [2, 0], [1, 0], [0, 1], [0, 2]]


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(2, 4, 4, 4)},
        {"start": torch.zeros(3, dtype=torch.int64)},
        {"start": torch.zeros(2, dtype=torch.int32)},
        {"depth": 0},
        {"depth": 5},
        {"axis": 3},
        {"halo": -1},
        {"dtype": torch.int16},
    ],
)
def test_rejects(change):
    arguments = {"x": torch.zeros(2, 1, 4, 4, 4), "start": torch.zeros(2, dtype=torch.int64), "depth": 2, **change}
    with pytest.raises(ValueError, match="must be|expected"):
        select_subvolume(**arguments)
