"""Two unpaired domains: every source meets every target, and their slices are sampled independently."""

import numpy as np
import pytest
import torch

from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.batches.slices import SlicePairSource, Slices
from hagan3d.data.store.format import SCALE
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store

CHANNEL = {"name": "image", "intensity": "window", "window": [0.0, 1.0], "units": "", "percentiles": [0.5, 99.5]}
INTERVALS = {"source": (0.0, 5.0), "target": (-1.0, 1.0)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two volumes of noise in each domain, all of subjects of their own."""
    settings = {
        "size": [32, 32, 32], "orientation": "RAS", "axis": "axial", "spacing": None, "fit": "resize", "trim": False,
        "channels": [CHANNEL], "domains": [CHANNEL], "label_names": [], "class_names": [], "columns": [],
        "shard": [1, 1],
    }  # fmt: skip
    records = [
        Record(name, name, "train", -1, np.eye(4), [INTERVALS[domain]], f"{name}.nii", name, domain=domain)
        for domain in ("source", "target")
        for name in (f"{domain}_a", f"{domain}_b")
    ]

    def read(i: int) -> Voxels:
        return Voxels(np.random.default_rng(i).integers(-SCALE, SCALE, (1, 32, 32, 32)).astype(np.int16))

    path = tmp_path_factory.mktemp("domains") / "d.h5"
    write_store(path, settings, records, read)
    return Store(path)


def test_every_source_meets_every_target(store):
    source = PairSource(store, "train", 2, 0, paired=False)
    met = set()
    for batch in map(source.batch, range(8)):
        for x in zip(batch.source, batch.target, strict=True):
            met.add(tuple(next(i for i in range(4) if torch.equal(store.volume(i), one)) for one in x))
    assert met == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_slices_of_the_domains_are_sampled_independently(store):
    batch = SlicePairSource(store, "train", 8, 0, paired=False, slices=Slices(0)).batch(0)
    places = [
        [next(d for i in range(4) for d in range(32) if torch.equal(store.volume(i)[:, d : d + 1], one)) for one in x]
        for x in (batch.source, batch.target)
    ]
    assert sum(a == b for a, b in zip(*places, strict=True)) <= 2


def test_the_description_has_the_intensities_of_each_domain(store):
    description = store.description()
    assert [channel.interval for channel in description.channels] == [INTERVALS["target"]]
    assert [channel.interval for channel in description.source_channels] == [INTERVALS["source"]]
