"""The store: reads little, from any process, and says clearly what is wrong with it."""

import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.format import FORMAT, SCALE
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError

SETTINGS = {
    "size": [32, 64, 96], "orientation": "RAS", "axis": "axial", "spacing": None, "fit": "resize", "trim": False,
    "channels": [{
        "name": "ct", "intensity": "window", "window": [-1024.0, 600.0], "percentiles": [0.5, 99.5], "units": "HU",
    }],
    "label_names": [],
    "class_names": ["a", "b"], "columns": ["age"], "shard": [1, 1],
}  # fmt: skip


def volume_of(i: int) -> np.ndarray:
    random = np.random.default_rng(i)
    return random.integers(-SCALE, SCALE + 1, (32, 64, 96)).astype(np.int16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    records = [
        Record(
            id=f"v{i}",
            subject=f"s{i // 2}",
            split=["train", "validation"][i // 2],
            label=i % 2,
            affine=np.diag([3.0, 2, 1 + i, 1]),
            intervals=[(-1024.0, 600.0)],
            file=f"v{i}.nii",
            hash=f"hash{i}",
            columns={"age": 40.0 + i},
        )
        for i in range(4)
    ]
    write_store(tmp_path / "a.h5", SETTINGS, records, lambda i: Voxels(volume_of(i)[None]))
    return tmp_path / "a.h5"


def test_what_is_written_is_read(path: Path):
    store = Store(path)
    assert len(store) == 4 and store.size == (32, 64, 96) and store.factor == 4
    for i in range(4):
        expected = torch.from_numpy(volume_of(i).astype(np.float32))[None] / SCALE
        assert torch.equal(store.volume(i), expected) and torch.equal(store.channel(i), expected[0])
        assert torch.equal(store.window(i, 12, 8), expected[:, 12:20])
        pooled = torch.nn.functional.avg_pool3d(expected, 4)
        assert store.low(i).shape == (1, 8, 16, 24) and (store.low(i) - pooled).abs().max() < 2e-5
    assert store.ids == ["v0", "v1", "v2", "v3"] and store.labels.dtype == np.int64
    assert store.columns["age"].tolist() == [40, 41, 42, 43] and store.affines.shape == (4, 4, 4)
    assert store.indices("validation").tolist() == [2, 3] and store.indices("all").tolist() == [0, 1, 2, 3]


def test_a_window_is_whole_chunks(path: Path):
    with h5py.File(path) as file:
        assert file["high"].chunks == (1, 1, 4, 64, 96) and file["low"].chunks == (1, 1, 8, 16, 24)


def test_an_empty_split_and_an_impossible_window_are_refused(path: Path):
    with pytest.raises(InputError, match=r"no volume for test \(it has 2 train, 2 validation, 0 test\)"):
        Store(path).indices("test")
    with pytest.raises(InputError, match="must be train, validation, test or all"):
        Store(path).indices("val")
    for start, depth in ((-4, 8), (28, 8)):
        with pytest.raises(ValueError, match="expected 0 <= start"):
            Store(path).window(0, start, depth)


def test_the_description_survives_json_and_holds_medians_of_the_training_set(path: Path):
    made = Store(path).description()
    assert DataDescription.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.voxel_spacing == (3.0, 2.0, 1.5) and [
        (one.name, *one.interval, one.units) for one in made.channels
    ] == [("ct", -1024, 600, "HU")]
    assert made.class_names == ("a", "b") and made.source == "a.h5" and made.volumes == 4
    with pytest.raises(InputError, match="must have the fields"):
        DataDescription.from_dict({**made.to_dict(), "surprise": 1})


def _sum(store: Store, i: int) -> float:
    return float(store.volume(i).numpy().sum(dtype=np.float64))


def test_threads_and_processes_read_one_store(path: Path):
    store = Store(path)
    expected = [_sum(store, i) for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda i: _sum(store, i), [0, 1, 2, 3] * 5)) == expected * 5
    with multiprocessing.get_context("fork").Pool(2) as pool:  # with the parent's handle open
        assert pool.starmap(_sum, [(store, i) for i in range(4)]) == expected
    assert _sum(pickle.loads(pickle.dumps(store)), 2) == expected[2]
    store.close()
    assert _sum(store, 3) == expected[3]


def test_the_fingerprint_follows_content_and_not_the_name(path: Path):
    first = Store(path).store_fingerprint
    moved = path.rename(path.with_name("b.h5"))
    assert Store(moved).store_fingerprint == first
    found = {first}
    for name, value in (("hash", "other"), ("id", "v9"), ("split", "test"), ("label", 1)):
        with h5py.File(moved, "a") as file:
            file[name][0] = value
        found.add(Store(moved).store_fingerprint)
    assert len(found) == 5


def test_what_is_no_store_is_said(path: Path, tmp_path: Path):
    (tmp_path / "text.h5").write_text("no store")
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name, reason in (("gone.h5", "does not exist"), ("text.h5", "not a store, or damaged"),
                         ("cut.h5", "not a store, or damaged"), ("empty", "holds no .h5 file"),
                         ("other.h5", "must have the format")):  # fmt: skip
        with pytest.raises(InputError, match=reason) as caught:
            Store(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert FORMAT.endswith("3")


def test_content_that_comes_twice_is_refused(path: Path):
    with h5py.File(path, "a") as file:
        file["hash"][1] = "hash0"
    with pytest.raises(InputError, match="same content twice"):
        Store(path)


def test_a_store_of_an_older_format_is_refused_in_one_line(path: Path):
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "hagan3d store 1"
    with pytest.raises(InputError, match="got 'hagan3d store 1'; prepare it again") as caught:
        Store(path)
    assert "\n" not in str(caught.value)
