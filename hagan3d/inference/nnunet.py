"""A data set for nnU-Net of the real volumes of a store and of generated ones."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.io.nnunet import DATASET, image_path, label_path, write_dataset_json
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet, SampleProgress, check_match, generated_records, samples_of
from hagan3d.inference.generation import write_csv
from hagan3d.inference.volume_files import claim, write_channels

CASES = "cases.csv"
ORIGIN = "hagan3d"  # key of dataset.json
TEST_FOLDERS = {"imagesTr": "imagesTs", "labelsTr": "labelsTs"}
WRITTEN = {CASES, DATASET, *TEST_FOLDERS, *TEST_FOLDERS.values()}


def write_nnunet(
    model: Model, store: Store, folder: Path, generated: GeneratedSet, progress: SampleProgress = lambda items: items
) -> int:
    """Write an nnU-Net data set: training volumes of a store, generated ones, and held-out ones for testing.

    All lie on the grid of the store, in the units of their channels. Held-out volumes go to imagesTs and labelsTs, so
    that nnU-Net does not train on them; cases.csv names the origin, the subject and the split of every case.

    Args:
        model: A model with labels, and its generator.
        store: Its store, or one of the same channels, labels, size and intensities.
        folder: The data set, written whole or not at all.
        generated: Which volumes to generate.
        progress: Wraps the iteration over generated volumes, to show a bar.

    Returns:
        The number of training cases.

    Raises:
        InputError: If model and store do not belong together, or have no labels.
    """
    if not store.label_names:
        raise InputError(
            f"{store.path}: has no label maps, which nnU-Net needs; prepare it with --nnunet or column seg"
        )
    check_match(model, store)
    taken = set[Path]()
    for id in (*store.ids, *(record.id for record in generated_records(model, store, generated))):
        claim(label_path(folder, _case(id)), taken)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    rows = [*_write_real(store, temporary), *_write_generated(model, store, temporary, generated, progress)]
    write_csv(temporary / CASES, ["case", "origin", "subject", "split", "file"], rows)
    trained = sum(row[3] == "train" for row in rows)
    names = {ORIGIN: f"cases with origin generated are from {model.run_folder.name}, step {model.step}"}
    write_dataset_json(temporary, store.channels, store.label_names, trained, **names)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return trained


def check_folder(folder: Path, force: bool) -> None:
    """Raise InputError if a data set may not be written there."""
    if not folder.exists():
        return
    if not _is_own(folder):
        raise InputError(f"{folder}: holds other files than a data set made here, nothing is written; use another one")
    if not force:
        raise InputError(f"{folder}: is there already; use another --nnunet, or --force to replace it")


def _is_own(folder: Path) -> bool:
    """Return whether a folder holds a data set of `write_nnunet` and nothing else."""
    try:
        description = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        return ORIGIN in description and {path.name for path in folder.iterdir()} <= WRITTEN
    except (OSError, ValueError, TypeError):
        return False


def _write_real(store: Store, folder: Path) -> Iterator[list[str]]:
    """Write the real volumes of a store; yield a row of the table for each."""
    description = store.description()
    for i in np.flatnonzero(~store.generated):
        case, split = _case(store.ids[i]), store.splits[i]
        intervals = [(float(lo), float(hi)) for lo, hi in store.intervals[i]]
        x = store.volume(int(i)).numpy()
        paths = _paths(folder, case, len(store.channels), split != "train")
        write_channels([x], description, paths, affine=store.affines[i], intervals=intervals)
        yield [case, "real", store.subjects[i], split, store.files[i]]


def _write_generated(
    model: Model, store: Store, folder: Path, generated: GeneratedSet, progress: SampleProgress
) -> Iterator[list[str]]:
    """Generate volumes and write them; yield a row of the table for each."""
    records = generated_records(model, store, generated)
    for record, sample in zip(records, progress(samples_of(model, store, generated)), strict=True):
        paths = _paths(folder, _case(record.id), len(store.channels), False)
        write_channels(sample.slabs, model.description, paths)
        yield [_case(record.id), "generated", record.subject, "train", record.file]


def _paths(folder: Path, case: str, channels: int, is_test: bool) -> list[Path]:
    paths = [*(image_path(folder, case, channel) for channel in range(channels)), label_path(folder, case)]
    if not is_test:
        return paths
    return [path.parent.with_name(TEST_FOLDERS[path.parent.name]) / path.name for path in paths]


def _case(id: str) -> str:
    return id.replace("/", "_")
