"""Which of several forms of an operator runs that compute the same: that of a fixed rule, or of a table of shapes.

A table is measured on a device by `hagan3d.engine.kernel_choice`. Without one, the rules of the operators decide.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

LAYOUTS = ("default", "channels_last")


class Call(NamedTuple):
    """A call of an operator: what its time depends on."""

    operator: str
    x: tuple[int, ...]
    """Shape of its input."""
    weight: tuple[int, ...]
    """Shape of its weight."""
    dtype: torch.dtype
    """Type in which it computes."""
    options: tuple[Any, ...]
    gradients: str
    """Which gradients the backward pass needs: ``x``, ``w`` (of the weight), both or none."""

    def __str__(self) -> str:
        return _text(self)


@lru_cache(maxsize=4096)  # a step asks for the same few hundred
def _text(call: Call) -> str:
    shapes = " ".join("x".join(map(str, shape)) for shape in (call.x, call.weight))
    options = " ".join(str(option).replace(" ", "") for option in call.options)
    return f"{call.operator} {shapes} {str(call.dtype).removeprefix('torch.')} {options} {call.gradients or '-'}"


@dataclass(frozen=True)
class Table:
    """The forms of a run; what it does not name is decided by the rule of the operator."""

    layout: str = "default"
    """Memory layout of the input of convolutions: ``default``, as the rules say, or ``channels_last``."""
    benchmark: bool = False
    """Whether cuDNN times its algorithms at the first call of each shape."""
    forms: Mapping[str, str] = field(default_factory=dict)
    """Form of each call, by its text."""


_table = Table()
_recorded: Counter[Call] | None = None


@contextmanager
def using(table: Table) -> Iterator[None]:
    """Let operators take the forms of a table inside this block."""
    global _table
    before, _table = _table, table
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, table.benchmark
    try:
        yield
    finally:
        _table, torch.backends.cudnn.benchmark = before, benchmark


@contextmanager
def recording() -> Iterator[Counter[Call]]:
    """Count the calls of operators inside this block."""
    global _recorded
    before, _recorded = _recorded, Counter()
    try:
        yield _recorded
    finally:
        _recorded = before


def chosen(operator: str, x: Tensor, weight: Tensor, *options: Any) -> str | None:
    """Return the form of a call that the table names, or None: the rule of the operator decides."""
    if (_recorded is None and not _table.forms) or torch.compiler.is_compiling():
        return None
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    learns = torch.is_grad_enabled()
    gradients = ("x" if learns and x.requires_grad else "") + ("w" if learns and weight.requires_grad else "")
    call = Call(operator, tuple(x.shape), tuple(weight.shape), dtype, options, gradients)
    if _recorded is not None:
        _recorded[call] += 1
    return _table.forms.get(str(call))


def in_layout(x: Tensor) -> Tensor:
    """Return ``x [B, C, D, H, W]`` in the layout of the table."""
    return x if _table.layout == "default" else x.contiguous(memory_format=torch.channels_last_3d)
