"""References in the graph: second derivatives of compiled operators, and fallbacks that save their inputs alone.

If the backward of an operator is a compiled operator, that one needs a derivative, too: otherwise a gradient penalty is
silently wrong. Second derivatives are rare and need not be fast.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def saving_inputs(reference: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Return ``reference(*inputs)``; like a compiled operator it saves the inputs alone, and recomputes the rest."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return checkpoint(reference, *inputs, use_reentrant=False, preserve_rng_state=False)
    return reference(*inputs)


def backward_through_reference(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Differentiate the backward pass of ``reference`` in its incoming gradient and its inputs.

    Args:
        reference: The function whose backward pass is differentiated.
        inputs: Its arguments, all floating point.
        grad: The incoming gradient of the backward pass, or one that expands to it.
        cotangents: Gradients of the results of the backward pass, one per input, or None.

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
    """Return the same values as a separate graph node, since one tensor can be passed as two arguments."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
