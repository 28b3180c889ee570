"""Batches are a function of (seed, step, sample), cover a volume evenly and read what they should."""

import dataclasses

import numpy as np
import pytest
import torch

from hagan3d.config import AugmentConfig, SubvolumeDataConfig, VolumeDataConfig
from hagan3d.data.batches.steps import sample_index, shuffled
from hagan3d.data.batches.subvolumes import BatchSource, choose_start
from hagan3d.data.batches.whole_volumes import VolumesInMemory, VolumesInStore
from hagan3d.data.store.store import Store


@pytest.fixture
def source(small_store):
    return BatchSource(Store(small_store), "train", depth=8, batch_size=3, seed=7)


@pytest.mark.parametrize(
    ("length", "depth", "stride"), [(32, 4, 4), (32, 16, 4), (256, 32, 4), (512, 64, 8), (96, 20, 4)]
)
def test_every_slice_is_seen_about_equally_often(length, depth, stride):
    random = np.random.default_rng(0)
    seen = np.zeros(length)
    starts = [choose_start(random.random(2), length, depth, stride) for _ in range(40_000)]
    for start in starts:
        assert start % stride == 0 and 0 <= start <= length - depth
        seen[start : start + depth] += 1
    tolerance = 1.45 if length % depth == 0 else 2.6  # tiles overlap
    assert seen.max() / seen.min() < tolerance
    assert len(set(starts)) == (length - depth) // stride + 1


def test_windows_for_comparison_lie_where_they_say():
    random = np.random.default_rng(0).random((2000, 2))
    at = {kind: {choose_start(u, 32, 8, 4, kind) for u in random} for kind in ("uniform", "fixed", "published")}
    assert at == {"uniform": set(range(0, 25, 4)), "fixed": {12}, "published": set(range(25))}
    assert (
        choose_start(random[0], 32, 12, 4, "fixed") == 8
    )  # the middle is 10, no slice of the feature map begins there


def test_published_windows_are_one_for_the_batch(source):
    batches = [dataclasses.replace(source, sampling="published").batch(step) for step in range(8)]
    assert all(len(set(batch.start.tolist())) == 1 for batch in batches)
    assert any(batch.start[0] % 4 for batch in batches)
    assert torch.equal(batches[0].window[1, 0], whole(batches[0])[1, batches[0].start[1] :][:8])


def test_the_last_random_number_still_fits():
    assert choose_start(np.array([0.99, 1 - 1e-12]), 32, 8, 4) == 24
    assert choose_start(np.array([0.0, 1 - 1e-12]), 32, 8, 4) == 24


def whole(batch):
    if isinstance(batch.volumes, VolumesInMemory):
        return batch.volumes.x[:, 0]
    return torch.stack([batch.volumes.store.volume(i)[0] for i in batch.volumes.indices])


def test_windows_and_low_volumes_belong_to_the_volumes(source):
    batch = source.batch(5)
    volume = whole(batch)
    assert batch.window.shape == (3, 1, 8, 32, 32)
    for i, start in enumerate(batch.start.tolist()):
        assert torch.equal(batch.window[i, 0], volume[i, start : start + 8])
        average = torch.nn.functional.avg_pool3d(volume[i][None], 4)
        torch.testing.assert_close(batch.low[i], average, atol=1e-4, rtol=0)
    assert torch.equal(torch.cat(list(batch.slabs()), 2)[:, 0], volume)


def test_a_batch_without_whole_volumes_reads_the_same_windows(source):
    both, windows = source.batch(2), dataclasses.replace(source, whole=False).batch(2)
    assert windows.volumes is None
    assert torch.equal(both.window, windows.window) and torch.equal(both.low, windows.low)


def test_batches_are_a_function_of_the_step(source):
    again = BatchSource(source.store, "train", 8, 3, seed=7)
    one, other = source.batch(11), again.batch(11)
    assert torch.equal(one.window, other.window) and torch.equal(one.normal("z", 4), other.normal("z", 4))
    ahead = list(source.batches(10, 13))
    assert [batch.step for batch in ahead] == [10, 11, 12]
    assert torch.equal(ahead[1].window, one.window)
    assert not torch.equal(one.normal("z", 4), source.batch(12).normal("z", 4))


def test_phases_and_names_draw_other_numbers(source):
    batch = source.batch(0)
    d, g = dataclasses.replace(batch, phase="d"), dataclasses.replace(batch, phase="g")
    assert not torch.equal(d.normal("z", 4), g.normal("z", 4))
    assert not np.array_equal(d.uniform("real", 4), d.uniform("fake", 4))
    z = torch.cat([dataclasses.replace(source.batch(i), phase="d").normal("z", 500) for i in range(4)])
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05


