"""Operators against their references in float64: values, gradients and second derivatives, for tests and `doctor`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d import ops
from hagan3d.ops.ggd_reference import guide_reference, mean_sigma_reference, sigma_reference

Function = Callable[..., Tensor]
DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest error, of the largest magnitude of the reference."""
LAYOUTS = ("contiguous", "channels last", "strided")
SHAPES = ((2, 8, 3, 4, 7), (1, 8, 1, 1, 1), (2, 8, 5, 9, 11))
"""Odd sizes, none a multiple of a warp or of a vector; 8 channels, which group norm divides."""
ONE_CHANNEL = ((2, 1, 4, 6, 14), (1, 1, 2, 2, 2))
SMALL = 0.05  # magnitude below which errors are absolute
SPREAD = 0.3  # standard deviation of random inputs, inside the bounds of the generalized Gaussian


@dataclass(frozen=True)
class Operator:
    """An operator, its reference in plain PyTorch, and the shapes of its arguments."""

    name: str
    ours: Function
    reference: Function
    shapes: Callable[[torch.Size], list[tuple[int, ...]]]
    """Shape of the first argument to those of all."""
    has_second: bool = True
    """Whether it is twice differentiable."""
    sizes: tuple[tuple[int, ...], ...] = SHAPES
    """Shapes of the first argument to compare at."""


def operators() -> Iterator[Operator]:
    """Yield the operators, those of convolutions in each of their forms."""

    def norm(shape: torch.Size) -> list[tuple[int, ...]]:
        return [shape, (shape[1],), (shape[1],)]

    def three(shape: torch.Size) -> list[tuple[int, ...]]:
        return [shape] * 3

    def kernel(*sides: int) -> Callable[[torch.Size], list[tuple[int, ...]]]:
        return lambda shape: [shape, (4, shape[1], *sides), (4,)]

    for activation in ("none", "relu"):
        ours = partial(ops.rms_norm, activation=activation)
        yield Operator(f"rms_norm {activation}", ours, partial(ops.rms_norm_reference, activation=activation), norm)
    groups = 4
    yield Operator("group_norm_relu", _grouped(ops.group_norm_relu, groups), _grouped(_group_norm, groups), norm, False)
    for reduction in ("none", "mean"):
        ours, reference = partial(ops.ggd_nll, reduction=reduction), partial(ops.ggd_nll_reference, reduction=reduction)
        yield Operator(f"ggd_nll {reduction}", ours, reference, three, reduction == "none")
    yield Operator("ggd_sigma", ops.ggd_sigma, sigma_reference, lambda shape: [shape] * 2)
    yield Operator("ggd_guide", ops.ggd_guide, _guide, three, False)
    yield Operator("select_subvolume", _cut(ops.select_subvolume), _cut(ops.select_subvolume_reference), lambda s: [s])
    for method in ("auto", "transposed", "parity"):
        up = partial(ops.upsample_conv3d, method=method)
        yield Operator(f"upsample_conv3d {method}", up, ops.upsample_conv3d_reference, kernel(3, 3, 3))
    strided = partial(ops.conv3d, stride=(2, 2, 2), padding=(1, 1, 1))
    # Not of one voxel, where the bfloat16 gradient in the weight was once seen to be uninitialised on a CPU.
    sizes = (SHAPES[0], SHAPES[2])
    plain = partial(F.conv3d, stride=2, padding=1)
    yield Operator("conv3d stride 2", strided, plain, kernel(3, 3, 3), sizes=sizes)
    yield Operator("conv3d blocks", partial(strided, form="blocks"), plain, kernel(4, 4, 4), sizes=ONE_CHANNEL)


def inputs(
    operator: Operator, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: str
) -> list[Tensor]:
    """Return random arguments; the same on every device."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in operator.shapes(torch.Size(shape)):
        x = (SPREAD * torch.randn(size, generator=generator)).to(device, dtype)
        if layout == "strided":
            x = x.repeat_interleave(2, -1)[..., ::2]
        elif layout == "channels last" and x.ndim == 5:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        made.append(x.requires_grad_())
    return made


def difference(
    operator: Operator, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: str = "contiguous"
) -> str:
    """Compare an operator with its reference in float64 on the same device.

    Returns:
        What differs and by how much, or an empty string.
    """
    own = inputs(operator, shape, dtype, device, layout)
    exact = [x.detach().double().requires_grad_() for x in own]
    has_second = operator.has_second and dtype in (torch.float32, torch.float64)
    found, expected = _derivatives(operator.ours, own, has_second), _derivatives(operator.reference, exact, has_second)
    kind = str(dtype).removeprefix("torch.")
    where = f"{operator.name}, {kind}, {list(shape)}, {layout}"
    for name, value in expected.items():
        if name not in found:
            return f"{where}: no {name}"
        ours = found[name].double()
        largest = float(value.abs().max()) if value.numel() else 0.0
        error = float((ours - value).abs().max()) if value.numel() else 0.0
        if not error <= TOLERANCE[dtype] * max(largest, SMALL):
            return f"{where}: {name} is off by {error:.2g} of {largest:.2g}"
    return ""


def _derivatives(function: Function, arguments: list[Tensor], has_second: bool) -> dict[str, Tensor]:
    """Return the value, the gradients and the second derivatives along fixed random directions, by name."""
    y = function(*arguments)
    along = _direction(y, 1)
    gradients = torch.autograd.grad(y, arguments, along, create_graph=has_second)
    found = {"value": y.detach()} | {f"gradient {i}": g.detach() for i, g in enumerate(gradients)}
    linear = [g for g in gradients if g.requires_grad]
    if has_second and linear:
        total = torch.stack([(g * _direction(g, 2)).sum() for g in linear]).sum()
        seconds = torch.autograd.grad(total, arguments, allow_unused=True, materialize_grads=True)
        found |= {f"second derivative {i}": s for i, s in enumerate(seconds)}
    return found


def _direction(x: Tensor, seed: int) -> Tensor:
    """Return random values of the shape and type of ``x``, representable in every type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator).to(torch.bfloat16).to(x.device, x.dtype)


def _grouped(function: Function, groups: int) -> Function:
    return lambda x, weight, bias: function(x, groups, weight, bias)


def _group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.group_norm(x.contiguous(), groups, weight, bias))


def _guide(value: Tensor, log_scale: Tensor, log_shape: Tensor) -> Tensor:
    return guide_reference(value, log_scale, log_shape, mean_sigma_reference(log_scale, log_shape), 10.0)


def _cut(function: Function) -> Function:
    def cut(x: Tensor) -> Tensor:
        start = torch.arange(len(x), device=x.device) % 2
        return function(x, start, max(1, x.shape[4] - 2), 2, 1)

    return cut
