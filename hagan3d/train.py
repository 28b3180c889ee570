"""`hagan3d train`: train a model on a store, or on phantoms where there is none; the same line again goes on."""

import importlib.resources
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hagan3d import __version__, cli, ops
from hagan3d.checkpoint.build import make_networks
from hagan3d.config import Config
from hagan3d.config.serialization import flat, to_dict
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.engine.memory_plan import Plan, advice, fitted
from hagan3d.engine.optimizers import choose_device
from hagan3d.engine.preview import Source
from hagan3d.engine.processes import ALONE, Processes, in_environment, together
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_recipe

DESCRIPTION = """Train a hierarchical GAN on the volumes of a store, or (--recipe, section `translation`) networks that
translate its sources into its targets. The same line again goes on where the run stopped.
Without a store, phantoms of the thorax are made and trained on. Every setting can be given in a YAML file (--config),
on the command line, or both; the command line wins."""
EXAMPLES = (
    "hagan3d train --config configs/hagan_128.yaml --data.store lungs.h5 --out runs/lungs",
    "hagan3d train --config configs/hagan_32.yaml --data.store crops.h5 --out runs/crops --train.steps 2000",
    "hagan3d train --config configs/upgan_32.yaml --data.store crops.h5 --data.degrade.kind motion --out runs/upgan",
    "hagan3d train                              phantoms at 32^3 with configs/hagan_32.yaml, to see it work",
    "hagan3d train --config configs/hagan_256.yaml --data.store heads.h5 --vram 12GB    what fits is set",
    "hagan3d train --print_config > mine.yaml   every setting with its default",
)
DEFAULT_CONFIG = "hagan_32.yaml"
SAME_SPACING = 0.01  # relative difference of two spacings that are one


def main(argv: list[str]) -> None:
    """Parse, train, say where the result is."""
    parser = cli.parser("train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file of settings.")
    parser.add_argument(
        "--vram",
        type=str | None,
        default=None,
        help="Memory of the card to stay within, such as 16GB: what `hagan3d plan` advises is set, and said.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="Folder of the run. Default: runs/NAME_OF_STORE.")
    parser.add_class_arguments(Config)
    if not any(word.startswith(("--config", "--print_config", "-h", "--help")) for word in argv) and not any(
        word.startswith("--data.store") for word in argv
    ):
        default = config_file(DEFAULT_CONFIG)
        if in_environment().is_first:
            print(f"no --config and no --data.store: training on phantoms with {DEFAULT_CONFIG}", file=sys.stderr)
        argv = [f"--config={default}", *argv]
    arguments = parser.instantiate(parser.parse_args(argv))
    values = {name: getattr(arguments, name) for name in Config.__dataclass_fields__}
    config = Config(**values)
    out = Path(arguments.out or f"runs/{Path(config.data.store or 'phantoms').stem}")
    vram = None if arguments.vram is None else cli.parse_bytes("--vram", arguments.vram)
    with together() as processes:
        is_done = train(config, out, processes, vram)
    if not processes.is_first:
        return
    if is_done:
        print(f"all {config.train.steps} steps are done: {out}")
        next_command = (
            f"translate {out} --input X --out Y" if config.translates else f"generate {out} --num 8 --out {out}/samples"
        )
        print(f"next: hagan3d {next_command}")
    else:
        print(f"stopped and saved: {out}; the same command again goes on")


def config_file(name: str) -> Path:
    """Return the path of a config that comes with hagan3d."""
    return Path(str(importlib.resources.files("hagan3d.configs") / name))


def train(config: Config, out: Path, processes: Processes = ALONE, vram: int | None = None) -> bool:
    """Train a run in the folder ``out``, or go on with it; the first of several processes writes and prints.

    Args:
        config: The run.
        out: Its folder.
        processes: Those that train it together.
        vram: Bytes of a card to stay within; the config is changed as the plan advises.

    Returns:
        Whether all steps are done (False: a signal asked to stop, and the run is saved).

    Raises:
        InputError: If the settings, the store or the run cannot be used.
    """
    processes.agree({"hagan3d": __version__, "--out": str(out), **own_settings(config)})
    share = processes.share_of(config.train.batch_size, config.train.accumulate, config.group)
    if config.recipe == "cyclegan" and config.translation.cycle.pool and not processes.is_alone:
        raise InputError("translation.cycle.pool: belongs to one process; set it to 0 for several")
    device = choose_device(config.train.device, config.train.precision, processes.local_rank)
    with processes.first_before_others():
        path = Path(config.data.store) if config.data.store else phantom_store(config, out)
    store = Store(path)
    check_store(config, store, path)
    num_classes = len(store.class_names) if config.model.conditional else 0
    plan = Plan(with_batch(config, share), make_recipe, num_classes)
    if vram is not None:
        config, plan = fit(config, plan, vram, device, processes.is_first)
    torch.manual_seed(config.train.seed)  # of the weights; everything later draws by (seed, step, sample)
    networks = make_networks(config, num_classes)
    source = make_source(config, store, share, processes)
    trainer = Trainer(
        config,
        make_recipe(config),
        networks,
        source,
        store.description(),
        out,
        device,
        fingerprint=store.store_fingerprint,
        processes=processes,
    )
    if processes.is_first:
        describe(trainer, path)
    try:
        return trainer.run()
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        raise InputError(
            f"the card is full ({(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB in use): the run "
            f"{advice(plan, min(vram or total, total))}; the last checkpoint in {out} is intact"
        ) from error


def make_source(config: Config, store: Store, share: int, processes: Processes) -> Source:
    """Return what the steps see of a store: volumes, or pairs to translate.

    Args:
        config: The run.
        store: Its volumes.
        share: Volumes per step of this process.
        processes: Those that share a step.
    """
    data, seed, whole = config.data, config.train.seed, config.train.encoder
    rank, world = processes.rank, processes.world
    if config.translates:
        return PairSource(
            store,
            data.split,
            share,
            seed,
            data.degrade,
            data.augment,
            data.paired,
            data.fraction,
            depth=0 if data.window == "whole" else data.depth,
            anchored=data.window == "hierarchical",
            rank=rank,
            world=world,
        )
    return BatchSource(
        store, data.split, data.depth, share, seed, data.augment, data.windows, whole=whole, rank=rank, world=world
    )


def with_batch(config: Config, share: int) -> Config:
    """Return what one process sees of a config: its share of the batch."""
    return replace(config, train=replace(config.train, batch_size=share))


def fit(config: Config, plan: Plan, vram: int, device: torch.device, is_first: bool) -> tuple[Config, Plan]:
    """Change a config so that one process stays within ``vram`` bytes of a card, and hold a GPU to it.

    Raises:
        InputError: If nothing that can be set makes it fit.
    """
    said, plan = fitted(plan, vram)
    if is_first:
        took = f"set {said}" if said else "fits as it is"
        print(f"--vram {vram / 1e9:.1f} GB: {took} (about {plan.needed / 1e9:.1f} GB needed)", file=sys.stderr)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, vram / torch.cuda.mem_get_info(device)[1]), device)
    return replace(plan.config, train=replace(plan.config.train, batch_size=config.train.batch_size)), plan


