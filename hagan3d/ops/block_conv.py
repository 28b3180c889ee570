"""Convolution of one channel with kernel 4, stride 2 and padding 1, as one of eight channels with kernel 2.

Tensor cores compute multiples of eight channels. With the padded input cut into blocks of 2^3 voxels, whose voxels
become channels, tap 2 j + r of the kernel meets voxel r of block o + j: y[o] is the sum of w[2 j + r] x[2 (o + j) + r]
over j and r in {0, 1} along each axis. The sums are the same.
"""

from torch import Tensor
from torch.nn import functional as F

from hagan3d.ops.device import device_kind


def has_block_form(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> bool:
    """Return whether the convolution of ``x [B, C, D, H, W]`` can be written so, and a GPU computes it."""
    is_halving = weight.shape[1:] == (1, 4, 4, 4) and tuple(stride) == (2, 2, 2) and tuple(padding) == (1, 1, 1)
    return is_halving and device_kind(x) == "cuda" and all(side % 2 == 0 for side in x.shape[2:])


def to_blocks(x: Tensor) -> Tensor:
    """Pad ``[B, 1, D, H, W]`` by zeros and return the voxels of its blocks as channels ``[B, 8, D/2 + 1, ...]``."""
    x = F.pad(x, (1,) * 6)
    d, h, w = (side // 2 for side in x.shape[2:])
    return x.view(len(x), d, 2, h, 2, w, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(len(x), 8, d, h, w)


def fold_blocks(weight: Tensor) -> Tensor:
    """Reorder a kernel ``[C_out, 1, 4, 4, 4]`` as that of the blocks ``[C_out, 8, 2, 2, 2]``."""
    return weight.view(-1, 2, 2, 2, 2, 2, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, 8, 2, 2, 2)


def unfold_blocks(folded: Tensor) -> Tensor:
    """Invert `fold_blocks`, which is its adjoint."""
    return folded.reshape(-1, 2, 2, 2, 2, 2, 2).permute(0, 4, 1, 5, 2, 6, 3).reshape(-1, 1, 4, 4, 4)
