"""How fast are the operators, and how much do they save for the backward pass?

Every result is checked against plain PyTorch before it is timed. Times are medians of interleaved runs, so that other
load of the machine affects all variants alike; ratios are medians of the ratios within a round. The last column is the
bandwidth for the minimum bytes of the operator, as a fraction of that of a copy between buffers larger than the caches.
For convolutions on CPU, the oneDNN algorithms that PyTorch calls are printed.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hagan3d import ops
from hagan3d.ops.device import set_tf32
from hagan3d.ops.upsample_conv import fixed_method

WARM_UP, SECONDS = 2, 4  # rounds before timing, least seconds of timing
COPY_BYTES = 1 << 28  # read and written


@dataclass(frozen=True)
class Case:
    """One operator at one size: variant ``eager`` is PyTorch's, ``ours`` the default of this package."""

    name: str
    variants: dict[str, Callable[..., Tensor]]
    inputs: tuple[Tensor, ...]  # if any needs a gradient, forward and backward are timed
    bytes_moved: int | None = None  # minimum memory traffic
    tolerance: float = 1e-3


def main() -> None:
    """Run all cases, print a table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=11, help="least number of timed rounds per case")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    options = parser.parse_args()
    set_tf32(False)  # results are compared in float32
    device = torch.device(options.device)
    machine = describe(device) | {"rounds": f"{options.rounds} or more"}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    rows = []
    for case in all_cases(device):
        if options.no_compile:
            case.variants.pop("compile", None)
        if options.only in case.name:
            rows += measure(case, device, options.rounds)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


def describe(device: torch.device) -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")), platform.machine())
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "operators": ops.backend(),
    }


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def all_cases(device: torch.device) -> Iterator[Case]:
    torch.manual_seed(0)
    yield from likelihood_cases(device)
    yield from window_cases(device)
    yield from up_convolution_cases(device)
    yield from norm_cases(device)


def likelihood_cases(device: torch.device, side: int = 128) -> Iterator[Case]:
    error, log_scale, log_shape = (0.5 * torch.randn(1, 1, side, side, side, device=device) for _ in range(3))
    leaves = tuple(t.requires_grad_() for t in (error, log_scale, log_shape))
    variants = {"eager": ops.ggd_nll_reference, "compile": torch.compile(ops.ggd_nll_reference), "ours": ops.ggd_nll}
    yield Case(f"ggd_nll mean, {side}^3, forward + backward", variants, leaves, 28 * side**3)

    def guide(value: Tensor, a: Tensor, lb: Tensor) -> Tensor:
        x = torch.exp(-lb.clamp(math.log(0.25), math.log(8)))
        log_sigma = (
            a.clamp(math.log(1e-3), math.log(10)) + (torch.lgamma(1 + 3 * x) - torch.lgamma(1 + x) - math.log(3)) / 2
        )
        sigma = log_sigma.exp()
        return (value * sigma / sigma.mean()).clamp(-10, 10)

    fixed = tuple(t.detach() for t in leaves)
    variants = {"eager": guide, "compile": torch.compile(guide), "ours": ops.ggd_guide}
    yield Case(f"ggd_guide, {side}^3, forward", variants, fixed, 24 * side**3)


def window_cases(device: torch.device, side: int = 128, depth: int = 16) -> Iterator[Case]:
    x = torch.randn(8, 1, side, side, side, device=device)
    start = torch.randint(0, side - depth, (8,), device=device)
    for axis in range(3):

        def eager(x: Tensor, axis: int = axis) -> Tensor:
            return ops.select_subvolume_reference(x, start, depth, axis)

        def ours(x: Tensor, axis: int = axis) -> Tensor:
            return ops.select_subvolume(x, start, depth, axis)

        variants = {"eager": eager, "compile": torch.compile(eager), "ours": ours}
        yield Case(f"select_subvolume, axis {axis}, forward", variants, (x,), 2 * 4 * 8 * side * side * depth)


def up_convolution_cases(device: torch.device) -> Iterator[Case]:
    for batch, c_in, c_out, side in (
        (1, 64, 32, 32),
        (1, 32, 1, 64),
        (1, 256, 128, 16),
        (16, 64, 32, 8),
        (16, 32, 1, 16),
    ):
        x = torch.randn(batch, c_in, side, side, side, device=device, requires_grad=True)
        weight = (torch.randn(c_out, c_in, 3, 3, 3, device=device) / math.sqrt(27 * c_in)).requires_grad_()
        bias = torch.zeros(c_out, device=device, requires_grad=True)
        variants = {
            "eager": ops.upsample_conv3d_reference,
            "eager, channels last": _channels_last(ops.upsample_conv3d_reference),
            "transposed": _method("transposed"),
            "transposed, channels last": _channels_last(_method("transposed")),
            "parity": _method("parity"),
            "parity, channels last": _channels_last(_method("parity")),
            "winograd": _method("winograd"),
            "ours": ops.upsample_conv3d,
        }
        name = f"upsample_conv3d, {c_in}->{c_out}, {batch} x {side}^3 -> {2 * side}^3, forward + backward"
        yield Case(name, variants, (x, weight, bias))


def norm_cases(device: torch.device) -> Iterator[Case]:
    for shape in ((16, 32, 16, 16, 16), (1, 32, 64, 64, 64)):
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            x = torch.randn(shape, device=device).contiguous(memory_format=layout).requires_grad_()
            weight, bias = (torch.randn(shape[1], device=device).requires_grad_() for _ in range(2))

            def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return ops.rms_norm_reference(x, weight, bias, "relu")

            def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return ops.rms_norm(x, weight, bias, "relu")

            variants = {"eager": eager, "compile": torch.compile(eager), "ours": ours}
            name = f"rms_norm + relu, {list(shape)}, {'last' if layout == torch.channels_last_3d else 'first'}, both"
            yield Case(name, variants, (x, weight, bias), 5 * 4 * x.numel())  # read x twice, grad; write y, grad


def _method(method: str) -> Callable[..., Tensor]:
    return lambda x, weight, bias: ops.upsample_conv3d(x, weight, bias, method=method)


def _channels_last(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *rest: function(x.contiguous(memory_format=torch.channels_last_3d), *rest)


def run(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the result and the gradients of its sum."""
    y = function(*inputs)
    leaves = [t for t in inputs if t.requires_grad]
    if not leaves:
        return (y,)
    return (y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y)))


