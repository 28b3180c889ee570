"""`hagan3d augment`: a store of real volumes and of generated ones besides, class by class."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import track

from hagan3d import cli
from hagan3d.errors import InputError

if TYPE_CHECKING:  # --help is instant
    import numpy as np

    from hagan3d.checkpoint import Model
    from hagan3d.data.store.store import Store
    from hagan3d.data.store.write import Record
    from hagan3d.inference.generation import Sample

DESCRIPTION = """Write a store that holds all volumes of a store, in their splits, and generated ones of every class
besides: for training only, marked as generated, never held out. The run must have been trained with classes
(model.conditional) on the training volumes of that store. Leaves a picture of both beside the new store."""
EXAMPLES = (
    "hagan3d train --config configs/hagan_32.yaml --data.store lungs.h5 --model.conditional true --out runs/lungs",
    "hagan3d augment runs/lungs --store lungs.h5 --per-class 100 --out more.h5",
    "hagan3d augment runs/lungs --store more.h5 --per-class 50 --first-seed 500 --out most.h5",
)
SHEET_VOLUMES = 6  # of each class and kind in the picture

Progress = Callable[[Iterator["Sample"]], Iterator["Sample"]]


@dataclass(frozen=True)
class Wanted:
    """Which volumes to generate."""

    per_class: int = 100
    """Volumes of each class."""
    first_seed: int = 0
    """Seed of the first; the others follow, class by class, so that no two volumes share a latent."""
    truncation: float = 1.0
    """Factor on the distance of z from its mean."""

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.first_seed < 0 or not 0 < self.truncation <= 10:
            raise InputError(
                "want --per-class from 1 up, --first-seed from 0 up and --truncation above 0 (at most 10), got "
                f"{self.per_class}, {self.first_seed}, {self.truncation:g}"
            )

    def seeds(self, label: int) -> range:
        """Return the seeds of the class with index ``label``."""
        return range(self.first_seed + label * self.per_class, self.first_seed + (label + 1) * self.per_class)


def main(argv: list[str]) -> None:
    """Parse, generate, say where the store is."""
    parser = cli.parser("augment", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--store", type=str, required=True, help="The store with the real volumes.")
    parser.add_argument("--out", type=str, required=True, help="Store to write, a name that ends in .h5.")
    parser.add_argument("--per_class", type=int, default=100, help="Volumes to make of each class.")
    parser.add_argument(
        "--first_seed", type=int, default=0, help="Seed of the first; the others follow, class by class."
    )
    parser.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        help="Factor on the distance of z from its mean; below 1: more typical, less varied.",
    )
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Averaged weights, or the last.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--force", action="store_true", help="Replace the store that is at --out already.")
    a = parser.parse_args(argv)
    from hagan3d.checkpoint import load_model
    from hagan3d.data.store.store import Store
    from hagan3d.inference.devices import inference_device

    out, wanted = Path(a.out), Wanted(a.per_class, a.first_seed, a.truncation)
    _check_out(out, Path(a.store), a.force)
    store = Store(a.store)
    model = load_model(Path(a.run), a.weights, inference_device(a.device), names=("g",))
    warning = origin_warning(model, store)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    total = a.per_class * len(store.class_names)

    def progress(items: "Iterator[Sample]") -> "Iterator[Sample]":
        return iter(track(items, "augment", total=total, console=Console(stderr=True)))

    made = augment(model, store, out, wanted, progress)
    count = int(made.generated.sum())
    print(f"{len(made) - count} real volumes and {count} generated ones, for training only: {out}, {picture_of(out)}")
    print(f"next: hagan3d train --config CONFIG.yaml --data.store {out} --out RUN, or any classifier of yours")


def augment(
    model: "Model", store: "Store", out: Path, wanted: Wanted, progress: Progress = lambda items: items
) -> "Store":
    """Write the volumes of a store, and generated ones of every class besides; and a picture of both.

    Generated volumes are in the training split, each a subject of its own. Numeric columns are NaN for them.

    Args:
        model: A conditional model, with G.
        store: Its store, or one of the same classes, size and intensities.
        out: The .h5 file, written whole or not at all; the picture is beside it.
        wanted: Which volumes to generate.
        progress: Wraps the iteration, to show a bar.

    Returns:
        The new store.

    Raises:
        InputError: If model and store do not belong together, or the store holds volumes of those seeds already.
    """
    from hagan3d.data.store.derived import write_with_generated
    from hagan3d.evaluation.features.extractors import state_hash

    check_match(model, store)
    generator = state_hash(model.networks.g.state_dict())
    records = _records(model, store, wanted, generator)
    _refuse_same_seeds(store, records)
    run = model.path.parent.parent.name
    origin = {"run": run, "step": model.step, "generator": generator, "store": store.store_fingerprint}
    volumes = progress(_samples(model, store, wanted))
    made = write_with_generated(out, store, records, lambda i: next(volumes).volume, origin | asdict(wanted))
    _draw(made, picture_of(out))
    return made


def picture_of(out: Path) -> Path:
    """Return where the picture of an augmented store lies."""
    return out.with_suffix(".png")


def check_match(model: "Model", store: "Store") -> None:
    """Raise InputError unless the volumes of a model can stand beside those of a store, class by class."""
    data = store.description()
    if not model.num_classes:
        raise InputError(
            f"{model.path}: trained without classes, so it cannot be asked for one; train a run with "
            "--model.conditional true"
        )
    labels = store.labels[store.indices("train")]
    if len(set(labels[labels >= 0].tolist())) < 2:
        raise InputError(
            f"{store.path}: its training volumes are of fewer than 2 classes; prepare it with --labels that has more"
        )
    theirs, ours = model.description.class_names, data.class_names
    if set(theirs) != set(ours):
        raise InputError(
            f"{store.path}: has the classes {', '.join(ours)}, the run those of {model.description.source}: "
            f"{', '.join(theirs)}; take the store that the run was trained on"
        )
    for name in ("size", "axis", "orientation", "intensity"):
        if getattr(model.description, name) != getattr(data, name):
            raise _mismatch(model, store, name, getattr(model.description, name), getattr(data, name))
    windows = [(made.lo, made.hi) for made in (model.description, data)]
    if data.intensity == "window" and windows[0] != windows[1]:
        raise _mismatch(model, store, "window", *windows)


def origin_warning(model: "Model", store: "Store") -> str:
    """Say what may be wrong if the model was trained on another store; empty if it was not."""
    from hagan3d.checkpoint import load

    known = {store.store_fingerprint, *(origin["store"] for origin in store.settings.get("generated", []))}
    if load(model.path, mapped=True).store in known:
        return ""
    return (
        f"{model.path} was not trained on {store.path}; if it has seen volumes that are held out there, whatever is "
        "measured on those will look better than it is"
    )


def _mismatch(model: "Model", store: "Store", what: str, ours: object, theirs: object) -> InputError:
    shown = [list(value) if isinstance(value, tuple) else value for value in (theirs, ours)]
    return InputError(
        f"{store.path}: {what} {shown[0]}, but {shown[1]} in the data of {model.path}; take the store that the run was "
        "trained on, or prepare the files again in its way"
    )


def _check_out(out: Path, store: Path, force: bool) -> None:
    """Raise InputError unless a store may be written there."""
    if out.suffix != ".h5" or out.is_dir():
        raise InputError(f"{out}: want a file name that ends in .h5")
    if out.exists() and store.exists() and out.samefile(store):
        raise InputError(f"{out}: is the store with the real volumes; give another --out")
    if not force and any(path.exists() for path in (out, picture_of(out))):
        raise InputError(f"{out}: is there already, or its picture; give another --out, or --force to replace it")


def _samples(model: "Model", store: "Store", wanted: Wanted) -> "Iterator[Sample]":
    """Generate the volumes, class by class in the order of the store."""
    from hagan3d.inference.generation import samples

    for label, name in enumerate(store.class_names):
        yield from samples(model, wanted.seeds(label), model.description.class_names.index(name), wanted.truncation)


def _records(model: "Model", store: "Store", wanted: Wanted, generator: str) -> "list[Record]":
    """Describe the volumes to come, in their order; what they hold follows from generator, class, seed, truncation."""
    from hagan3d.data.store.write import Record

    data = model.description
    made = []
    for label, name in enumerate(store.class_names):
        for seed in wanted.seeds(label):
            id = f"generated-{generator[:8]}-{seed:06d}"
            key = json.dumps([generator, name, seed, wanted.truncation])
            hash = hashlib.sha256(key.encode()).hexdigest()
            source = f"{model.path.parent.parent.name} step {model.step} class {name} seed {seed}"
            made.append(Record(id, id, "train", label, data.affine_array, data.lo, data.hi, source, hash))
    return made


def _refuse_same_seeds(store: "Store", records: "list[Record]") -> None:
    """Raise InputError if the store holds volumes that this model made of some of these seeds."""
    have = {id for id, generated in zip(store.ids, store.generated, strict=True) if generated}
    same = [record.id for record in records if record.id in have]
    if same:
        run = same[0].rpartition("-")[0]
        free = 1 + max(int(id.rpartition("-")[2]) for id in have if id.startswith(run))
        raise InputError(
            f"{store.path}: holds {len(same)} volumes of this run and these seeds already; give --first-seed {free}"
        )


def _draw(store: "Store", path: Path) -> None:
    """Draw real and generated training volumes of every class below each other."""
    import numpy as np

    from hagan3d.data.pictures import comparison_sheet

    def some(label: int, generated: bool) -> "list[np.ndarray]":
        found = np.flatnonzero((store.labels == label) & (store.generated == generated))
        mine = [i for i in found if store.splits[i] == "train"][-SHEET_VOLUMES:]
        return [store.volume(int(i)).numpy() for i in mine]

    groups = {
        f"{name}, {'generated' if generated else 'real'}": some(label, generated)
        for label, name in enumerate(store.class_names)
        for generated in (False, True)
    }
    shown = {title: volumes for title, volumes in groups.items() if volumes}
    comparison_sheet(shown, store.description().affine_array, path, planes=("coronal", "axial"))


if __name__ == "__main__":
    sys.exit(cli.run(main))
