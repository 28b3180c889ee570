"""`hagan3d train`: train a model on a store, or on phantoms where there is none; the same line again goes on."""

import importlib.resources
import sys
from pathlib import Path

import torch

from hagan3d import __version__, cli, ops
from hagan3d.checkpoint.settings import flat, to_dict
from hagan3d.config import Config, PrepareConfig
from hagan3d.data.batches import BatchSource
from hagan3d.data.phantoms import write_phantoms
from hagan3d.data.prepare import prepare
from hagan3d.data.store import Store
from hagan3d.engine.optimizers import choose_device
from hagan3d.engine.processes import ALONE, Processes, in_environment, together
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError
from hagan3d.networks.build import Networks
from hagan3d.recipes import hagan

DESCRIPTION = """Train a hierarchical GAN on the volumes of a store. The same line again goes on where the run stopped.
Without a store, phantoms of the thorax are made and trained on. Every setting can be given in a YAML file (--config),
on the command line, or both; the command line wins."""
EXAMPLES = (
    "hagan3d train --config configs/hagan_128.yaml --data.store lungs.h5 --out runs/lungs",
    "hagan3d train --config configs/hagan_32.yaml --data.store crops.h5 --out runs/crops --train.steps 2000",
    "hagan3d train                              phantoms at 32^3 with configs/hagan_32.yaml, to see it work",
    "hagan3d train --print_config > mine.yaml   every setting with its default",
)
DEFAULT_CONFIG = "hagan_32.yaml"


def main(argv: list[str]) -> None:
    """Parse, train, say where the result is."""
    parser = cli.parser("train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file of settings.")
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
    with together() as processes:
        is_done = train(config, out, processes)
    if not processes.is_first:
        return
    if is_done:
        print(f"all {config.train.steps} steps are done: {out}")
        print(f"next: hagan3d generate {out} --num 8 --out {out}/samples")
    else:
        print(f"stopped and saved: {out}; the same command again goes on")


def config_file(name: str) -> Path:
    """Return the path of a config that comes with hagan3d."""
    return Path(str(importlib.resources.files("hagan3d.configs") / name))


def train(config: Config, out: Path, processes: Processes = ALONE) -> bool:
    """Train a run in the folder ``out``, or go on with it; the first of several processes writes and prints.

    Returns:
        Whether all steps are done (False: a signal asked to stop, and the run is saved).

    Raises:
        InputError: If the settings, the store or the run cannot be used.
    """
    processes.agree({"hagan3d": __version__, "--out": str(out), **own_settings(config)})
    share = processes.share_of(config.train.batch_size, config.train.accumulate)
    device = choose_device(config.train.device, config.train.precision, processes.local_rank)
    with processes.first_before_others():
        path = Path(config.data.store) if config.data.store else phantom_store(config, out)
    store = Store(path)
    check_store(config, store, path)
    torch.manual_seed(config.train.seed)  # of the weights; everything later draws by (seed, step, sample)
    num_classes = len(store.class_names) if config.model.conditional else 0
    networks = Networks(config.data.size, config.data.depth, config.model, num_classes)
    source = BatchSource(
        store,
        config.data.split,
        config.data.depth,
        share,
        config.train.seed,
        config.data.augment,
        whole=config.train.encoder,
        rank=processes.rank,
        world=processes.world,
    )
    trainer = Trainer(
        config,
        hagan.recipe(config.train),
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
    return trainer.run()


def describe(trainer: Trainer, path: Path) -> None:
    """Say what the run trains on, and where it goes on."""
    count = len(trainer.source.store.indices(trainer.source.split))
    others = "" if trainer.processes.is_alone else f"; {trainer.processes.world} processes"
    print(f"{path}: {count} volumes to train on; {trainer.device}{others}; {ops.backend()}", file=sys.stderr)
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
    labels = store.labels[store.indices(config.data.split)]
    if config.model.conditional and (len(store.class_names) < 2 or (labels < 0).any()):
        raise InputError(
            f"{path}: model.conditional needs at least two classes and one for every volume; "
            f"there are {len(store.class_names)} classes, and {int((labels < 0).sum())} volumes have none; complete "
            "the labels file, or leave those volumes out, and prepare the store again"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
