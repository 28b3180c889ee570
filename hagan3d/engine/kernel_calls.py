"""Single calls of operators, as a training step makes them: the forms that they can take, their memory and time."""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hagan3d import ops
from hagan3d.engine.margins import current_margins
from hagan3d.errors import is_device_fault, is_out_of_memory
from hagan3d.ops import forms
from hagan3d.ops.block_conv import has_block_form
from hagan3d.ops.device import planned_for
from hagan3d.ops.forms import Call
from hagan3d.ops.upsample_conv import available_methods, fixed_method
from hagan3d.peak_memory import PeakMemory

Timer = Callable[[Callable[[], object], torch.device], float]
CPU = torch.device("cpu")
ROUNDS = 3


def seconds(function: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the median time of a call, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        _synchronize(device)
        begin = time.perf_counter()
        function()
        _synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def available_forms(call: Call, kind: str) -> tuple[list[str], str]:
    """Return the forms of a call on a kind of device, and that of the fixed rule."""
    with FakeTensorMode(), planned_for(kind), _autocast(call, CPU):
        x, weight = torch.empty(call.x, dtype=call.dtype), torch.empty(call.weight)
        if call.operator == "upsample_conv3d":
            return available_methods(x, weight), fixed_method(x, weight)
        has_blocks = call.operator == "conv3d" and has_block_form(x, weight, *call.options)
    return ["direct", *(["blocks"] if has_blocks else [])], "direct"


def counted_peak(call: Call, form: str, kind: str) -> int:
    """Return the bytes that a call and its backward pass take at most, without those of its arguments."""
    with FakeTensorMode(), planned_for(kind):
        run = _runner(call, form, CPU)
        with PeakMemory() as memory:
            run()
    return memory.peak


def call_seconds(call: Call, form: str, device: torch.device, timer: Timer) -> float | None:
    """Return the time of a call and its backward pass.

    None if it takes more memory than is planned for it, or the libraries of the device do not compute it, which a line
    tells. Errors after which a GPU computes nothing more are raised.
    """
    try:
        run = _runner(call, form, device)
        if device.type != "cuda":
            return timer(run, device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        duration = timer(run, device)
        allocated = torch.cuda.max_memory_allocated(device) - before
    except RuntimeError as error:
        if is_device_fault(error) and not is_out_of_memory(error):
            error.add_note(f"while the form {form} of {call} was timed; --train.kernels fixed times none")
            raise
        if not is_out_of_memory(error):
            print(f"kernels: the form {form} of {call} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        elif device.type == "cuda":
            torch.cuda.empty_cache()
        return None
    planned = counted_peak(call, form, device.type) + current_margins().workspace
    return duration if allocated <= planned else None


def _runner(call: Call, form: str, device: torch.device) -> Callable[[], None]:
    """Return a function that computes a call on noise, in the layout of the table, and its backward pass."""
    generator = torch.Generator(device).manual_seed(0)
    x = forms.in_layout(torch.randn(call.x, generator=generator, device=device, dtype=call.dtype))
    weight = torch.randn(call.weight, generator=generator, device=device)
    bias = torch.zeros(len(weight), device=device)
    for tensor, name in ((x, "x"), (weight, "w"), (bias, "w")):
        tensor.requires_grad_(name in call.gradients)
    leaves = [tensor for tensor in (x, weight, bias) if tensor.requires_grad]

    def run() -> None:
        with torch.set_grad_enabled(bool(leaves)), _autocast(call, device):
            y = _compute(call, form, x, weight, bias)
        if leaves:
            torch.autograd.grad(y, leaves, torch.ones_like(y))

    return run


def _compute(call: Call, form: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    options: Any = call.options
    if call.operator == "upsample_conv3d":
        return ops.upsample_conv3d(x, weight, bias, options[0], form)
    if call.operator == "conv3d":
        stride, padding = options
        return ops.conv3d(x, weight, bias, stride, padding, form=form)
    if call.operator == "rms_norm":
        return ops.rms_norm(x, weight, bias, options[0])
    return ops.group_norm_relu(x, options[0], weight, bias)


def _autocast(call: Call, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, call.dtype, enabled=call.dtype in (torch.bfloat16, torch.float16))
