"""Devices without a GPU here: what torch would say of one is stubbed."""

from types import SimpleNamespace

import pytest
import torch
from torch.cuda._utils import _get_device_index

from hagan3d.engine.optimizers import choose_device, precision_on
from hagan3d.errors import is_out_of_memory
from hagan3d.inference.devices import inference_device
from hagan3d.ops import backend, extension
from hagan3d.ops.device import has_tf32, set_tf32

NO_KERNEL = "CUDA launch failed: no kernel image is available for execution on the device\nmore"


@pytest.fixture
def gpu(monkeypatch):
    """Torch as it answers on a machine with a GPU, number 1 of two."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.parametrize("choose", [choose_device, inference_device])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_has_its_index_which_limits_of_memory_need(gpu, choose, name):
    device = choose(name)
    assert (device.type, device.index) == ("cuda", 1)
    assert _get_device_index(device) == 1  # what set_per_process_memory_fraction asks for


@pytest.mark.parametrize("choose", [choose_device, inference_device])
def test_the_cpu_can_be_chosen_beside_a_gpu(gpu, choose):
    assert choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_bf16_on_devices_that_multiply_in_it(gpu, monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16, "avx2": True})
    for kind in ("cpu", "cuda"):
        assert precision_on(kind, "auto") == ("bf16" if has_bf16 else "fp32")
        assert {precision_on(kind, name) for name in ("fp32", "bf16", "fp16")} == {"fp32", "bf16", "fp16"}


def test_a_card_that_is_not_here_is_planned_for_as_one_with_bf16():
    assert torch.cuda.is_available() or precision_on("cuda", "auto") == "bf16"


@pytest.mark.parametrize("is_on", [True, False])
def test_tf32_is_set_for_convolutions_and_products_alike(is_on):
    set_tf32(is_on)
    assert has_tf32() == is_on
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == is_on
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == is_on
    set_tf32(False)


def test_inference_and_tests_compute_in_full_float32():
    set_tf32(True)
    inference_device("cpu")
    assert not has_tf32()


def test_cuda_kernels_are_tried_when_a_gpu_needs_them_and_not_before(monkeypatch):
    tried = []
    monkeypatch.setattr(extension, "_load_cuda", lambda: tried.append(1) or "")
    monkeypatch.setattr(extension, "_NO_CUDA", None)
    extension.has_kernels(torch.zeros(1))
    extension.missing_kernels(torch.device("cpu"))
    assert not tried
    for _ in range(2):
        assert extension.has_kernels(SimpleNamespace(device=torch.device("cuda")))
    assert tried == [1]


def test_a_gpu_that_no_kernel_was_compiled_for_uses_references(gpu, monkeypatch):
    def fail(*_):
        raise RuntimeError(NO_KERNEL)

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    monkeypatch.setattr(torch, "ops", SimpleNamespace(hagan3d=SimpleNamespace(rms_norm=fail)))
    monkeypatch.setattr(extension, "_load", lambda name: "")
    monkeypatch.setattr(extension, "_NO_CPU", "")
    reason = extension._load_cuda()
    assert reason == f"do not run on compute capability 7.0: {NO_KERNEL.splitlines()[0]}"
    monkeypatch.setattr(extension, "_NO_CUDA", reason)
    assert reason in backend() and "PyTorch references on CUDA" in backend()
    assert extension.missing_kernels(torch.device("cuda")) == reason
    assert not extension.has_kernels(SimpleNamespace(device=torch.device("cuda")))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("a label of memory"), False),
    ],
)
def test_a_lack_of_memory_is_recognised_in_all_its_forms(error, expected):
    assert is_out_of_memory(error) == expected
