"""Times of operators against the bandwidth of the memory, of a gradient penalty, and communication between GPUs."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from hagan3d import ops
from hagan3d.diagnosis.report import Finding
from hagan3d.engine.kernel_calls import seconds
from hagan3d.engine.kernel_choice import choose_forms
from hagan3d.engine.kernel_file import describe
from hagan3d.engine.memory_plan import Plan
from hagan3d.run_settings import load_config

ROUNDS = 6
CHOSEN = "hagan_64"
"""Config whose kernels are timed."""
SLOWEST = 0.1
"""Fraction of the bandwidth below which a kernel is at fault."""
LONGEST_PENALTY = 12.0
"""A gradient penalty takes about three backward passes; more than this many means that an algorithm is missing."""


def kernels(device: torch.device) -> Iterator[Finding]:
    """Yield the bandwidth of a copy, and the fraction of it that operators reach."""
    side = 128 if device.type == "cuda" else 32
    x = torch.randn(4, 32, side, side, side // 2, device=device)
    y = torch.empty_like(x)
    bandwidth = 2 * x.nbytes / seconds(lambda: y.copy_(x), device, ROUNDS)
    yield Finding("bandwidth", "ok", f"copy {bandwidth / 1e9:.0f} GB/s", {"bytes_per_second": bandwidth})
    channel = torch.ones(32, device=device)
    maps = x[:, :3]
    calls: dict[str, tuple[Callable[[], Tensor], int]] = {
        "rms_norm": (lambda: ops.rms_norm(x, channel, channel, "relu"), 2 * x.nbytes),
        "group_norm_relu": (lambda: ops.group_norm_relu(x, 8, channel, channel), 3 * x.nbytes),
        "ggd_nll": (lambda: ops.ggd_nll(maps, 0.1 * maps, 0.1 * maps), 3 * maps.nbytes),
    }
    for name, (call, moved) in calls.items():
        fraction = moved / seconds(call, device, ROUNDS) / bandwidth
        is_slow = device.type == "cuda" and fraction < SLOWEST
        text = f"forward at {fraction:.0%} of the bandwidth of a copy"
        yield Finding(f"speed of {name}", "FAILED" if is_slow else "ok", text, {"fraction": fraction})


def choice(device: torch.device) -> Iterator[Finding]:
    """Yield which forms of convolutions a run would take, as timed on the device."""
    if device.type != "cuda":
        yield Finding("choice of kernels", "note", "by fixed rules on a CPU; train.kernels measured times them")
        return
    found = choose_forms(Plan(load_config(CHOSEN), kind="cuda"), device)
    values = {"seconds": found.seconds, "seconds_by_rule": found.seconds_by_rule}
    yield Finding("choice of kernels", "ok", f"{CHOSEN} on {describe(device)}: {found}", values)


def penalty(device: torch.device) -> Iterator[Finding]:
    """Yield the time of a gradient penalty through strided convolutions, relative to a plain backward pass."""
    side, width = (128, 32) if device.type == "cuda" else (16, 4)
    x = torch.randn(1, 1, side, side, side, device=device, requires_grad=True)
    weights = [
        (0.1 * torch.randn(b, a, 4, 4, 4, device=device)).requires_grad_() for a, b in ((1, width), (width, 2 * width))
    ]

    def logits() -> Tensor:
        y = x
        for weight in weights:
            y = ops.conv3d(y, weight, None, (2, 2, 2), (1, 1, 1)).tanh()
        return y.sum()

    def penalised() -> object:
        (slope,) = torch.autograd.grad(logits(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weights)

    plain = seconds(lambda: torch.autograd.grad(logits(), weights), device, ROUNDS)
    ratio = seconds(penalised, device, ROUNDS) / plain
    is_slow = device.type == "cuda" and ratio > LONGEST_PENALTY
    text = f"takes {ratio:.1f} times a forward and backward pass ({plain * 1e3:.1f} ms)"
    yield Finding("gradient penalty", "FAILED" if is_slow else "ok", text, {"ratio": ratio})


def half_precision(device: torch.device) -> Iterator[Finding]:
    """Yield the memory that a convolution of a volume takes in half precision, which is large outside cuDNN."""
    if device.type != "cuda":
        return
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    x = torch.randn(1, 32, 64, 64, 64, device=device, dtype=dtype)
    weight = torch.randn(32, 32, 3, 3, 3, device=device, dtype=dtype)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    torch.nn.functional.conv3d(x, weight, padding=1)
    factor = (torch.cuda.max_memory_allocated(device) - before) / x.nbytes
    text = f"a {dtype} convolution allocates {factor:.1f} times its output"
    yield Finding("half precision", "FAILED" if factor > 8 else "ok", text, {"factor": factor})


def nccl(device: torch.device) -> Iterator[Finding]:
    """Yield whether all GPUs can add up their gradients."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if count < 2:
        yield Finding("NCCL", "note", f"not checked: {count} GPU(s)")
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_sum_ranks, (count, str(Path(folder) / "meeting")), nprocs=count)
    yield Finding("NCCL", "ok", f"{count} GPUs add up")


def _sum_ranks(rank: int, count: int, meeting: str) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=count)
    x = torch.full((1 << 20,), float(rank), device="cuda")
    dist.all_reduce(x)
    if not bool((x == count * (count - 1) / 2).all()):
        raise RuntimeError("NCCL gives a wrong sum")
    dist.destroy_process_group()
