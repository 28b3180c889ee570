"""Pairs are a function of (seed, step, sample), share their subject or do not, and use the fraction asked for."""

import dataclasses

import numpy as np
import pytest
import torch

from hagan3d.config import AugmentConfig, DegradeConfig, UnpairedDataConfig, WindowDataConfig
from hagan3d.data.batches.degrade import Physics, degrade
from hagan3d.data.batches.pairs import Pairs, PairSource
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

MOTION = DegradeConfig(kind="motion")


@pytest.fixture(scope="module")
def store(small_store):
    return Store(small_store)


@pytest.fixture
def source(store):
    return PairSource(store, "train", 3, 7, MOTION)


def index_of(store, volume):
    return next(i for i in range(len(store)) if torch.equal(store.volume(i), volume))


def test_batches_are_a_function_of_the_step(store, source):
    again = PairSource(store, "train", 3, 7, MOTION)
    one, other = source.batch(11), list(again.batches(10, 13))[1]
    assert one.source.shape == one.target.shape == (3, 1, 32, 32, 32) and one.mask is None
    assert torch.equal(one.source, other.source) and torch.equal(one.target, other.target)
    assert torch.equal(one.normal("z", 4), other.normal("z", 4)) and one.step == other.step == 11
    assert not torch.equal(one.source, source.batch(12).source)


def test_two_processes_share_the_batch_of_one(source):
    whole = dataclasses.replace(source, batch_size=4).batch(3)
    halves = [dataclasses.replace(source, batch_size=2, rank=rank, world_size=2).batch(3) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.source for half in halves]), whole.source)
    assert np.array_equal(np.concatenate([half.uniform("u", 4) for half in halves]), whole.uniform("u", 4))


def test_parts_make_the_batch(source):
    batch = dataclasses.replace(source, batch_size=4).batch(0)
    parts = list(batch.micro_batches(2))
    for name in ("source", "target"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert [part.samples for part in parts] == [(0, 1), (2, 3)]


def test_evaluation_sees_one_acquisition_and_training_another_each_time(store, source):
    pairs = Pairs(store, MOTION)
    assert torch.equal(pairs.pair(2).source, Pairs(store, MOTION).pair(2).source)
    seen = {}
    for fixed in (True, False):
        steps = dataclasses.replace(source, degrade=DegradeConfig(kind="motion", fixed=fixed))
        passes = [steps.batch(step) for step in range(8)]
        of_two = [
            batch.source[k, 0] for batch in passes for k in range(3) if torch.equal(batch.target[k], store.volume(2))
        ]
        assert len(of_two) >= 2
        seen[fixed] = [torch.equal(x, pairs.pair(2).source[0]) for x in of_two]
    assert all(seen[True]) and not any(seen[False])


def test_a_target_is_changed_before_it_is_degraded(store):
    change = AugmentConfig(flip_axes=("W",), rotate_deg=10)
    pair = Pairs(store, MOTION).pair(1, degrade_seed=5, augmentation=change, augmentation_seed=9)
    assert not torch.equal(pair.target, store.volume(1))
    assert torch.equal(pair.source[0], degrade(pair.target[0], MOTION, 5))


def test_unpaired_targets_are_of_other_subjects(store):
    source = PairSource(store, "train", 4, 0, DegradeConfig(kind="thick-slices"), paired=False)
    seen = set()
    for step in range(6):
        batch = source.batch(step)
        for k in range(4):
            target = index_of(store, batch.target[k])
            seen.add(target)
            degraded = degrade(store.channel(target), source.degrade, 0)
            assert not torch.equal(batch.source[k, 0], degraded)
    assert len(seen) > 4


def test_unpaired_sources_and_targets_are_augmented_independently(store):
    flips = AugmentConfig(flip_axes=("W",))
    source = PairSource(store, "train", 4, 0, DegradeConfig(kind="noise", noise=1e-6), augment=flips, paired=False)

    def is_flipped(x):
        volumes = [store.volume(i) for i in range(len(store))]
        distances = [[(x - y).abs().mean() for y in (volume, volume.flip(3))] for volume in volumes]
        return min(range(2), key=lambda flip: min(row[flip] for row in distances))

    batches = [source.batch(step) for step in range(4)]
    seen = {(is_flipped(batch.source[k]), is_flipped(batch.target[k])) for batch in batches for k in range(4)}
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_an_acquisition_is_in_the_units_and_spacing_of_its_own_volume(store, monkeypatch):
    monkeypatch.setattr(store, "affines", store.affines * np.array([1.0, 2.0, 3.0, 1.0]))
    intervals = store.intervals.copy()
    intervals[5] = (-300.0, 900.0)
    monkeypatch.setattr(store, "intervals", intervals)
    config = DegradeConfig(kind="low-dose")
    pair = Pairs(store, config).pair(5, degrade_seed=3)
    physics = Physics(-300.0, 900.0, (2.0, 4.0, 6.0))
    assert torch.equal(pair.source[0], degrade(store.channel(5), config, 3, physics))


def test_a_smaller_fraction_of_subjects_is_part_of_a_larger_one(store):
    pairs = Pairs(store, MOTION)
    sets = [set(pairs.indices("train", fraction=fraction, seed=1)) for fraction in (0.1, 0.25, 0.5, 1.0)]
    assert [len(one) for one in sets] == [1, 2, 4, 8]
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
    assert (
        pairs.indices("train", fraction=0.25, seed=1).tolist() != pairs.indices("train", fraction=0.25, seed=4).tolist()
    )


def test_all_volumes_of_a_subject_go_together(store, monkeypatch):
    monkeypatch.setattr(store, "subjects", list("aabbccdd"))
    found = Pairs(store, MOTION).indices("train", fraction=0.5)
    chosen = {store.subjects[i] for i in found}
    assert len(chosen) == 2 and len(found) == 4


def test_a_store_without_pairs_says_how_to_get_some(store):
    with pytest.raises(InputError, match="holds no pairs; make some with `hagan3d prepare --pairs`"):
        Pairs(store)
    with pytest.raises(InputError, match="at least two subjects"):
        PairSource(store, "train", 1, 0, MOTION, paired=False, fraction=0.1)


def test_every_volume_once_a_pass(store):
    source = PairSource(store, "train", 4, 0, DegradeConfig(kind="gibbs"))
    seen = [index_of(store, volume) for step in (0, 1) for volume in source.batch(step).target]
    assert sorted(seen) == list(range(8)) and np.unique(seen).size == 8


def test_a_source_of_a_config_is_the_one_written_out(store):
    noise = AugmentConfig(noise=0.1)
    own = {"degrade": MOTION, "fraction": 0.5, "augment": noise, "split": "all"}
    data = WindowDataConfig(window="hierarchical", subvolume_depth=8, **own)
    made = PairSource.from_config(store, data, batch_size=2, seed=5, rank=1, world_size=2)
    expected = PairSource(store, "all", 2, 5, MOTION, noise, fraction=0.5, depth=8, with_low=True, rank=1, world_size=2)
    assert made == expected
    whole = PairSource.from_config(store, UnpairedDataConfig(**own), batch_size=2, seed=5)
    assert whole == PairSource(store, "all", 2, 5, MOTION, noise, paired=False, fraction=0.5)
