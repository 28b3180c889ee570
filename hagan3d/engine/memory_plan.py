"""Plan of a run before it starts: peak memory, whether it fits a card, the cheapest change that makes it fit, cost."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hagan3d.config import Config
from hagan3d.engine.margins import current_margins
from hagan3d.engine.optimizers import precision_on
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.methods.base import Method
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.ops.device import has_bf16, planned_for

LARGEST_BATCH = 64  # volumes, upper bound of the search
LEADING = 0.9  # of the largest peak of a phase: phases with smaller ones are not counted again
ROUNDING = 1e-3  # of the peak memory: since an allocator rounds up, peaks deviate from lines by less


@dataclass(frozen=True)
class Plan:
    """What one step of a run needs, counted on fake tensors: nothing is computed and no GPU is needed."""

    config: Config
    num_classes: int = 0
    kind: str = "cpu"
    """Device that it is planned for, ``cpu`` or ``cuda``; none needs to be here."""

    @property
    def method(self) -> Method:
        """A method of the run, with an empty cache."""
        return make_method(self.config)

    @cached_property
    def peaks(self) -> dict[str, int]:
        """Peak memory of each phase, and of what is stored between steps (``static``), bytes."""
        return count_step(self.method, self.num_classes, kind=self.kind)

    @property
    def peak(self) -> int:
        """Peak memory of a step, bytes."""
        return max(self.peaks.values())

    @property
    def needed(self) -> int:
        """Bytes of a card that the run needs: peak memory, fragmentation, workspaces and context."""
        return with_margin(self.peak)

    def fits(self, vram: int) -> bool:
        """Return whether a card of ``vram`` bytes is enough."""
        return self.needed <= vram

    @cached_property
    def flops(self) -> dict[str, int]:
        """Floating point operations of each phase, of convolutions and matrix products.

        If phases start at different steps, not all are part of one step. Lazy penalties are left out, since most steps
        have none.
        """
        method, period = self.method, self.config.method.loss_period
        phases = method.training_phases()
        counts: dict[str, int] = {}
        with FakeTensorMode(), planned_for(self.kind):
            updates = Updates(
                self.config.train, phases, make_networks(self.config, self.num_classes), torch.device("cpu")
            )
            method.add_extractor(None, torch.device("cpu"))
            batch = method.zero_batch()
            for phase in phases:
                updates.prepare(phase.first)
                with FlopCounterMode(display=False) as counter:
                    for step in range(phase.first + 1, phase.first + 1 + period):
                        updates.run(phase, replace(batch, phase=phase.name, step=step))
                counts[phase.name] = counter.get_total_flops() // period
        return counts

    def changed(self, **train: object) -> "Plan":
        """Return the plan with other settings of `train`."""
        return replace(self, config=replace(self.config, train=replace(self.config.train, **train)))  # type: ignore[arg-type]

    def largest_batch(self, vram: int) -> int:
        """Return the largest batch without accumulation, up to `LARGEST_BATCH`, that fits ``vram`` bytes; 0: none.

        The peak memory of a phase is a maximum of affine functions of the batch, thus convex: the line through two
        small batches is a lower bound for larger ones, and exact for most. Its answer is checked by a count of the
        phases that need most; where the line is not exact, bisection takes a few more counts.
        """
        unit, train = self.config.group, self.config.train
        units = max(1, LARGEST_BATCH // unit)
        second = train.batch_size // unit if train.accumulate == 1 and train.batch_size >= 2 * unit else 2
        first = max(1, second // 2)
        if units == 1:
            return unit if self._at_batch(unit).fits(vram) else 0
        peaks = {n: self._at_batch(n * unit).peaks for n in (first, second)}
        lines = {name: (peak, (peaks[second][name] - peak) / (second - first)) for name, peak in peaks[first].items()}

        @cache
        def needed(n: int) -> int:
            if n in peaks:
                return with_margin(max(peaks[n].values()))
            bounds = {name: peak + (n - first) * slope for name, (peak, slope) in lines.items()}
            leading = [name for name, bound in bounds.items() if bound >= LEADING * max(bounds.values())]
            plan = self._at_batch(n * unit)
            return with_margin(max(count_step(plan.method, self.num_classes, only=leading, kind=self.kind).values()))

        def bound(n: int) -> int:
            return with_margin(max(peak + (n - first) * slope for peak, slope in lines.values()) * (1 - ROUNDING))

        fitting = [n for n in range(1, units + 1) if (needed(n) if n in peaks else bound(n)) <= vram]
        for n in reversed(fitting[-2:]):
            if needed(n) <= vram:
                return n * unit
        return bisect_right(fitting[:-2], vram, key=needed) * unit

    def _at_batch(self, batch: int) -> "Plan":
        """Return the plan at another batch size, without accumulation."""
        if (batch, 1) == (self.config.train.batch_size, self.config.train.accumulate):
            return self
        return self.changed(batch_size=batch, accumulate=1)


def with_margin(peak: float) -> int:
    """Return the bytes of a card that a peak of tensors needs."""
    margins = current_margins()
    return math.ceil(peak * (1 + margins.fragmentation)) + margins.workspace + margins.context


RESUMABLE = ("recompute_norms", "accumulate", "checkpointing")  # settings that may change in the middle of a run


def remedies(plan: Plan, resumes: bool = False) -> Iterator[tuple[str, Plan]]:
    """Yield changes that lower the memory of a run, the cheapest first, each together with those before it.

    Changes that do not alter the result come first; those that lower no phase of this method are left out, and with
    ``resumes`` those that a run cannot go on with.
    """
    train, group = plan.config.train, plan.config.group
    counts = [n for n in range(train.accumulate + 1, train.batch_size + 1) if train.batch_size % (n * group) == 0]
    has_choice = (train.optimizer, train.optimizer_state) == ("adam", "fp32")
    is_wide = precision_on(plan.kind, train.precision) == "fp32"
    narrow = "bf16" if plan.kind == "cpu" or has_bf16(plan.kind) else "fp16"
    taken, best = dict[str, object](), plan
    for name, value in [
        ("recompute_norms", True),
        *([("optimizer_state", "lean")] if has_choice else []),
        *(("accumulate", n) for n in counts),
        ("checkpointing", True),
        *([("optimizer_state", "offload")] if has_choice else []),
        *([("precision", narrow)] if is_wide else []),
    ]:
        if resumes and name not in RESUMABLE:
            continue
        changed = plan.changed(**{**taken, name: value})
        if changed.config != best.config and any(changed.peaks[phase] < peak for phase, peak in best.peaks.items()):
            taken[name], best = value, changed
            yield _describe(taken), best
    if not resumes:
        yield from _thinner(best, _describe(taken))


def _thinner(plan: Plan, before: str) -> Iterator[tuple[str, Plan]]:
    """Yield plans with thinner sub-volumes or windows, if the run has any."""
    data = plan.config.data
    if not hasattr(data, "subvolume_depth") or getattr(data, "window", "") == "whole":
        return
    depth = data.depth // 2
    while depth >= data.factor and depth % data.factor == 0:
        try:
            thinner = replace(plan.config, data=replace(data, subvolume_depth=depth))
        except InputError:  # too thin for the networks of a translation
            return
        yield f"{before} data.subvolume_depth {depth}".strip(), replace(plan, config=thinner)
        depth //= 2


def _describe(settings: Mapping[str, object]) -> str:
    return " ".join(f"train.{name} {str(value).lower()}" for name, value in settings.items())


def cheapest(plan: Plan, vram: int, resumes: bool = False) -> tuple[str, Plan] | None:
    """Return the first of the remedies that fits a card of ``vram`` bytes, with its description, or None."""
    if with_margin(0) > vram:  # not even without tensors
        return None
    return next((remedy for remedy in remedies(plan, resumes) if remedy[1].fits(vram)), None)


def fitted(plan: Plan, vram: int, resumes: bool = False) -> tuple[str, Plan]:
    """Return the plan as it fits a card of ``vram`` bytes, and what was changed ('' if it fits as it is).

    Raises:
        InputError: If no remedy makes it fit.
    """
    if plan.fits(vram):
        return "", plan
    remedy = cheapest(plan, vram, resumes)
    if remedy is None:
        raise InputError(f"the run {advice(plan, vram, resumes)}")
    return remedy


def advice(plan: Plan, vram: int, resumes: bool = False) -> str:
    """Return in one line what makes a run fit that does not; ``resumes``: what it can go on with."""
    remedy = cheapest(plan, vram, resumes)
    needs = f"needs about {plan.needed / 1e9:.1f} GB of a card, and there are {vram / 1e9:.1f} GB"
    if remedy is None and resumes and cheapest(plan, vram) is not None:
        return f"{needs}; no setting that a run can go on with makes it fit: use a new --out with the same --vram"
    if remedy is None:
        config = plan.config
        windows = ", or data.window patch" if getattr(config.data, "window", "") == "whole" and _can_cut(config) else ""
        smaller = f"{config.name}.{config.method.width_setting}{windows}"
        return f"{needs}; no setting makes it fit: use a smaller data.size or {smaller}"
    return f"{needs}; with {remedy[0]} it needs {remedy[1].needed / 1e9:.1f} GB"


def _can_cut(config: Config) -> bool:
    """Return whether the method can train on windows of pairs."""
    return hasattr(config.data, "subvolume_depth")
