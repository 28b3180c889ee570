"""Custom operators: each a validated public function and a reference in plain PyTorch.

A compiled kernel runs if one was built for the device of the tensor, otherwise the reference; ``backend`` names which.
"""

from hagan3d.ops.conv import conv3d, conv_transpose3d
from hagan3d.ops.extension import backend
from hagan3d.ops.ggd import ggd_guide, ggd_log_sigma, ggd_mean_sigma, ggd_nll, ggd_nll_reference, ggd_sigma
from hagan3d.ops.group_norm import group_norm_relu, group_norm_relu_reference
from hagan3d.ops.rms_norm import rms_norm, rms_norm_reference
from hagan3d.ops.subvolume import missing_halo, select_subvolume, select_subvolume_reference, select_subvolumes
from hagan3d.ops.upsample_conv import fold_weight, upsample_conv3d, upsample_conv3d_reference

__all__ = [
    "backend",
    "conv3d",
    "conv_transpose3d",
    "fold_weight",
    "ggd_guide",
    "ggd_log_sigma",
    "ggd_mean_sigma",
    "ggd_nll",
    "ggd_nll_reference",
    "ggd_sigma",
    "group_norm_relu",
    "group_norm_relu_reference",
    "missing_halo",
    "rms_norm",
    "rms_norm_reference",
    "select_subvolume",
    "select_subvolume_reference",
    "select_subvolumes",
    "upsample_conv3d",
    "upsample_conv3d_reference",
]
