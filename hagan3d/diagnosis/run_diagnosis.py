"""All checks of an installation, one after the other."""

from collections.abc import Iterator
from functools import partial

import torch

from hagan3d.diagnosis.environment import environment
from hagan3d.diagnosis.operators import determinism, large_tensors, operators
from hagan3d.diagnosis.report import Check, Finding, run_check
from hagan3d.diagnosis.speed import choice, half_precision, kernels, nccl, penalty
from hagan3d.diagnosis.steps import memory, step_against_cpu
from hagan3d.ops.device import set_tf32


def diagnose(device: torch.device, full: bool = False) -> Iterator[Finding]:
    """Yield a finding for each checked fact.

    Args:
        device: The device to check, against references and against the CPU.
        full: Whether to check what takes longer: a step at 128^3, and tensors of more than 2^31 elements.
    """
    set_tf32(False)  # comparisons with float64
    checks: dict[str, Check] = {
        "versions": partial(environment, device),
        "operators": partial(operators, device),
        "determinism": partial(determinism, device),
        "step of hagan_32": partial(step_against_cpu, "hagan_32", device),
        "step of pix2pix_32": partial(step_against_cpu, "pix2pix_32", device),
        "kernels": partial(kernels, device),
        "choice of kernels": partial(choice, device),
        "gradient penalty": partial(penalty, device),
        "half precision": partial(half_precision, device),
        "NCCL": partial(nccl, device),
        "memory": partial(memory, device),
    }
    if full:
        checks |= {
            "step of hagan_128": partial(step_against_cpu, "hagan_128", device),
            "more than 2^31": partial(large_tensors, device),
        }
    for name, check in checks.items():
        yield from run_check(name, check)
