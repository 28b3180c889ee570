"""Weight transform of the Winograd convolutions: linear combinations of the 27 taps of a kernel."""

import torch
from torch import Tensor

from hagan3d.ops.extension import LOADED


def fold_taps(weight: Tensor, taps: Tensor) -> Tensor:
    """Transform a kernel to the weights ``[P * C_out, C_in]`` of P products, by coefficients ``taps`` ``[P, 27]``."""
    return torch.ops.hagan3d.fold_taps(weight, taps)


def unfold_taps(folded: Tensor, taps: Tensor) -> Tensor:
    """Adjoint of `fold_taps`: gradient in the kernel ``[C_out, C_in, 3, 3, 3]`` from that in the weights."""
    return torch.ops.hagan3d.unfold_taps(folded, taps).unflatten(2, (3, 3, 3))


if LOADED:

    @torch.library.register_fake("hagan3d::fold_taps")
    def _(weight: Tensor, taps: Tensor) -> Tensor:
        return weight.new_empty(len(taps) * weight.shape[0], weight.shape[1])

    @torch.library.register_fake("hagan3d::unfold_taps")
    def _(folded: Tensor, taps: Tensor) -> Tensor:
        return folded.new_empty(len(folded) // len(taps), folded.shape[1], taps.shape[1])
