"""Peak memory of a training step: the bytes of its tensors, counted on real or fake tensors."""

import contextlib
from collections.abc import Collection
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

from hagan3d.engine.lean_adam import LeanAdam
from hagan3d.engine.updates import Updates
from hagan3d.methods.base import Method
from hagan3d.methods.phase import stage_starts
from hagan3d.methods.registry import make_networks
from hagan3d.ops.device import planned_for
from hagan3d.peak_memory import PeakMemory


def count_step(
    method: Method,
    num_classes: int = 0,
    fake: bool = True,
    only: Collection[str] | None = None,
    kind: str = "cpu",
) -> dict[str, int]:
    """Count the peak memory of a training step, by default without computing it.

    Args:
        method: The method of a run.
        num_classes: Classes of a conditional model.
        fake: Whether to run the step on fake tensors, which have shapes and no values.
        only: Names of the phases to count. Default: all.
        kind: ``cpu`` or ``cuda``: the device that it is counted for, which need not be here if ``fake``.

    Returns:
        Peak of each phase by its name, and what is stored between steps as ``static``: weights, Adam's moments, moving
        averages. If phases start at different steps, the largest of all these steps. Offloaded moments do not count,
        but the slices of them that a step has on the device do.
    """
    config, phases = method.config, method.training_phases()
    counted = [phase for phase in phases if only is None or phase.name in only]
    peaks: dict[str, int] = {}
    with FakeTensorMode() if fake else contextlib.nullcontext(), planned_for(kind):
        networks = make_networks(config, num_classes)
        updates = Updates(config.train, phases, networks, torch.device("cpu"))
        method.add_extractor(None, torch.device("cpu"))
        frozen = [] if method.extractor is None else list(method.extractor.state_dict().values())
        averages = [average.state for average in updates.averages.values()]
        with PeakMemory([*networks.state_dict().values(), *frozen, *tree_iter(averages)]) as memory:
            memory.exclude(networks.offloaded_state())
            batch = method.zero_batch()
            for step in stage_starts(phases):
                updates.prepare(step)
                _make_moments(updates)
                lean = [optimizer for optimizer in updates.optimizers.values() if isinstance(optimizer, LeanAdam)]
                memory.exclude(moment for optimizer in lean for moment in optimizer.offloaded())
                for phase in (phase for phase in counted if phase.is_active(step)):
                    memory.reset_peak()
                    updates.run(phase, replace(batch, phase=phase.name, step=step))
                    peaks[phase.name] = max(memory.peak, peaks.get(phase.name, 0))
                peaks["static"] = max(memory.now, peaks.get("static", 0))
    return {name: peaks[name] for name in [*(name for name in peaks if name != "static"), "static"]}


def _make_moments(updates: Updates) -> None:
    """Let every optimizer make its state, as its first step does."""
    for optimizer in updates.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
