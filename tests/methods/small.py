"""Small settings of every registered method; a method without an entry is tested with its defaults, made narrow."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.checkpoint import files
from hagan3d.checkpoint.files import Checkpoint
from hagan3d.config import Config, DegradeConfig, PatchDataConfig, WindowDataConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.batches.steps import StepBatch
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.data.store.store import Store
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.trainer import Trainer
from hagan3d.engine.updates import Updates
from hagan3d.methods.base import Method
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import CPU, make_config

TRANSLATION = tuple(name for name in method_names() if config_class(name).translates)
WINDOWED = tuple(name for name in TRANSLATION if config_class(name).data_config is WindowDataConfig)
PATCHED = tuple(name for name in TRANSLATION if issubclass(config_class(name).data_config, PatchDataConfig))
SIDES = {"upgan": 16, "pix2pix": 16, "medgan": 16, "unit": 16, "segan": 16, "microscopy": 16}
"""Voxels a side of `small_batch`; 32 for others, which see whole volumes or pool them."""
NARROW = {"width": 4, "levels": 2, "critic_width": 4, "critic_layers": 1, "latent_dim": 8, "objective": "lsgan"}
"""Settings that several methods share, for those that have them."""
SMALL: dict[str, dict[str, Any]] = {
    "hagan": {
        "channels": 64,
        "d_channels": 64,
        "subvolume_depth": 8,
        "autoencode": 1.0,
        "prior": "encoded",
        "r1_weight": 1.0,
        "r2_weight": 0.5,
        "batch_size": 4,
    },
    "upgan": {"stages": 2, "stage_steps": 2},
    "medgan": {"blocks": 2},
    "restore": {
        "objective": "wgan-gp",
        "generator": "skips",
        "depth": 4,
        "critic_steps": 2,
        "l1_weight": 0.5,
        "nmse_weight": 1.0,
        "gradient_weight": 0.3,
        "frequency_weight": 0.1,
        "perceptual_share": 0.1,
        "slice_tv_weight": 0.01,
    },
    "cyclegan": {"blocks": 1, "pool": 3},
    "unit": {"blocks": 1, "attention": "both", "spectral_norm": "all", "trunk_width": 24, "charbonnier": True},
    "segan": {"critic_layers": 2},
    "registration": {"source_channels": 2, "objective": "wgan-gp", "transform": "affine", "spacing": (2.0, 2.0, 2.0)},
}


def small_config(method: str, **settings: Any) -> Config:
    """Return a config of a method with narrow networks, for volumes of 32^3; ``settings`` as in `make_config`."""
    kind = config_class(method)
    names = {f.name for f in fields(kind)}
    narrow = {key: value for key, value in NARROW.items() if key in names and _takes(kind, key, value)}
    narrow |= {kind.width_setting: 64} if not kind.translates and kind.width_setting in names else {}
    train = {"steps": 6, "batch_size": 2, "device": "cpu", "betas": (0.5, 0.999)}
    log = {"every": 1, "preview_every": 0, "keep_last": 1}
    degrade = {"degrade": DegradeConfig(kind=degradation(method))} if kind.translates else {}
    return make_config(method, **(degrade | train | narrow | SMALL.get(method, {}) | settings), log=log)


def degradation(method: str) -> Any:
    """Return a simulated acquisition that a translation method trains on."""
    kinds = config_class(method).degradations
    return "noise" if kinds is None else kinds[0]


def _takes(kind: type, key: str, value: Any) -> bool:
    """Return whether a setting may have a value, where it is one of a few words."""
    return not isinstance(value, str) or value in get_args(get_type_hints(kind)[key])


@dataclass(frozen=True, kw_only=True)
class Float64Batch(Batch):
    """A batch of volumes whose slabs and random numbers are float64 too."""

    def normal(self, name: str, count: int) -> Tensor:
        return super().normal(name, count).double()

    def slabs(self) -> Generator[Tensor]:
        yield from (slab.double() for slab in super().slabs())


def float64(batch: StepBatch) -> StepBatch:
    """Return a batch in float64."""
    if isinstance(batch, PairBatch):
        return replace(batch, source=batch.source.double(), target=batch.target.double())
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Float64Batch(**values | {name: values[name].double() for name in ("window", "low")})


def pair_batch(count: int = 2, side: int = 32) -> PairBatch:
    """Return smooth targets, and sources that are noisy versions of them; each volume has a mask of another size."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, *(side // 4,) * 3, generator=random) * 2 - 1
    target = F.interpolate(coarse, scale_factor=4, mode="trilinear")
    source = (target + 0.2 * torch.randn(target.shape, generator=random)).clamp(-1, 1)
    mask = torch.zeros_like(target)
    for i in range(count):
        mask[i, :, 4 * (i + 1) :] = 1
    return PairBatch(source=source, target=target, mask=mask, samples=tuple(range(count)), seed=0, step=0)


