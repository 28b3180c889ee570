"""Operators on a device against their references, and whether results repeat."""

import itertools
from collections.abc import Iterator

import torch

from hagan3d.diagnosis.report import Finding, Status
from hagan3d.ops import checks, select_subvolume

LARGE = 2**31 + 2**20  # elements, more than an int32 counts


def operators(device: torch.device) -> Iterator[Finding]:
    """Yield a finding for each operator: all types, odd sizes, layouts, second derivatives."""
    dtypes = checks.DTYPES
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes = tuple(dtype for dtype in dtypes if dtype != torch.bfloat16)
        yield Finding("precision", "note", "no bf16 on this GPU: use train.precision fp16 or fp32")
    for operator in checks.operators():
        cases = list(itertools.product(operator.sizes, dtypes, checks.LAYOUTS))
        found = [checks.difference(operator, shape, dtype, device, layout) for shape, dtype, layout in cases]
        wrong = [text for text in found if text]
        detail = f"{wrong[0]} ({len(wrong)} of {len(cases)} cases)" if wrong else f"{len(cases)} cases equal references"
        yield Finding(operator.name, "FAILED" if wrong else "ok", detail)


def determinism(device: torch.device) -> Iterator[Finding]:
    """Yield whether every operator gives the same bits twice."""
    different = []
    for operator in checks.operators():
        runs = []
        for _ in range(2):
            arguments = checks.inputs(operator, checks.SHAPES[2], torch.float32, device, "contiguous")
            y = operator.ours(*arguments)
            runs.append([y, *torch.autograd.grad(y.sum(), arguments)])
        if not all(torch.equal(a, b) for a, b in zip(*runs, strict=True)):
            different.append(operator.name)
    # cuDNN's gradients in weights may use atomic additions; then a resumed run is not the same bit for bit.
    status: Status = "note" if device.type == "cuda" else "FAILED"
    text = f"differ in the last bits from call to call: {', '.join(different)}" if different else "same bits twice"
    yield Finding("determinism", status if different else "ok", text)


def large_tensors(device: torch.device) -> Iterator[Finding]:
    """Yield whether a window is cut correctly out of more than 2^31 elements, where the memory is enough."""
    needed = 3 * LARGE
    if device.type != "cuda" or torch.cuda.mem_get_info(device)[0] < needed:
        yield Finding("more than 2^31", "note", f"not checked: needs {needed / 1e9:.0f} GB of a GPU")
        return
    side = 1024
    x = torch.zeros(1, 1, LARGE // side**2, side, side, dtype=torch.int16, device=device)
    x[0, 0, -1] = 7
    start = torch.tensor([x.shape[2] - 2], device=device)
    y = select_subvolume(x, start, 2, dtype=torch.float32)
    is_right = bool((y[0, 0, 0] == 0).all() and (y[0, 0, 1] == 7).all())
    yield Finding("more than 2^31", "ok" if is_right else "FAILED", "select_subvolume at the end of 2^31 elements")
