"""Training of a run from its settings: store, plan, networks, trainer."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hagan3d import __version__, ops
from hagan3d.checkpoint import files
from hagan3d.config import Config
from hagan3d.config.serialization import flat, from_dict, to_dict
from hagan3d.data.phantoms.store import phantom_store
from hagan3d.data.store.store import Store
from hagan3d.engine.distributed import SINGLE, Distributed
from hagan3d.engine.initial_weights import take_weights
from hagan3d.engine.kernel_file import kernel_table
from hagan3d.engine.memory_plan import Plan, advice, fitted
from hagan3d.engine.optimizers import choose_device, precision_on
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError, is_out_of_memory
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.networks.network_set import NetworkSet
from hagan3d.ops.device import has_tf32, set_tf32
from hagan3d.ops.extension import missing_kernels
from hagan3d.ops.forms import using


def default_folder(config: Config) -> Path:
    """Return the folder of a run that names none."""
    return Path(f"runs/{Path(config.data.store or 'phantoms').stem}")


def train(config: Config, out: Path, distributed: Distributed = SINGLE, vram: int | None = None) -> bool:
    """Train a run in the folder ``out``, or resume it; rank 0 writes and prints.

    Args:
        config: The run.
        out: Its folder.
        distributed: The ranks that train together.
        vram: Bytes of a card that the run must fit; the config is changed as the plan advises.

    Returns:
        Whether all steps are done (False: a signal stopped it, and the run is saved).

    Raises:
        InputError: If the settings, the store or the run cannot be used.
    """
    distributed.check_same_on_all_ranks({"hagan3d": __version__, "--out": str(out), **_shared_settings(config)})
    per_rank = distributed.per_rank_batch(config.train.batch_size, config.train.accumulate, config.group)
    checkpoint = files.newest(out)
    before = None if checkpoint is None else files.load(checkpoint, mapped=True).config
    config, device = _on_device(config, before, distributed)
    set_tf32(config.train.tf32)
    make_method(config).check_ranks(distributed.world_size)
    with distributed.first_rank_first():
        path = _store_path(config, out)
    store = Store(path)
    make_method(config).check_store(store)
    num_classes = make_method(config).num_classes(store)
    plan = Plan(with_train(config, batch_size=per_rank), num_classes, device.type)
    if vram is not None:
        if before is not None:
            plan = replace(plan, config=_with_memory_of(plan.config, before))
        config, plan = fit(config, plan, vram, device, distributed, before is not None)
    networks = _initial_networks(config, num_classes, out, distributed.is_first)
    trainer = _make_trainer(config, networks, store, per_rank, out, device, distributed)
    if distributed.is_first:
        _describe(trainer, store)
    table = kernel_table(out, device, plan, distributed)  # after the checks of a resume: a refused run keeps its file
    try:
        with using(table):
            return trainer.run()
    except RuntimeError as error:
        if not is_on_gpu(device) or not is_out_of_memory(error):
            raise
        raise InputError(_when_full(plan, vram, out, device)) from error


def is_on_gpu(device: torch.device) -> bool:
    """Return whether a device has memory of its own."""
    return device.type == "cuda"


def _on_device(config: Config, before: Config | None, distributed: Distributed) -> tuple[Config, torch.device]:
    """Choose the device of a rank; return the config with its precision there, as the run records it.

    ``before``: that of the run so far, whose precision goes on, since the node may be of another kind than the first.
    """
    if before is not None and config.train.precision == "auto":
        config = with_train(config, precision=before.train.precision)
    device = choose_device(config.train.device, config.train.precision, distributed.local_rank)
    return with_train(config, precision=precision_on(device.type, config.train.precision)), device


def _make_trainer(
    config: Config,
    networks: NetworkSet,
    store: Store,
    per_rank: int,
    out: Path,
    device: torch.device,
    distributed: Distributed,
) -> Trainer:
    """Build the trainer of one rank, whose batches have ``per_rank`` volumes."""
    method = make_method(config)
    method.add_extractor(store, device)
    source = method.batches(store, per_rank, distributed.rank, distributed.world_size)
    fingerprint = store.store_fingerprint
    return Trainer(method, networks, source, method.description(store), out, device, fingerprint, distributed)


def _when_full(plan: Plan, vram: int | None, out: Path, device: torch.device) -> str:
    """Return what to do when a run does not fit its card."""
    free, total = torch.cuda.mem_get_info(device)
    way_out = advice(plan, min(vram or total, total), files.newest(out) is not None)
    return (
        f"the card is full ({(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB in use): the run {way_out}; the last "
        f"checkpoint in {out} is intact"
    )


def _store_path(config: Config, out: Path) -> Path:
    """Return the path of the store of a run; without one in the settings, of phantoms, which are made if needed."""
    data = config.data
    return Path(data.store) if data.store else phantom_store(out, data.phantoms, data.phantom_size)


def _initial_networks(config: Config, num_classes: int, out: Path, prints: bool) -> NetworkSet:
    """Build the networks of a run, with random weights or those of another run; a resume replaces them."""
    torch.manual_seed(config.train.seed)  # of the weights; everything later samples by (seed, step, sample)
    networks = make_networks(config, num_classes)
    if config.train.weights is not None and files.newest(out) is None:
        taken = take_weights(networks, Path(config.train.weights))
        if prints:
            print(f"weights of {config.train.weights}:", *taken, sep="\n  ", file=sys.stderr)
    return networks


def with_train(config: Config, **changes: Any) -> Config:
    """Return a config with other settings of training, such as the batch size of one rank."""
    return replace(config, train=replace(config.train, **changes))


def _with_memory_of(config: Config, before: Config) -> Config:
    """Return a config with what `--vram` changed when its run began; other differences are refused later."""
    if config.name != before.name:
        return config
    if before.train.optimizer_state in ("lean", "offload"):
        config = with_train(config, optimizer_state=before.train.optimizer_state)
    if before.train.precision in ("bf16", "fp16"):
        config = with_train(config, precision=before.train.precision)
    depth = getattr(before.data, "subvolume_depth", None)
    if depth is None or depth >= config.data.depth:  # type: ignore[attr-defined]
        return config
    return replace(config, data=replace(config.data, subvolume_depth=depth))


def fit(
    config: Config, plan: Plan, vram: int, device: torch.device, distributed: Distributed, resumes: bool = False
) -> tuple[Config, Plan]:
    """Change a config so that every rank fits ``vram`` bytes of its card, and limit a GPU to them.

    ``resumes``: by settings that a run can go on with.

    All ranks take the settings of the one that needs most: what is needed in addition to tensors is measured on each
    machine.

    Raises:
        InputError: If no setting makes it fit.
    """
    needed = plan.needed
    changes, plan = fitted(plan, vram, resumes)
    if not distributed.is_single:
        changes, values = distributed.of_largest(needed, [changes, to_dict(plan.config)])
        chosen = from_dict(values)
        plan = replace(plan, config=replace(chosen, data=replace(chosen.data, store=config.data.store)))
    if distributed.is_first:
        result = f"set {changes}" if changes else "fits as it is"
        print(f"--vram {vram / 1e9:.1f} GB: {result} (about {plan.needed / 1e9:.1f} GB needed)", file=sys.stderr)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, vram / torch.cuda.mem_get_info(device)[1]), device)
    return with_train(plan.config, batch_size=config.train.batch_size), plan


def _describe(trainer: Trainer, store: Store) -> None:
    """Print the training data, and the step from which the run resumes."""
    count = trainer.source.num_volumes
    volumes = "1 volume" if count == 1 else f"{count} volumes"
    ranks = "" if trainer.distributed.is_single else f"; {trainer.distributed.world_size} processes"
    tf32 = f"; TF32 {'on' if has_tf32() else 'off'}" if trainer.device.type == "cuda" else ""
    where = f"{trainer.device}, {trainer.config.train.precision}{tf32}"
    print(f"{store.path}: {volumes} to train on; {where}{ranks}; {ops.backend()}", file=sys.stderr)
    steps = trainer.config.train.steps
    if reason := missing_kernels(trainer.device):
        print(
            f"warning: PyTorch computes the operators, slower (compiled ones {reason}); see `hagan3d doctor`",
            file=sys.stderr,
        )
    if trainer.steps_done >= steps:
        print(f"step {trainer.steps_done} is done already; raise train.steps to continue", file=sys.stderr)
    elif trainer.steps_done:
        print(f"resuming at step {trainer.steps_done} of {steps}", file=sys.stderr)


def _shared_settings(config: Config) -> dict[str, object]:
    """Return all settings but the path of the store, which may differ from machine to machine."""
    return {key: value for key, value in flat(to_dict(config)).items() if key != "data.store"}
