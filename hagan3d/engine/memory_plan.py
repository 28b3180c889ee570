"""Know before a run how much memory it takes, whether it fits a card, and what is the cheapest change that makes it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hagan3d.checkpoint.build import make_networks
from hagan3d.config import Config
from hagan3d.engine.step_memory import count_step, made_up_batch
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.methods.phase import Recipe

# What a card holds besides live tensors. Chosen, not measured: no GPU was at hand.
CONTEXT = 600 * 2**20  # bytes: the driver's context and the loaded kernels
WORKSPACE = 512 * 2**20  # bytes: scratch memory of the convolutions
FRAGMENTATION = 0.08  # of the live bytes: gaps between blocks of the allocator

LARGE = 64  # volumes: beyond it nobody asks

MakeRecipe = Callable[[Config], Recipe]


@dataclass(frozen=True)
class Plan:
    """What one step of a run takes, counted on fake tensors: nothing is computed and no GPU is needed."""

    config: Config
    make_recipe: MakeRecipe
    num_classes: int = 0

    @cached_property
    def peaks(self) -> dict[str, int]:
        """Peak live bytes of each phase, and of what stays between steps (``static``)."""
        return count_step(self.config, self.make_recipe(self.config), self.num_classes)

    @property
    def live(self) -> int:
        """Peak live bytes of a step."""
        return max(self.peaks.values())

    @property
    def needed(self) -> int:
        """Bytes of a card that the run needs: live bytes, gaps, workspace and context."""
        return math.ceil(self.live * (1 + FRAGMENTATION)) + WORKSPACE + CONTEXT

    def fits(self, vram: int) -> bool:
        """Say whether a card of ``vram`` bytes is enough."""
        return self.needed <= vram

    @cached_property
    def flops(self) -> dict[str, int]:
        """Floating point operations of each phase, convolutions and matrix products alone.

        Where phases come one after the other, not all are part of one step. Lazy penalties, which are not due in most
        steps, are left out.
        """
        recipe = self.make_recipe(self.config)
        counts: dict[str, int] = {}
        with FakeTensorMode():
            networks = make_networks(self.config, self.num_classes)
            updates = Updates(self.config.train, recipe.phases, networks, torch.device("cpu"))
            batch = made_up_batch(self.config, recipe)
            for phase in recipe.phases:
                updates.prepare(phase.first)
                with FlopCounterMode(display=False) as counter:
                    for step in range(phase.first + 1, phase.first + 1 + self._period):
                        updates.run(phase, replace(batch, phase=phase.name, step=step))
                counts[phase.name] = counter.get_total_flops() // self._period
        return counts

    @property
    def _period(self) -> int:
        """Steps from one that autoencodes, as some updates of G do, to the next."""
        return self.config.train.encoder_every if self.config.train.autoencode else 1

    @property
    def bytes_read(self) -> int:
        """Bytes of voxels that a step reads from the store (int16, before decompression)."""
        data, train = self.config.data, self.config.train
        voxels = math.prod(data.size)
        if self.config.translates:
            volumes = 1 if data.degrade.active and data.paired else 2
            cut = data.window != "whole" and not data.degrade.active and not data.augment.active
            low = math.prod(data.low_size) if cut and data.window == "hierarchical" else 0
            return 2 * train.batch_size * volumes * ((math.prod(data.seen_size) if cut else voxels) + low)
        low = voxels // data.factor**3
        if data.augment.active:
            return 2 * train.batch_size * (voxels + low)
        whole = (1 + bool(train.autoencode)) * voxels // train.encoder_every if train.encoder else 0
        return 2 * train.batch_size * (whole + voxels * data.depth // data.size[0] + low)

    def changed(self, **train: object) -> "Plan":
        """Return the plan with other settings of `train`."""
        return replace(self, config=replace(self.config, train=replace(self.config.train, **train)))  # type: ignore[arg-type]

    def largest_batch(self, vram: int) -> int:
        """Largest batch up to `LARGE` that fits a card of ``vram`` bytes, without accumulation; 0: none."""
        unit = self.config.group
        one, two = self._with_batch(unit), self._with_batch(2 * unit)
        if not one.fits(vram):
            return 0
        step = max(two.needed - one.needed, 1)
        units = min(LARGE // unit, 2 + (vram - one.needed) // step)  # a line, but for rounding and the phase that leads
        while not self._with_batch(units * unit).fits(vram):
            units -= 1
        return units * unit

    def _with_batch(self, batch: int) -> "Plan":
        return self.changed(batch_size=batch, accumulate=1)


def remedies(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Give changes that lower the memory of a run, the cheapest first, each together with those before it.

    First come those that leave the result as it is.
    """
    train, group = plan.config.train, plan.config.group
    parts = [n for n in range(train.accumulate + 1, train.batch_size + 1) if train.batch_size % (n * group) == 0]
    has_choice = (train.optimizer, train.optimizer_state) == ("adam", "fp32")
    taken: dict[str, object] = {}
    for name, value in [
        ("recompute_norms", True),
        *([("optimizer_state", "lean")] if has_choice else []),
        *(("accumulate", n) for n in parts),
        ("checkpointing", True),
        *([("optimizer_state", "offload")] if has_choice else []),
        ("precision", "bf16"),
    ]:
        if getattr(train, name) != value and not (name == "precision" and train.precision != "fp32"):
            taken[name] = value
            yield _said(taken), plan.changed(**taken)
    data, depth = plan.config.data, plan.config.data.depth // 2
    if plan.config.translates and data.window == "whole":
        return
    while depth >= data.factor and depth % data.factor == 0:
        try:
            thinner = replace(plan.changed(**taken).config, data=replace(data, subvolume_depth=depth))
        except InputError:  # too thin for the networks of a translation
            return
        yield f"{_said(taken)} data.subvolume_depth {depth}".strip(), replace(plan, config=thinner)
        depth //= 2


def _said(settings: Mapping[str, object]) -> str:
    return " ".join(f"train.{name} {str(value).lower()}" for name, value in settings.items())


def cheapest(plan: Plan, vram: int) -> tuple[str, Plan] | None:
    """Return the first of the remedies that fits a card of ``vram`` bytes, and what it says; None: none does."""
    return next((remedy for remedy in remedies(plan) if remedy[1].fits(vram)), None)


def fitted(plan: Plan, vram: int) -> tuple[str, Plan]:
    """Return the plan as it fits a card of ``vram`` bytes, and what was changed for it ('' where it fits as it is).

    Raises:
        InputError: If nothing that can be set makes it fit.
    """
    if plan.fits(vram):
        return "", plan
    found = cheapest(plan, vram)
    if found is None:
        raise InputError(f"the run {advice(plan, vram)}")
    return found


def advice(plan: Plan, vram: int) -> str:
    """Say in one line what makes a run fit that does not."""
    found = cheapest(plan, vram)
    needs = f"needs about {plan.needed / 1e9:.1f} GB of a card, and there are {vram / 1e9:.1f} GB"
    if found is None:
        smaller = "translation.width, or data.window" if plan.config.translates else "model.channels"
        return f"{needs}; nothing that can be set makes it fit: take a smaller data.size or {smaller}"
    return f"{needs}; with {found[0]} it needs {found[1].needed / 1e9:.1f} GB"
