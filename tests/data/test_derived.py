"""Stores made from a store: what is kept is kept exactly, and a fraction is one of subjects and classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hagan3d.data.store.derived import record_of, training_fraction, write_subset, write_with_generated
from hagan3d.data.store.format import SCALE
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError

SETTINGS = {
    "size": [32, 32, 32], "orientation": "RAS", "axis": "axial", "spacing": None, "fit": "resize", "trim": False,
    "channels": [{
        "name": "ct", "intensity": "window", "window": [-1024.0, 600.0], "percentiles": [0.5, 99.5], "units": "HU",
    }],
    "label_names": [],
    "class_names": ["a", "b"], "columns": ["age"], "shard": [1, 1],
}  # fmt: skip


def volume_of(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(-SCALE, SCALE + 1, (32, 32, 32)).astype(np.int16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twenty subjects of two volumes each; every fifth subject is held out, every fourth is of class b."""
    records = [
        Record(
            id=f"v{i}",
            subject=f"s{i // 2}",
            split="validation" if i // 2 % 5 == 4 else "train",
            label=int(i // 2 % 4 == 0),
            affine=np.diag([3.0, 2, 1, 1]),
            intervals=[(-1024.0, 600.0)],
            file=f"v{i}.nii",
            hash=f"hash{i}",
            columns={"age": 40.0 + i},
        )
        for i in range(40)
    ]
    write_store(tmp_path / "a.h5", SETTINGS, records, lambda i: Voxels(volume_of(i)[None]))
    return Store(tmp_path / "a.h5")


def same(one: Record, other: Record) -> bool:
    mine, theirs = ({**vars(record), "affine": record.affine.tolist()} for record in (one, other))
    return mine == theirs


def test_a_fraction_takes_whole_subjects_of_every_class_and_all_that_is_held_out(store):
    labels, smaller = store.labels, set()
    for fraction, a, b in ((0.05, 1, 1), (0.25, 3, 1), (0.3, 4, 1), (0.5, 6, 2), (1.0, 12, 4)):
        chosen = training_fraction(store, fraction)
        train = [i for i in chosen if store.splits[i] == "train"]
        assert len(chosen) - len(train) == store.splits.count("validation")
        subjects = {store.subjects[i] for i in train}
        assert len(train) == 2 * len(subjects)
        assert (labels[train] == 0).sum() == 2 * a and (labels[train] == 1).sum() == 2 * b
        assert smaller <= subjects
        smaller = subjects
    assert not np.array_equal(training_fraction(store, 0.25, 1), training_fraction(store, 0.25, 0))
    with pytest.raises(InputError, match="fraction: .*1.5"):
        training_fraction(store, 1.5)


def test_a_part_of_a_store_holds_the_same_bits(store, tmp_path):
    part = write_subset(tmp_path / "part.h5", store, [3, 8, 39])
    for n, i in enumerate((3, 8, 39)):
        assert same(record_of(part, n), record_of(store, i))
        assert torch.equal(part.volume(n), store.volume(i)) and torch.equal(part.low(n), store.low(i))
    whole = write_subset(tmp_path / "whole.h5", store, range(40))
    assert whole.store_fingerprint == store.store_fingerprint
    assert (tmp_path / "whole.h5").read_bytes() == store.path.read_bytes()


def test_generated_volumes_are_marked_and_for_training_alone(store, tmp_path):
    records = [Record(f"g{i}", f"g{i}", "validation", 1, np.eye(4), [(0.0, 1.0)], "run", f"g{i}") for i in range(3)]
    made = write_with_generated(
        tmp_path / "more.h5", store, records, lambda i: np.full((1, 32, 32, 32), i / 4, np.float32), {"run": "r"}
    )
    assert made.generated.tolist() == [False] * 40 + [True] * 3 and made.splits[40:] == ["train"] * 3
    assert all(same(record_of(made, i), record_of(store, i)) for i in range(40))
    assert torch.equal(made.volume(7), store.volume(7)) and abs(made.volume(42).mean() - 0.5) < 1e-4
    assert np.isnan(made.columns["age"][40:]).all()
    assert made.store_fingerprint != store.store_fingerprint and made.settings["generated"] == [{"run": "r"}]
    assert made.indices("validation").tolist() == store.indices("validation").tolist()
    assert made.indices("train", generated=False).tolist() == store.indices("train").tolist()
    assert len(made.indices("train")) == len(store.indices("train")) + 3
    again = write_subset(tmp_path / "again.h5", made, range(len(made)))
    assert again.generated.tolist() == made.generated.tolist()
    more = [replace(record, id=f"h{i}", subject=f"h{i}", hash=f"h{i}") for i, record in enumerate(records)]
    twice = write_with_generated(tmp_path / "twice.h5", made, more, lambda i: volume_of(i)[None] / SCALE, {"run": "s"})
    assert twice.settings["generated"] == [{"run": "r"}, {"run": "s"}] and twice.generated.sum() == 6


def test_volumes_that_were_left_out_stay_on_record(store, tmp_path):
    record = record_of(store, 0)
    write_store(tmp_path / "one.h5", SETTINGS, [record], lambda i: Voxels(volume_of(i)[None]), ["blurred"])
    other = replace(record, id="g", hash="g")
    made = write_with_generated(
        tmp_path / "two.h5", Store(tmp_path / "one.h5"), [other], lambda i: store.volume(1).numpy(), {}
    )
    assert made.left_out == ["blurred"]


def test_no_volume_of_a_prepared_store_is_marked_as_generated(store):
    assert store.generated.dtype == bool and not store.generated.any()


def test_a_store_of_pairs_is_refused_rather_than_cut_in_half(store, tmp_path):
    records = [replace(record_of(store, i), source_intervals=[(0.0, 1.0)]) for i in range(4)]
    settings = {**SETTINGS, "pairs": [{**SETTINGS["channels"][0], "name": "source"}]}

    def read(i: int) -> Voxels:
        return Voxels(volume_of(i)[None])

    write_store(tmp_path / "pairs.h5", settings, records, read, sources=read)
    with pytest.raises(InputError, match="holds pairs"):
        write_subset(tmp_path / "part.h5", Store(tmp_path / "pairs.h5"), [0, 1])
    assert not (tmp_path / "part.h5").exists()
