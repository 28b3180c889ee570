"""Muon: updates of weight matrices are made orthogonal, so that all directions of a layer learn at one rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.engine.lean_adam import MOMENTS, LeanAdam

MOMENTUM = 0.5  # with Nesterov's step; at 0.9 G lags behind D
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial of degree 5 that drives singular values towards 1
ITERATIONS = 5


class Muon(LeanAdam):
    """Muon for the weights of convolutions and linear layers in groups with ``muon``; Adam for all other weights.

    A weight ``[C_out, C_in, ...]`` is a matrix of C_out rows. Its update has the root mean square of the learning rate,
    about that of an update of Adam without first moment, so that rates carry over.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; scaled by the larger side of
    the matrix as by Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982, section 2.2.
    """

    def _moments_of(self, parameter: nn.Parameter, group: dict[str, Any]) -> tuple[str, ...]:
        return MOMENTS[:1] if _is_matrix(parameter, group) else super()._moments_of(parameter, group)

    def _update(
        self,
        parameter: nn.Parameter,
        grad: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        noise: torch.Generator,
    ) -> None:
        if not _is_matrix(parameter, group):
            super()._update(parameter, grad, state, group, noise)
            return
        name = MOMENTS[0]
        first = self._fetched(state, name, parameter.device).lerp_(grad, 1 - MOMENTUM)
        self._put_back(state, name, first, noise)
        ahead = grad.lerp(first, MOMENTUM).flatten(1)
        parameter.add_(orthogonal(ahead).view_as(parameter), alpha=-group["lr"] * math.sqrt(max(ahead.shape)))


def _is_matrix(parameter: nn.Parameter, group: dict[str, Any]) -> bool:
    """Return whether Muon updates a weight: not biases and norms, nor a single row or column, of one direction."""
    return bool(group.get("muon")) and parameter.ndim > 1 and 1 < len(parameter) < parameter.numel()


def orthogonal(x: Tensor) -> Tensor:
    """Return the matrix ``x [M, N]`` with singular values near 1; those far below its norm become less.

    Newton-Schulz iterations. All of them are polynomials of ``x x^T`` times ``x``, so that they are computed on that,
    the smaller square matrix: two products with ``x`` instead of ten.
    """
    if len(x) > x.shape[1]:
        return orthogonal(x.T).T
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    gram, product = x @ x.T, None
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ x
