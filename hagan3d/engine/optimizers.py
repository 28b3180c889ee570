"""Optimizers and the device of a config."""

from typing import Any

import torch

from hagan3d.config import TrainConfig
from hagan3d.engine.lean_adam import LeanAdam
from hagan3d.engine.muon import Muon
from hagan3d.errors import InputError
from hagan3d.ops.device import find_device, has_bf16


def make_optimizer(
    train: TrainConfig, lr: float, groups: list[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """Return an optimizer over groups of parameters.

    Adam: torch's (fused), NVIDIA apex's, or one with less state on the device; Muon if a group has ``muon``.

    Raises:
        InputError: If apex is requested and not installed (the package of that name on PyPI is another project).
    """
    with_muon = any(group.get("muon") for group in groups)
    if train.optimizer_state != "fp32" or with_muon:
        bits = {"bf16": 16, "8bit": 8}.get(train.optimizer_state, 32)
        home = torch.device("cpu") if train.optimizer_state == "offload" else None
        return (Muon if with_muon else LeanAdam)(groups, lr, train.betas, bits, home)
    if train.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=train.betas, fused=True)
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise InputError(
            "train.optimizer apex: NVIDIA apex is not installed (the package `apex` on PyPI is another project; "
            "build it from NVIDIA's repository), or use train.optimizer adam, which is fused too"
        ) from error
    if device.type != "cuda":
        raise InputError("train.optimizer apex: works on a GPU only; use train.optimizer adam")
    return FusedAdam(groups, lr=lr, betas=train.betas)


def choose_device(name: str, precision: str = "fp32", local_rank: int | None = None) -> torch.device:
    """Return the device named ``auto``, ``cpu`` or ``cuda``.

    Args:
        name: `train.device`.
        precision: Precision that the device must support.
        local_rank: Rank on this machine, which is the index of its GPU; None with a single rank.

    Raises:
        InputError: If there is no GPU, none for this process, or it lacks the precision.
    """
    device = find_device("train.device", name)
    if device.type == "cuda" and local_rank is not None:
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                f"use torchrun --nproc-per-node {torch.cuda.device_count()}, or use train.device cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if device.type == "cuda" and precision == "bf16" and not has_bf16("cuda"):
        raise InputError(f"train.precision bf16: {torch.cuda.get_device_name()} does not support it; use fp16 or fp32")
    return device


def precision_on(kind: str, precision: str) -> str:
    """Return `train.precision` on a kind of device, ``cpu`` or ``cuda``: what ``auto`` is there, or itself."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(kind) else "fp32"
