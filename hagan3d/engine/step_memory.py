"""Live bytes of a training step: how much memory its tensors hold at most, counted, with real or fake tensors."""

import contextlib
from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

from hagan3d.checkpoint.build import make_networks
from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.batches.steps import StepBatch
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.engine.lean_adam import LeanAdam
from hagan3d.engine.updates import Updates
from hagan3d.methods.phase import Recipe
from hagan3d.peak_memory import LiveBytes


def count_step(config: Config, recipe: Recipe, num_classes: int = 0, fake: bool = True) -> dict[str, int]:
    """Count the live bytes of a training step, without computing it unless asked to.

    Args:
        config: The run.
        recipe: Its phases.
        num_classes: Classes of a conditional model.
        fake: Whether to run the step on fake tensors, which have shapes and no values.

    Returns:
        Peak of each phase by its name, and what stays between steps as ``static``: weights, Adam's moments, averages.
        Of a recipe whose phases change, the most there is at any of the steps at which one begins.
        Moments that are offloaded do not count, the parts of them that a step has on the device do.
    """
    peaks: dict[str, int] = {}
    with FakeTensorMode() if fake else contextlib.nullcontext():
        networks = make_networks(config, num_classes)
        updates = Updates(config.train, recipe.phases, networks, torch.device("cpu"))
        averages = [average.state for average in updates.averages.values()]
        with LiveBytes([*networks.state_dict().values(), *tree_iter(averages)]) as live:
            live.leave_out(networks.elsewhere())
            batch = made_up_batch(config, recipe)
            for step in recipe.beginnings:
                updates.prepare(step)
                _make_moments(updates)
                live.leave_out(
                    moment for o in updates.optimizers.values() if isinstance(o, LeanAdam) for moment in o.at_home()
                )
                for phase in (phase for phase in recipe.phases if phase.is_alive(step)):
                    live.reset_peak()
                    updates.run(phase, replace(batch, phase=phase.name, step=step))
                    peaks[phase.name] = max(live.peak, peaks.get(phase.name, 0))
                peaks["static"] = max(live.now, peaks.get("static", 0))
    return {name: peaks[name] for name in [*(name for name in peaks if name != "static"), "static"]}


def _make_moments(updates: Updates) -> None:
    """Let every optimizer make its state, as its first step does."""
    for optimizer in updates.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class _MadeUp(Batch):
    """A batch of fake tensors."""

    def normal(self, name: str, count: int) -> Tensor:
        return torch.zeros(len(self), count)

    def slabs(self) -> Generator[Tensor]:
        depth = self.window.shape[2]
        for _ in range(0, self.low.shape[2] * (self.window.shape[3] // self.low.shape[3]), depth):
            yield torch.zeros_like(self.window)


def made_up_batch(config: Config, recipe: Recipe) -> StepBatch:
    """Return a batch of zeros of the shapes of a run, as the first step would see it."""
    count, size, factor = config.train.batch_size, config.data.size, config.data.factor
    if config.translates:
        return _made_up_pairs(config, recipe)
    return _MadeUp(
        window=torch.zeros(count, 1, config.data.depth, *size[1:]),
        low=torch.zeros(count, 1, *(side // factor for side in size)),
        start=torch.zeros(count, dtype=torch.int64),
        label=torch.zeros(count, dtype=torch.int64),
        volumes=None,
        samples=tuple(range(count)),
        seed=0,
        step=0,  # lazy terms such as R1 are part of it
        state=recipe.state,
    )


def _made_up_pairs(config: Config, recipe: Recipe) -> PairBatch:
    data, count = config.data, config.train.batch_size
    channels = config.translation.source_channels, config.translation.target_channels
    source, target = (torch.zeros(count, channel, *data.seen_size) for channel in channels)
    made = PairBatch(
        source=source,
        target=target,
        mask=torch.zeros(count, 1, *data.seen_size),
        samples=tuple(range(count)),
        seed=0,
        step=0,
        state=recipe.state,
    )
    if data.window != "hierarchical":
        return made
    low_source, low_target = (torch.zeros(count, channel, *data.low_size) for channel in channels)
    start = torch.zeros(count, dtype=torch.int64)
    return replace(made, start=start, low_source=low_source, low_target=low_target)
