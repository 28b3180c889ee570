"""A store of real volumes and, class by class, of generated ones, to train classifiers on."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hagan3d.checkpoint import Model, load
from hagan3d.checkpoint.generator_hash import generator_hash
from hagan3d.config.bounds import MAX_SEED, MOST_TRUNCATION
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store.derived import write_with_generated
from hagan3d.data.store.preparation import check_preparation
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record
from hagan3d.errors import InputError
from hagan3d.inference.generation import Sample, samples

SHEET_VOLUMES = 6  # of each class and kind in the picture

SampleProgress = Callable[[Iterator[Sample]], Iterator[Sample]]


@dataclass(frozen=True)
class GeneratedSet:
    """Which volumes to generate."""

    per_class: int = 100
    """Volumes of each class; without classes, of all."""
    first_seed: int = 0
    """Seed of the first; the others follow, class by class, so that no two volumes share a latent."""
    truncation: float = 1.0
    """Factor on the distance of z from its mean."""

    def __post_init__(self) -> None:
        is_seed, is_factor = 0 <= self.first_seed <= MAX_SEED, 0 < self.truncation <= MOST_TRUNCATION
        if self.per_class < 1 or not is_seed or not is_factor:
            raise InputError(
                f"want --per-class from 1 up, --first-seed from 0 up (to {MAX_SEED}) and --truncation above 0 (at most "
                f"{MOST_TRUNCATION}), got {self.per_class}, {self.first_seed}, {self.truncation:g}"
            )

    def seeds(self, label: int) -> range:
        """Return the seeds of the class with index ``label``."""
        return range(self.first_seed + label * self.per_class, self.first_seed + (label + 1) * self.per_class)


def augment(
    model: Model, store: Store, out: Path, generated: GeneratedSet, progress: SampleProgress = lambda items: items
) -> Store:
    """Write the volumes of a store, and generated ones of every class besides; and a picture of both.

    Generated volumes are in the training split, each a subject of its own. Numeric columns are NaN for them.

    Args:
        model: A conditional model, or one with labels, with G.
        store: Its store, or one of the same classes, size and intensities.
        out: The .h5 file, written whole or not at all; the picture is written to the same folder.
        generated: Which volumes to generate.
        progress: Wraps the iteration, to show a bar.

    Returns:
        The new store.

    Raises:
        InputError: If model and store do not belong together, or the store holds volumes of those seeds already.
    """
    check_match(model, store)
    generator = generator_hash(model)
    records = generated_records(model, store, generated)
    _refuse_same_seeds(store, records)
    run = model.run_folder.name
    origin = {"run": run, "step": model.step, "generator": generator, "store": store.store_fingerprint}
    volumes = progress(samples_of(model, store, generated))
    made = write_with_generated(out, store, records, lambda i: next(volumes).volume, origin | asdict(generated))
    _draw(made, picture_of(out))
    return made


def picture_of(out: Path) -> Path:
    """Return where the picture of an augmented store lies."""
    return out.with_suffix(".png")


def check_match(model: Model, store: Store) -> None:
    """Raise InputError unless the volumes of a model can be added to a store: same grid, units and classes."""
    data = store.description()
    if model.num_classes or not data.label_names:
        _check_classes(model, store)
    if model.description.label_names != data.label_names:
        raise _mismatch(model, store, "label_names", model.description.label_names, data.label_names)
    channels = [[one.name for one in made.channels] for made in (model.description, data)]
    if channels[0] != channels[1]:
        raise _mismatch(model, store, "channels", *channels)
    check_preparation(store, model.description, zip(data.channels, model.description.channels, strict=True))


def _check_classes(model: Model, store: Store) -> None:
    """Raise InputError unless a conditional model generates the classes of a store."""
    if not model.num_classes:
        raise InputError(
            f"{model.path}: trained without classes, so it cannot generate a given class; train a run of a method that "
            "has classes (--METHOD.conditional true)"
        )
    labels = store.labels[store.indices("train")]
    if len(set(labels[labels >= 0].tolist())) < 2:
        raise InputError(
            f"{store.path}: its training volumes are of fewer than 2 classes; prepare it with --labels that has more"
        )
    theirs, ours = model.description.class_names, store.class_names
    if set(theirs) != set(ours):
        raise InputError(
            f"{store.path}: has the classes {', '.join(ours)}, the run those of {model.description.source}: "
            f"{', '.join(theirs)}; take the store that the run was trained on"
        )


def origin_warning(model: Model, store: Store) -> str:
    """Return a warning if the model was trained on another store; empty if it was not."""
    known = {store.store_fingerprint, *(origin["store"] for origin in store.settings.get("generated", []))}
    if load(model.path, mapped=True).store in known:
        return ""
    return (
        f"{model.path} was not trained on {store.path}; if it has seen volumes that are held out there, whatever is "
        "measured on those will look better than it is"
    )


def _mismatch(model: Model, store: Store, what: str, ours: object, theirs: object) -> InputError:
    shown = [list(value) if isinstance(value, tuple) else value for value in (theirs, ours)]
    return InputError(
        f"{store.path}: {what} {shown[0]}, but {shown[1]} in the data of {model.path}; take the store that the run was "
        "trained on, or prepare the files again in its way"
    )


def check_out(out: Path, store: Path, force: bool) -> None:
    """Raise InputError unless a store may be written there."""
    if out.suffix != ".h5" or out.is_dir():
        raise InputError(f"{out}: want a file name that ends in .h5")
    if out.exists() and store.exists() and out.samefile(store):
        raise InputError(f"{out}: is the store with the real volumes; give another --out")
    if store.is_dir() and os.path.realpath(out.parent) == os.path.realpath(store):
        raise InputError(f"{out}: lies among the shards of {store}, which it would join; give another --out")
    if not force and any(path.exists() for path in (out, picture_of(out))):
        raise InputError(f"{out}: is there already, or its picture; give another --out, or --force to replace it")


def classes_of(model: Model, store: Store) -> list[str | None]:
    """Return the classes that are generated, in the order of the store; [None] of a model without classes."""
    return list(store.class_names) if model.num_classes else [None]


def samples_of(model: Model, store: Store, generated: GeneratedSet) -> Iterator[Sample]:
    """Generate the volumes, class by class in the order of the store."""
    for label, name in enumerate(classes_of(model, store)):
        own = None if name is None else model.description.class_names.index(name)
        yield from samples(model, generated.seeds(label), own, generated.truncation)


def generated_records(model: Model, store: Store, generated: GeneratedSet) -> list[Record]:
    """Describe the volumes to come, in their order; what they hold follows from generator, class, seed, truncation."""
    data, generator = model.description, generator_hash(model)
    intervals = [channel.interval for channel in data.channels]
    made = []
    for label, name in enumerate(classes_of(model, store)):
        for seed in generated.seeds(label):
            id = f"generated-{generator[:8]}-{seed:06d}"
            key = json.dumps([generator, name, seed, generated.truncation])
            hash = hashlib.sha256(key.encode()).hexdigest()
            of_class = "" if name is None else f" class {name}"
            source = f"{model.run_folder.name} step {model.step}{of_class} seed {seed}"
            made.append(
                Record(id, id, "train", -1 if name is None else label, data.affine_array, intervals, source, hash)
            )
    return made


def _refuse_same_seeds(store: Store, records: list[Record]) -> None:
    """Raise InputError if the store already holds volumes that this model generated from these seeds."""
    have = {id for id, generated in zip(store.ids, store.generated, strict=True) if generated}
    same = [record.id for record in records if record.id in have]
    if same:
        run = same[0].rpartition("-")[0]
        free = 1 + max(int(id.rpartition("-")[2]) for id in have if id.startswith(run))
        raise InputError(
            f"{store.path}: holds {len(same)} volumes of this run and these seeds already; give --first-seed {free}"
        )


def _draw(store: Store, path: Path) -> None:
    """Draw real and generated training volumes of every class below each other."""

    def some(label: int, generated: bool) -> list[np.ndarray]:
        found = np.flatnonzero((store.labels == label) & (store.generated == generated))
        mine = [i for i in found if store.splits[i] == "train"][-SHEET_VOLUMES:]
        return [store.channel(int(i)).numpy() for i in mine]

    without = [(-1, "volumes")] if (store.labels < 0).any() else []
    classes = [*enumerate(store.class_names), *without]
    groups = {
        f"{name}, {'generated' if generated else 'real'}": some(label, generated)
        for label, name in classes
        for generated in (False, True)
    }
    shown = {title: volumes for title, volumes in groups.items() if volumes}
    comparison_sheet(shown, store.description().affine_array, path, planes=("coronal", "axial"))