def saved_bytes(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> int:
    """Return the bytes of distinct storages saved for the backward pass, without the inputs."""
    storages: dict[int, int] = {}
    keep: list[Tensor] = []
    own = {t.untyped_storage().data_ptr() for t in inputs}

    def pack(t: Tensor) -> Tensor:
        keep.append(t)
        if t.untyped_storage().data_ptr() not in own:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(*inputs)
    return sum(storages.values())


def timed(function: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter  # CPU time: other processes disturb it less
    begin = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begin


def measure(case: Case, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    check(case)
    calls = {name: (lambda f=f: run(f, case.inputs)) for name, f in case.variants.items()}
    if case.bytes_moved:
        source = torch.ones(COPY_BYTES // 8, device=device)
        target = torch.empty_like(source)
        calls["copy"] = partial(target.copy_, source)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in itertools.count():
        for name, call in calls.items():
            seconds = timed(call, device)
            if round_ >= WARM_UP:
                times[name].append(seconds)
        if round_ + 1 >= WARM_UP + rounds and sum(map(sum, times.values())) >= SECONDS:
            break
    rows = [row(case, name, times) for name in case.variants]
    print_rows(case, rows)
    if case.name.startswith("upsample_conv3d"):
        fastest = min(rows, key=lambda one: one["milliseconds"])["variant"]
        print(f"  by the fixed rule {fixed_method(*case.inputs[:2])}; the fastest is {fastest}", flush=True)
    if "conv3d" in case.name and device.type == "cpu":
        print(f"  eager runs {onednn_algorithms(partial(run, case.variants['eager'], case.inputs))}", flush=True)
    return rows


def check(case: Case) -> None:
    expected = run(case.variants["eager"], case.inputs)
    for name, function in case.variants.items():
        for ours, theirs in zip(run(function, case.inputs), expected, strict=True):
            error = ((ours - theirs).norm() / theirs.norm()).item()  # one value on the kink of a ReLU may differ
            if not error <= case.tolerance:
                raise SystemExit(f"{case.name}: {name} is wrong, relative error {error:g}")


def onednn_algorithms(function: Callable[[], Any]) -> str:
    """Name the convolutions in the log of oneDNN (ONEDNN_VERBOSE=1): pass, implementation, algorithm."""
    with tempfile.TemporaryFile("w+") as log:
        stdout = os.dup(1)
        os.dup2(log.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                function()
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        log.seek(0)
        fields = [line.split(",") for line in log if "exec" in line and "convolution" in line]
    names = []
    for line in fields:
        at = next(i for i, field in enumerate(line) if field in ("convolution", "deconvolution"))
        algorithm = next((part for field in line for part in field.split() if part.startswith("alg:")), "")
        names.append(f"{line[at + 2]} {line[at + 1]} {algorithm.rpartition('_')[2]}")
    return f"oneDNN: {'; '.join(dict.fromkeys(names))}" if names else "no oneDNN convolution: PyTorch's own kernels"


def row(case: Case, name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    def ratio(other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[other], times[name], strict=True))

    differentiable = any(t.requires_grad for t in case.inputs)
    return {
        "case": case.name,
        "variant": name,
        "milliseconds": 1e3 * statistics.median(times[name]),
        "fastest_milliseconds": 1e3 * min(times[name]),
        "times_eager": ratio("eager"),
        "fraction_of_copy": ratio("copy") * case.bytes_moved / COPY_BYTES if case.bytes_moved else None,
        "saved_mib": saved_bytes(case.variants[name], case.inputs) / 2**20 if differentiable else None,
    }


def print_rows(case: Case, rows: list[dict[str, Any]]) -> None:
    print(f"\n{case.name}")
    print(f"  {'':26} {'median ms':>10} {'fastest':>10} {'x eager':>8} {'saved MiB':>10} {'of copy':>8}")
    for r in rows:
        saved = "" if r["saved_mib"] is None else f"{r['saved_mib']:.1f}"
        copy = "" if r["fraction_of_copy"] is None else f"{r['fraction_of_copy']:.0%}"
        times = f"{r['milliseconds']:10.2f} {r['fastest_milliseconds']:10.2f} {r['times_eager']:8.2f}"
        print(f"  {r['variant']:26} {times} {saved:>10} {copy:>8}", flush=True)


if __name__ == "__main__":
    main()