def describe(trainer: Trainer, path: Path) -> None:
    """Say what the run trains on, and where it goes on."""
    count = len(trainer.source.store.indices(trainer.source.split))
    others = "" if trainer.processes.is_alone else f"; {trainer.processes.world} processes"
    print(f"{path}: {cli.volumes(count)} to train on; {trainer.device}{others}; {ops.backend()}", file=sys.stderr)
    steps = trainer.config.train.steps
    if trainer.steps_done >= steps:
        print(f"step {trainer.steps_done} is done already; raise train.steps to go on", file=sys.stderr)
    elif trainer.steps_done:
        print(f"going on at step {trainer.steps_done} of {steps}", file=sys.stderr)


def own_settings(config: Config) -> dict[str, object]:
    """Every setting as `section.name` but the place of the store, which may differ from machine to machine."""
    return {key: value for key, value in flat(to_dict(config)).items() if key != "data.store"}


def phantom_store(config: Config, out: Path) -> Path:
    """Make phantoms and a store of them beside the run, unless they are there."""
    folder, path = out / "phantoms", out / "phantoms.h5"
    if not path.exists():
        print(f"no data.store: making {config.data.phantoms} phantoms of the thorax in {folder}", file=sys.stderr)
        write_phantoms(folder, config.data.phantoms, config.data.size, seed=0)
        settings = PrepareConfig(size=config.data.size, intensity="window", labels=str(folder / "attributes.csv"))
        prepare([folder / "volumes"], path, settings)
    return path


def check_store(config: Config, store: Store, path: Path) -> None:
    """Raise InputError unless the store fits the config."""
    if tuple(store.size) != config.data.size:
        raise InputError(
            f"{path}: volumes of {list(store.size)} voxels, but data.size is {list(config.data.size)}; "
            f"give --data.size {' '.join(map(str, store.size))}, or prepare the store at the other size"
        )
    channels = config.translation.source_channels, config.translation.target_channels
    if config.recipe == "registration":
        check_spacing(config, store, path)
    elif config.translates and channels != (1, 1):
        raise InputError(
            f"{path}: holds one volume per source and target, but translation.source_channels and target_channels are "
            f"{channels[0]} and {channels[1]}; leave them at 1"
        )
    check_label_maps(config, store, path)
    labels = store.labels[store.indices(config.data.split)]
    if config.model.conditional and (len(store.class_names) < 2 or (labels < 0).any()):
        raise InputError(
            f"{path}: model.conditional needs at least two classes and one for every volume; "
            f"there are {len(store.class_names)} classes, and {int((labels < 0).sum())} volumes have none; complete "
            "the labels file, or leave those volumes out, and prepare the store again"
        )


def check_spacing(config: Config, store: Store, path: Path) -> None:
    """Raise InputError unless all volumes have the spacing that registration counts its millimetres in."""
    wanted, found = config.translation.registration.spacing, [spacing_of(affine) for affine in store.affines]
    odd = next((spacing for spacing in found if not np.allclose(spacing, wanted, rtol=SAME_SPACING)), None)
    if odd is not None:
        sides = ", ".join(f"{side:g}" for side in odd)
        raise InputError(
            f"{path}: has a volume of {sides} mm per voxel, but translation.registration.spacing is {list(wanted)}; "
            "prepare the store with --spacing, and set that"
        )


def check_label_maps(config: Config, store: Store, path: Path) -> None:
    """Raise InputError unless targets are label maps for segan, and for no other recipe."""
    if config.recipe != "segan":
        if store.has_label_maps:
            raise InputError(f"{path}: its targets are label maps; train recipe segan (configs/segan_32.yaml) on it")
        return
    if not (store.has_label_maps and store.has_sources):
        raise InputError(
            f"{path}: recipe segan wants pairs of volumes and label maps; make some with "
            "`hagan3d prepare --pairs volumes/ labels/ --intensity labels --window 0 K`, K the largest label"
        )
    found = round(float(store.hi.max())) + 1
    if found != config.translation.segan.labels:
        raise InputError(
            f"{path}: maps of {found} labels, the background among them, but translation.segan.labels is "
            f"{config.translation.segan.labels}; set it to {found}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
