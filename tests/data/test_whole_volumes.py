"""Whole volumes are read in a thread from the start of a step, once for a GPU, and the thread ends with the step."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from hagan3d.data.batches import whole_volumes
from hagan3d.data.batches.subvolumes import Batch, BatchSource
from hagan3d.data.batches.whole_volumes import SlabReader, StoredSlab, VolumesInStore
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from tests.engine.small_runs import make_trainer, tiny_config
from tests.helpers import CPU, assert_equal, weights

CUDA = torch.device("cuda", 0)


class Recorded:
    """Volumes of which every read is recorded; a slab has its number as the value of its voxels."""

    length = 20

    def __init__(self, name):
        self.name, self.reads, self.pinned, self.fails_at = name, [], set(), None

    def slab_bytes(self, depth):
        return 100

    def slab(self, first, stop, pinned):
        if first == self.fails_at:
            raise InputError(f"{self.name}: cannot be read")
        self.reads.append((first, stop))
        self.pinned.add(pinned)
        return torch.full((1, 1, stop - first, 1, 1), float(first))


@pytest.fixture
def parts(monkeypatch):
    """Volumes of two micro-batches, without a GPU to copy to."""
    monkeypatch.setattr(whole_volumes, "to_device", lambda x, device: x)
    return {(0,): Recorded("a"), (1,): Recorded("b")}


def read_twice(reader, parts):
    for _ in range(2):
        for samples in parts:
            slabs = list(reader.slabs(samples))
            assert [float(slab.flatten()[0]) for slab in slabs] == [0, 8, 16]
            assert [slab.shape[2] for slab in slabs] == [8, 8, 4]


def threads_of(reader):
    return [thread for thread in reader._thread._threads if thread.is_alive()]


def test_for_a_gpu_all_is_read_from_the_start_and_once_for_all_phases(parts):
    with SlabReader(parts, 8, CUDA, passes=2) as reader:
        for future in list(reader._read.values()):
            future.result(timeout=10)
        assert [part.reads for part in parts.values()] == [[(0, 8), (8, 16), (16, 20)]] * 2
        read_twice(reader, parts)
    assert [len(part.reads) for part in parts.values()] == [3, 3]
    assert all(part.pinned == {True} for part in parts.values())
    assert not reader._read and not threads_of(reader)


@pytest.mark.parametrize(("device", "limit", "ahead"), [(CUDA, 250, 2), (CUDA, 1, 1), (CPU, 2**40, 1)])
def test_no_more_wait_in_memory_than_the_limit_allows(parts, monkeypatch, device, limit, ahead):
    monkeypatch.setattr(whole_volumes, "READ_AHEAD", limit)
    with SlabReader(parts, 8, device, passes=2) as reader:
        begin, most = reader._begin, []
        monkeypatch.setattr(reader, "_begin", lambda key: (begin(key), most.append(len(reader._read))))
        assert len(reader._read) == ahead
        read_twice(reader, parts)
        assert max(most) == ahead
    assert [len(part.reads) for part in parts.values()] == [6, 6]
    assert all(part.pinned == {device == CUDA} for part in parts.values())


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_phase_may_read_more_often_than_was_said(parts, device):
    with SlabReader(parts, 8, device, passes=1) as reader:
        read_twice(reader, parts)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_an_error_is_raised_where_the_slab_is_asked_for_and_ends_the_thread(parts, device):
    parts[0,].fails_at = 8
    with pytest.raises(InputError, match="a: cannot be read"), SlabReader(parts, 8, device, passes=1) as reader:
        slabs = reader.slabs((0,))
        assert float(next(slabs).sum()) == 0
        next(slabs)
    assert not threads_of(reader) and not reader._read


def test_a_stored_slab_is_decoded_to_the_bits_of_the_store():
    torch.manual_seed(0)
    images = torch.randint(-32767, 32768, (2, 3, 4, 5, 6), dtype=torch.int16)
    label_map = torch.randint(0, 3, (2, 4, 5, 6), dtype=torch.uint8)
    x = StoredSlab(images, label_map, 3).decoded(CPU)
    assert torch.equal(x[:, :3], torch.from_numpy(images.numpy() / np.float32(32767)))
    for label in range(3):
        assert torch.equal(x[:, 3 + label] == 1, label_map == label) and x[:, 3:].abs().eq(1).all()


def test_reading_begins_before_the_update_of_d_and_ends_with_the_step(small_store, tmp_path, monkeypatch):
    trainer = make_trainer(
        small_store, tmp_path, tiny_config(autoencode=1.0, encoder_every=2, batch_size=4, accumulate=2)
    )
    began, d_loss, slab = threading.Event(), trainer.phases[0].loss, VolumesInStore.slab
    reads, order = [], []

    def recorded(self, first, stop, pinned):
        reads.append((self.indices, first))
        began.set()
        return slab(self, first, stop, pinned)

    def waiting(nets, batch):
        order.append(began.wait(timeout=30))
        return d_loss(nets, batch)

    monkeypatch.setattr(VolumesInStore, "slab", recorded)
    trainer.phases[0] = trainer.updates.phases[0] = dataclasses.replace(trainer.phases[0], loss=waiting)
    batch = trainer.source.batch(0)
    assert not reads
    before = threading.active_count()
    trainer.step(batch)
    assert order and all(order)
    assert threading.active_count() == before
    # the update of G and E^G reads the four slabs of both micro-batches; in step 0 so do the gradients of single terms
    assert {first for _, first in reads} == {0, 8, 16, 24}
    reads.clear()
    d_loss_alone = dataclasses.replace(trainer.phases[0], loss=d_loss)
    trainer.phases[0] = trainer.updates.phases[0] = d_loss_alone
    trainer.step(trainer.source.batch(1))  # no encoder is due
    assert not reads
    trainer.step(trainer.source.batch(2))
    assert len(reads) == 2 * 4


def test_an_error_of_an_update_ends_the_thread(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path)

    def fail(nets, batch):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    trainer.phases[1] = trainer.updates.phases[1] = dataclasses.replace(trainer.phases[1], loss=fail)
    batch, before = trainer.source.batch(0), threading.active_count()
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        trainer.step(batch)
    assert threading.active_count() == before


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_are_those_of_slabs_decoded_on_the_host(small_store, tmp_path, monkeypatch, accumulate):
    """As slabs were read before there was a reader: in float32, one after the other."""
    config = tiny_config(autoencode=1.0, batch_size=4, accumulate=accumulate)

    def trained(name):
        trainer = make_trainer(small_store, tmp_path / name, config)
        terms = [trainer.step(trainer.source.batch(step)) for step in range(2)]
        return terms, weights(trainer.networks)

    def decoded_on_the_host(batch):
        store, indices = batch.volumes.store, batch.volumes.indices
        for first in range(0, 32, 8):
            yield torch.stack([store.window(i, first, 8) for i in indices])

    ours = trained("ours")
    monkeypatch.setattr(Batch, "slabs", decoded_on_the_host)
    assert_equal(trained("plain"), ours)


def test_micro_batches_split_otherwise_read_on_their_own(small_store):
    batch = BatchSource(Store(small_store), "train", depth=8, batch_size=4, seed=1).batch(0)
    with batch.reading(2, passes=1) as reading:
        parts = [torch.cat(list(part.slabs()), 2) for part in reading.micro_batches(4)]
    assert torch.equal(torch.cat(parts), torch.cat(list(batch.slabs()), 2))
