"""Second derivatives of compiled operators, through their references.

An operator whose backward is a compiled operator itself needs a derivative of that one too, or a gradient penalty is
wrong without a word. It is rare and need not be fast, so the reference is differentiated twice.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def backward_through_reference(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Differentiate the first derivative of ``reference`` with respect to its incoming gradient and its inputs.

    Args:
        reference: The function whose backward is differentiated.
        inputs: Its arguments, all floating point.
        grad: The gradient of its result that the backward was given, or one that expands to it.
        cotangents: Gradients of the backward's results, one per input, or None.

    Returns:
        The gradients of ``grad`` and of each input. Any number of times differentiable.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        grad, *inputs = (_own_node(tensor) for tensor in (grad, *inputs))
        y = reference(*inputs)
        first = torch.autograd.grad(y, inputs, grad.to(y.dtype).expand_as(y), create_graph=True, materialize_grads=True)
        used = [(f, c) for f, c in zip(first, cotangents, strict=True) if c is not None and f.requires_grad]
        if not used:
            return [None] * (1 + len(inputs))
        outputs, weights = zip(*used, strict=True)
        sources = (grad, *inputs)
        return list(torch.autograd.grad(outputs, sources, weights, create_graph=create_graph, allow_unused=True))


def _own_node(tensor: Tensor) -> Tensor:
    """Give the same values a node of their own, for one tensor can be passed as two arguments."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