def test_every_sample_and_seed_draws_numbers_of_its_own(source):
    batch = dataclasses.replace(source, batch_size=4).batch(0)
    z = torch.cat([dataclasses.replace(batch, seed=seed).normal("z", 4) for seed in (0, 1)])
    assert len(z.unique(dim=0)) == 8


def test_every_seed_and_name_has_an_order_of_its_own():
    """Without it, the targets of an unpaired batch would belong to the same sources in every epoch."""
    orders = [shuffled(seed, 0, 50, name).tolist() for seed in (0, 1) for name in ("order", "target")]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


def test_every_sample_step_and_seed_is_augmented_in_its_own_way(source):
    """A change of brightness shows in the middle of the intensities, which no limit clips."""
    shifts = []
    for seed in (0, 1):
        plain = dataclasses.replace(source, seed=seed)
        brighter = dataclasses.replace(plain, augment=AugmentConfig(brightness=0.2))
        for step in range(2):
            change = brighter.batch(step).low - plain.batch(step).low
            shifts += change.flatten(1).median(1).values.tolist()
    assert len({round(shift, 3) for shift in shifts}) == 12


def test_labels_are_those_of_the_volumes(source):
    for batch in map(source.batch, range(4)):
        assert batch.label.tolist() == [int(source.store.labels[i]) for i in batch.volumes.indices]


def test_every_volume_once_a_pass_in_another_order_each(source):
    order = [sample_index(source.store.indices("train"), source.seed, position) for position in range(16)]
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]


def test_two_processes_share_the_batch_of_one(source):
    whole = dataclasses.replace(source, batch_size=4).batch(3)
    halves = [dataclasses.replace(source, batch_size=2, rank=rank, world_size=2).batch(3) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.window for half in halves]), whole.window)
    assert torch.equal(torch.cat([half.normal("z", 4) for half in halves]), whole.normal("z", 4))


def test_parts_make_the_batch(source):
    batch = dataclasses.replace(source, batch_size=4).batch(0)
    parts = list(batch.micro_batches(2))
    for name in ("window", "low", "start", "label"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name
    assert torch.equal(torch.cat([part.normal("z", 4) for part in parts]), batch.normal("z", 4))


def test_no_more_than_two_slabs_are_read_before_they_are_asked_for(source, monkeypatch):
    read = []
    slab = VolumesInStore.slab
    monkeypatch.setattr(
        VolumesInStore,
        "slab",
        lambda self, first, stop, pinned: (read.append(stop - first), slab(self, first, stop))[1],
    )
    batch = source.batch(5)
    slabs = batch.slabs()
    next(slabs)
    slabs.close()
    assert len(read) <= 2 and set(read) == {8}


def test_a_part_has_the_slabs_of_its_rows(source):
    for config in (AugmentConfig(), AugmentConfig(brightness=0.2)):
        batch = dataclasses.replace(source, batch_size=4, augment=config).batch(0)
        parts = [torch.cat(list(part.slabs()), 2)[:, 0] for part in batch.micro_batches(2)]
        assert torch.equal(torch.cat(parts), whole(batch))


def test_augmented_volumes_are_cut_after_the_change(source):
    batch = dataclasses.replace(source, augment=AugmentConfig(flip_axes=("W",), brightness=0.2, rotate_deg=10)).batch(4)
    volume, plain = whole(batch), source.batch(4)
    assert not torch.equal(volume, whole(plain))
    for i, start in enumerate(batch.start.tolist()):
        assert torch.equal(batch.window[i, 0], volume[i, start : start + 8])
        torch.testing.assert_close(batch.low[i], torch.nn.functional.avg_pool3d(volume[i][None], 4))


def test_an_error_of_the_reader_is_raised_where_the_batch_is_asked_for(source, monkeypatch):
    monkeypatch.setattr(Store, "window", lambda self, i, start, depth: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(source.batches(0, 3))


def test_a_source_of_a_config_is_the_one_written_out(small_store):
    noise = AugmentConfig(noise=0.1)
    data = SubvolumeDataConfig(subvolume_depth=8, subvolume_sampling="uniform", augment=noise, split="test")
    made = BatchSource.from_config(Store(small_store), data, batch_size=2, seed=5, whole=False, rank=1, world_size=2)
    expected = BatchSource(made.store, "test", 8, 2, 5, noise, sampling="uniform", whole=False, rank=1, world_size=2)
    assert made == expected
    volumes = BatchSource.from_config(made.store, VolumeDataConfig(size=(96, 32, 64)), batch_size=2, seed=5)
    assert volumes.depth == 96
