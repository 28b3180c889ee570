"""Training steps on a device against the CPU, and their peak memory against the plan."""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from hagan3d.config import Config
from hagan3d.data.batches.steps import StepBatch
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.data.batches.whole_volumes import VolumesInMemory
from hagan3d.diagnosis.report import Finding
from hagan3d.engine.margins import Margins, save_margins
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.updates import Updates
from hagan3d.methods.base import Method
from hagan3d.methods.phase import stage_starts
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.ops.device import planned_for
from hagan3d.run_settings import load_config

CPU = torch.device("cpu")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 1e-2  # relative, in float32
NARROW: dict[str, dict[str, Any]] = {
    "hagan_32": {"channels": 64, "d_channels": 64, "latent_dim": 16, "r1_weight": 1.0},
    "pix2pix_32": {"width": 8},
    "hagan_128": {"channels": 64, "d_channels": 64, "latent_dim": 16},
}
"""Shipped configs made narrow, for a step on a CPU takes as long as all other checks."""
LARGE = 2**30  # bytes: a run from which the share of gaps between blocks is taken
LARGEST_CONTEXT = 2 * 2**30  # bytes outside the allocator; beyond, they are of other processes
MEASURED = ("hagan_64", "hagan_128", "upgan_32")
"""Configs whose peak memory is measured."""


def narrow(name: str) -> Config:
    """Return a shipped config with few channels and a batch of two, in float32."""
    config = load_config(name)
    changes = NARROW[name] | ({"minibatch_std": 2} if hasattr(config.method, "minibatch_std") else {})
    train = {"batch_size": 2, "accumulate": 1, "ema": 0.0, "precision": "fp32"}
    return load_config(name, **{config.name: changes}, train=train)


def random_batch(method: Method) -> StepBatch:
    """Return a batch of noise with the shapes of a run, on the CPU."""
    zero, generator = method.zero_batch(), torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).tanh()

    kind = Batch if isinstance(zero, Batch) else type(zero)
    values = {f.name: getattr(zero, f.name) for f in fields(kind)}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            values[name] = torch.ones_like(value) if "mask" in name else noise(*value.shape)
    if isinstance(zero, Batch):
        data = method.config.data
        values["volumes"] = VolumesInMemory(noise(len(zero), zero.window.shape[1], *data.size))
        return Batch(**values)
    return replace(zero, **values)


def gradients(config: Config, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the loss terms of every phase and its gradient in each network, as vectors on the CPU."""
    method = make_method(config)
    torch.manual_seed(0)
    updates = Updates(config.train, method.training_phases(), make_networks(config), device)
    batch, terms, found = random_batch(method).to(device), dict[str, float](), dict[str, Tensor]()
    for phase in updates.phases:
        updates.prepare(phase.first)

        def keep(*_: Any, phase: str = phase.name, names: Sequence[str] = phase.updates) -> None:
            for name in names:
                parts = [p.grad.flatten() for p in updates.networks[name].parameters() if p.grad is not None]
                found[f"{phase}, {name}"] = torch.cat(parts).cpu()

        updates.optimizers[phase.name].step = keep  # type: ignore[assignment, method-assign]
        state = method.initial_state()
        values = updates.run(phase, replace(batch, phase=phase.name, step=phase.first, state=state))
        terms |= {f"{phase.name}/{name}": float(value) for name, value in values.items()}
    return terms, found


def step_against_cpu(name: str, device: torch.device) -> Iterator[Finding]:
    """Yield whether losses and gradients of a step are those of the CPU; on a CPU, those of a GPU's branches are."""
    config = narrow(name)
    terms, expected = gradients(config, CPU)
    with planned_for("cuda") if device.type == "cpu" else nullcontext():
        own_terms, found = gradients(config, device)
    loss, term = largest({k: abs(own_terms[k] - v) / max(abs(v), 1e-2) for k, v in terms.items()})
    error, network = largest(
        {k: float((found[k] - v).norm() / v.norm().clamp(min=1e-8)) for k, v in expected.items() if k in found}
    )
    is_right = loss <= LOSS_TOLERANCE and error <= GRADIENT_TOLERANCE and found.keys() == expected.keys()
    where = "branches of a GPU, on the CPU" if device.type == "cpu" else str(device)
    text = f"{where}: losses within {loss:.1e} ({term}), gradients within {error:.1e} ({network}) of the CPU's"
    yield Finding(f"step of {name}", "ok" if is_right else "FAILED", text, {"loss": loss, "gradient": error})


def largest(errors: dict[str, float]) -> tuple[float, str]:
    """Return the largest of some errors and its name; NaN is larger than any other."""
    name = max(errors, key=lambda key: math.inf if math.isnan(errors[key]) else errors[key])
    return errors[name], name


def memory(device: torch.device) -> Iterator[Finding]:
    """Yield measured against planned peak memory, and keep the margins that were measured for `plan`."""
    if device.type != "cuda":
        yield Finding("memory", "note", "measured on GPUs alone")
        return
    total = torch.cuda.mem_get_info(device)[1]
    rows = []
    for name in MEASURED:
        config = load_config(name)
        counted = max(count_step(make_method(config), kind="cuda").values())
        if counted > 0.7 * total:
            continue
        allocated, reserved, lost = _measured(config, device)
        rows.append((counted, allocated, reserved, lost))
        text = f"counted {counted / 1e9:.2f} GB, allocated {allocated / 1e9:.2f}, reserved {reserved / 1e9:.2f}"
        yield Finding(f"memory of {name}", "ok" if allocated <= 1.3 * counted + 2**30 else "FAILED", text)
    margins = margins_of(rows)
    if margins.context > LARGEST_CONTEXT:
        text = f"not kept: other processes use {margins.context / 1e9:.1f} GB of the GPU; run `hagan3d doctor` alone"
        yield Finding("margins", "note", text)
        return
    path = save_margins(torch.cuda.get_device_name(device), margins)
    yield Finding("margins", "note", f"{margins}; `plan` reads them from {path}")


def margins_of(rows: Sequence[tuple[int, int, int, int]]) -> Margins:
    """Return the margins of some runs: bytes counted, bytes of tensors, of the allocator, and that the GPU lost."""
    gaps, extra = list[float](), [0]
    for counted, allocated, reserved, _ in rows:
        if allocated > LARGE:
            gaps.append((reserved - allocated) / allocated)
            extra.append(allocated - counted)
        else:  # the allocator takes whole segments: a large share of a small run, and no more bytes of a large one
            extra.append(reserved - counted)
    context = max((lost - reserved for _, _, reserved, lost in rows), default=Margins.context)
    return Margins(context, max(extra), max(gaps, default=Margins.fragmentation))


def _measured(config: Config, device: torch.device) -> tuple[int, int, int]:
    """Run two steps; return the bytes that tensors took, that the allocator took, and that the GPU lost."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    method = make_method(config)
    updates = Updates(config.train, method.training_phases(), make_networks(config), device)
    batch = method.zero_batch().to(device)
    for step in (step for step in stage_starts(updates.phases) for _ in range(2)):
        updates.prepare(step)
        for phase in (phase for phase in updates.phases if phase.is_due(step)):
            updates.run(phase, replace(batch, phase=phase.name, step=step))
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), total - free