def small_batch(config: Config, store: Path, side: int | None = None) -> StepBatch:
    """Return a batch of a run: for translation a `pair_batch` of ``side``^3 voxels, else volumes of a store."""
    if not config.translates:
        return make_method(config).batches(Store(store), config.train.batch_size).batch(0)
    batch = pair_batch(config.train.batch_size, side or SIDES.get(config.name, 32))
    if labels := config.method.target_labels:
        index = ((batch.target[:, 0] + 1) * (labels / 2)).long().clamp(0, labels - 1)
        channels = F.one_hot(index, labels).movedim(-1, 1) * 2.0 - 1
        batch = replace(batch, target=torch.cat([batch.target, channels], 1))
    if config.method.source_channels == 1:
        return batch
    misalignment = torch.linspace(-5, 5, 12 * len(batch)).view(-1, 12)  # registration: moving and fixed images
    return replace(batch, source=torch.cat([batch.source, batch.target], 1), misalignment=misalignment)


def make_updates(config: Config) -> Updates:
    """Return the updates of all phases of a run, on new networks."""
    torch.manual_seed(config.train.seed)
    return Updates(config.train, make_method(config).training_phases(), make_networks(config), CPU)


def run_phase(updates: Updates, name: str, batch: StepBatch) -> dict[str, Tensor]:
    """Run one phase in its first step; return the terms of its loss."""
    phase = next(phase for phase in updates.phases if phase.name == name)
    updates.prepare(phase.first)
    return updates.run(phase, replace(batch, phase=name, step=phase.first))


def run_steps(updates: Updates, batch: StepBatch, steps: int) -> None:
    """Run some steps on the same batch, each with the phases that are due."""
    for step in range(steps):
        updates.prepare(step)
        for phase in updates.phases:
            if phase.is_due(step):
                updates.run(phase, replace(batch, phase=phase.name, step=step))


def make_trainer(path: Path, out: Path, config: Config, method: Method | None = None) -> Trainer:
    """Return the trainer of a run on a store, in the folder ``out``."""
    store, method = Store(path), method or make_method(config)
    torch.manual_seed(config.train.seed)
    networks, source = make_networks(config), method.batches(store, config.train.batch_size)
    return Trainer(method, networks, source, method.description(store), out, CPU, store.store_fingerprint)


def train_with_stops(path: Path, folder: Path, config: Config, stops: Sequence[int]) -> tuple[Checkpoint, Checkpoint]:
    """Train a run at once, and again with stops after some steps; return both last checkpoints."""
    assert make_trainer(path, folder / "straight", config).run()
    for stop in stops:
        make_trainer(path, folder / "stopped", replace(config, train=replace(config.train, steps=stop))).run()
    resumed = make_trainer(path, folder / "stopped", config)
    assert resumed.steps_done == stops[-1] < config.train.steps
    assert resumed.run()
    one, other = (files.load(files.newest(folder / name)) for name in ("straight", "stopped"))
    assert one.step == other.step == config.train.steps
    return one, other


def assert_counts_agree(config: Config, kind: str = "cpu") -> None:
    """Assert that the peak memory counted on fake tensors is that of real ones, within 5 %."""
    fake, real = (count_step(make_method(config), fake=is_fake, kind=kind) for is_fake in (True, False))
    assert fake.keys() == real.keys() == {*(phase.name for phase in make_method(config).training_phases()), "static"}
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.05 * real[name], name
