"""Windows of pairs: source, target and mask at one place, read and no more, every slice about equally often."""

import dataclasses

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.data.batches.pairs import Pairs, PairSource
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two pairs with masks, of noise, so that no two slices are alike."""
    folder, rows = tmp_path_factory.mktemp("pairs"), ["id,source,target,mask"]
    for k in range(2):
        random = np.random.default_rng(k)
        for name in "stm":
            array = random.standard_normal((32, 32, 32)).astype(np.float32)
            values = (array > 0).astype(np.uint8) if name == "m" else array
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}{k}.nii.gz")
        rows.append(f"p{k},s{k}.nii.gz,t{k}.nii.gz,m{k}.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(rows))
    settings = PrepareConfig(size=(32, 32, 32), validation=0.0, workers=1)
    return Store(prepare(find_pairs([folder / "pairs.csv"]), folder / "s.h5", settings, progress=False).path)


CHANGES = [{}, {"augment": AugmentConfig(flip_axes=("D", "W"))}]


@pytest.mark.parametrize("change", CHANGES)
def test_source_target_and_mask_are_cut_at_one_place(store, change):
    whole = PairSource(store, "train", 2, 5, **change)
    windows = dataclasses.replace(whole, depth=8, with_low=True, with_low_mask=True)
    for step in range(4):
        one, other = windows.batch(step), whole.batch(step)
        assert other.start is None and other.low_source is None
        for k, start in enumerate(one.start.tolist()):
            for name in ("source", "target", "mask"):
                expected = getattr(other, name)[k, :, start : start + 8]
                assert torch.equal(getattr(one, name)[k], expected), name
        for name in ("source", "target", "mask"):
            expected = F.avg_pool3d(getattr(other, name), 4)
            torch.testing.assert_close(getattr(one, f"low_{name}"), expected, atol=1e-4, rtol=0)


def test_source_target_and_mask_are_flipped_alike(store):
    pairs, seen = Pairs(store), set()
    for seed in range(12):
        pair = pairs.pair(0, None, AugmentConfig(flip_axes=("D", "W")), seed)
        flips = [(), (1,), (3,), (1, 3)]
        axes = next(axes for axes in flips if torch.equal(pair.target, store.volume(0).flip(axes)))
        assert torch.equal(pair.source, store.source(0).flip(axes))
        assert torch.equal(pair.mask, store.mask(0)[None].flip(axes))
        seen.add(axes)
    assert len(seen) > 2


def test_a_mask_moves_with_its_target_and_stays_one_of_0_and_1(small_store, monkeypatch):
    """Of a target that is its own mask the two agree wherever they moved; voxels of an edge are rounded."""
    store = Store(small_store)
    cube = torch.full((1, 32, 32, 32), -1.0)
    cube[:, 8:20, 10:22, 12:24] = 1
    monkeypatch.setattr(store, "has_masks", True)
    monkeypatch.setattr(Store, "volume", lambda *_: cube)
    monkeypatch.setattr(Store, "mask", lambda *_: (cube[0] > 0).float())
    change = AugmentConfig(rotate_deg=20, scale=0.1, shift=0.1)
    pair = Pairs(store, DegradeConfig(kind="copy")).pair(0, None, change, 3)
    assert set(pair.mask.unique().tolist()) == {0, 1} and not torch.equal(pair.target, cube)
    assert torch.equal(pair.mask > 0, pair.target > 0)


def test_simulated_sources_are_cut_after_the_simulation(small_store):
    whole = PairSource(Store(small_store), "train", 2, 5, DegradeConfig(kind="motion"))
    one, other = dataclasses.replace(whole, depth=16).batch(3), whole.batch(3)
    for k, start in enumerate(one.start.tolist()):
        assert torch.equal(one.source[k], other.source[k, :, start : start + 16])
    assert one.low_source is None


def test_only_the_window_is_read(store, monkeypatch):
    read, plain = [], Store._values
    monkeypatch.setattr(
        Store, "_values", lambda self, name, i, *at: read.append((name, *at)) or plain(self, name, i, *at)
    )
    batch = PairSource(store, "train", 1, 0, depth=8, with_low=True).batch(0)
    start = int(batch.start[0])
    cut, every = slice(start, start + 8), slice(None)
    assert sorted(read, key=str) == sorted(
        [
            ("high", every, cut),
            ("source_high", every, cut),
            ("mask", cut),
            ("low", every),
            ("source_low", every),
        ],
        key=str,
    )


def test_every_slice_is_seen_about_equally_often(store):
    source, seen = PairSource(store, "train", 2, 0, depth=8), np.zeros(32)
    for start in (source._start(step, sample, (32, 32, 32)) for step in range(2000) for sample in range(2)):
        assert start % 4 == 0
        seen[start : start + 8] += 1
    assert seen.max() / seen.min() < 1.45


def test_parts_make_the_batch(store):
    batch = PairSource(store, "train", 2, 0, depth=8, with_low=True).batch(0)
    parts = list(batch.micro_batches(2))
    for name in ("source", "target", "mask", "start", "low_source", "low_target"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
