"""Weight transform of the Winograd up-convolution: linear combinations of the 27 taps of a kernel."""

import torch
from torch import Tensor


def fold_taps(weight: Tensor, taps: Tensor) -> Tensor:
    """Transform a kernel to the weights ``[P * C_out, C_in]`` of P products, by coefficients ``taps`` ``[P, 27]``."""
    return torch.mm(taps, weight.reshape(-1, 27).t()).view(-1, weight.shape[1])


def unfold_taps(folded: Tensor, taps: Tensor) -> Tensor:
    """Adjoint of `fold_taps`: gradient in the kernel ``[C_out, C_in, 3, 3, 3]`` from that in the weights."""
    return torch.mm(folded.view(len(taps), -1).t(), taps).view(-1, folded.shape[1], 3, 3, 3)
