"""Random slices of volumes: at one place in source, target and mask, read and no more, with neighbours as channels."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.data.batches.slices import SliceBatchSource, SlicePairSource, Slices, is_blank, neighbours
from hagan3d.data.io.geometry import slice_affine, slice_axis, to_grid
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.format import SCALE
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.errors import InputError

SIZE = (32, 64, 96)
AXES = [("axial", 0), ("coronal", 1), ("sagittal", 2)]
AXIS_NAMES = [name for name, _ in AXES]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Four pairs with masks, of noise, so that no two slices are alike; two are of one subject."""
    folder, rows = tmp_path_factory.mktemp("pairs"), ["id,source,target,mask,subject"]
    for k in range(4):
        random = np.random.default_rng(k)
        for name in "stm":
            array = random.standard_normal(SIZE[::-1]).astype(np.float32)  # x, y, z
            values = (array > 0).astype(np.uint8) if name == "m" else array
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}{k}.nii.gz")
        rows.append(f"p{k},s{k}.nii.gz,t{k}.nii.gz,m{k}.nii.gz,{k // 2}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    settings = PrepareConfig(size=SIZE, validation=0.5, workers=1)
    return Store(prepare(find_pairs([folder / "pairs.csv"]), folder / "s.h5", settings, progress=False).path)


def source_of(store, axis=0, context=1, **settings):
    return SlicePairSource(store, "train", 4, 5, slices=Slices(axis, context), **settings)


def place_of(slice_of, volume, axis):
    """Return the number of the slice of a volume ``[C, D, H, W]`` that a slice ``[C, 1, rows, columns]`` is."""
    found = [number for number, one in enumerate(volume.unbind(1 + axis)) if torch.equal(one, slice_of[:, 0])]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("plane", "axis"), AXES)
def test_slices_are_perpendicular_to_the_axis_of_their_plane(pairs, plane, axis):
    assert pairs.slice_axis(plane) == axis
    assert pairs.slice_size(axis) == (1, *(side for other, side in enumerate(SIZE) if other != axis))
    batch = source_of(pairs, axis).batch(0)
    assert batch.source.shape == batch.target.shape == batch.mask.shape == (4, 1, *pairs.slice_size(axis))
    assert batch.start is None


@pytest.mark.parametrize(
    ("plane", "orientation", "axis", "expected"),
    [("sagittal", "RAS", "sagittal", 0), ("axial", "RAS", "coronal", 1), ("coronal", "PSR", "axial", 2)],
)
def test_the_axis_follows_the_orientation_of_the_store(plane, orientation, axis, expected):
    assert slice_axis(plane, orientation, axis) == expected


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("change", [{}, {"augment": AugmentConfig(flip_axes=("D", "W"))}])
def test_source_target_and_mask_are_cut_at_one_place(pairs, axis, change):
    source = source_of(pairs, axis, **change)
    seen, train = set(), {pairs.subjects[i] for i in pairs.indices("train")}
    for step in range(3):
        batch = source.batch(step)
        for k in range(4):
            i = int(next(j for j in pairs.indices("train") if _holds(pairs, j, batch.target[k], axis, change)))
            whole = source.pairs.pair(i, None, source.augment, source._seed_of("augment", step, k))
            place = place_of(batch.target[k], whole.target, axis)
            for name in ("source", "mask"):
                assert torch.equal(getattr(batch, name)[k, :, 0], getattr(whole, name).select(1 + axis, place))
            seen.add((i, place))
            assert pairs.subjects[i] in train
    assert len(seen) > 6
    assert axis == 0 or any(place >= SIZE[0] for _, place in seen)  # of the whole axis


def _holds(store, i, slice_of, axis, change):
    volume = store.volume(int(i))
    flips = [()] if not change else [(), (1,), (3,), (1, 3)]
    return any(
        (volume.flip(flip).movedim(1 + axis, 1)[:, n : n + 1] == slice_of).all()
        for flip in flips
        for n in range(SIZE[axis])
    )


def test_only_the_slices_are_read(pairs, monkeypatch):
    read, plain = [], Store._values
    monkeypatch.setattr(
        Store, "_values", lambda self, name, i, *at: read.append((name, *at)) or plain(self, name, i, *at)
    )
    batch = SlicePairSource(pairs, "train", 1, 0, slices=Slices(1, 3)).batch(0)
    assert batch.source.shape == (1, 3, 1, 32, 96)
    every, (name, _, _, cut) = slice(None), next(item for item in read if item[0] == "high")
    middle = cut.start
    assert cut == slice(middle, middle + 1) and name == "high"
    around = slice(max(middle - 1, 0), min(middle + 2, 64))
    assert sorted(map(str, read)) == sorted(
        map(str, [("high", every, every, cut), ("source_high", every, every, around), ("mask", every, cut)])
    )


def test_neighbours_follow_the_slice_itself_and_repeat_at_the_faces():
    assert neighbours(4, 10, 1) == [4] and neighbours(4, 10, 5) == [4, 3, 5, 2, 6]
    assert neighbours(0, 10, 5) == [0, 0, 1, 0, 2] and neighbours(9, 10, 3) == [9, 8, 9]
    assert neighbours(0, 1, 3) == [0, 0, 0]


@pytest.mark.parametrize("axis", range(3))
def test_context_gives_the_source_its_neighbours_as_channels(pairs, axis):
    one, three = source_of(pairs, axis).batch(2), source_of(pairs, axis, 3).batch(2)
    assert torch.equal(one.target, three.target) and torch.equal(one.source, three.source[:, :1])
    for k in range(4):
        sources = [pairs.source(int(i)) for i in pairs.indices("train")]
        whole = next(x for x in sources if any(torch.equal(a, one.source[k, :, 0]) for a in x.unbind(1 + axis)))
        place = place_of(one.source[k], whole, axis)
        for channel, number in enumerate(neighbours(place, SIZE[axis], 3)):
            assert torch.equal(three.source[k, channel, 0], whole.select(1 + axis, number)[0])


def test_batches_are_functions_of_seed_step_and_sample(pairs):
    source = source_of(pairs)
    one, other = source.batch(3), source.batch(3)
    assert torch.equal(one.source, other.source) and not torch.equal(one.source, source.batch(4).source)
    assert not torch.equal(one.source, replace(source, seed=6).batch(3).source)
    halves = [replace(source, batch_size=2, rank=rank, world_size=2).batch(3) for rank in range(2)]
    assert torch.equal(torch.cat([half.source for half in halves]), one.source)


def test_simulated_sources_are_cut_after_the_simulation(small_store):
    source = SlicePairSource(Store(small_store), "train", 2, 5, DegradeConfig(kind="thick-slices"), slices=Slices(0))
    batch = source.batch(0)
    for k in range(2):
        found = 0
        for i in source._sources:
            whole = source.pairs.pair(int(i))
            found += any(
                torch.equal(a, batch.source[k, :, 0]) and torch.equal(b, batch.target[k, :, 0])
                for a, b in zip(whole.source.unbind(1), whole.target.unbind(1), strict=True)
            )
        assert found == 1


def test_unpaired_slices_are_of_two_subjects(pairs):
    everyone = replace(source_of(pairs, paired=False), split="all")
    batch = everyone.batch(1)
    assert batch.source.shape == batch.target.shape == (4, 1, 1, 64, 96) and batch.mask is not None
    volumes = {name: [getattr(pairs, name)(i) for i in range(4)] for name in ("source", "volume")}
    for k in range(4):
        at = {
            name: next(i for i, x in enumerate(volumes[name]) if (x == one).flatten(2).all(2).any())
            for name, one in (("source", batch.source[k]), ("volume", batch.target[k]))
        }
        assert pairs.subjects[at["source"]] != pairs.subjects[at["volume"]]


def sparse_store(path, foreground, source_foreground=(), label_names=("background", "rest")):
    """Write a store of one volume of 32^3 whose slice d has ``foreground[d]`` of its 1024 voxels at 1, the rest -1.

    With ``source_foreground`` it is the target of a pair, whose source is made in the same way.
    """

    def voxels(counts):
        x = np.full((1, *(32,) * 3), -SCALE, np.int16)
        for d, count in enumerate(counts):
            x[0, d].reshape(-1)[:count] = SCALE
        return x

    channels = [{"name": "image", "intensity": "window", "units": "", "percentiles": [0.5, 99.5]}]
    settings = {
        "size": [32, 32, 32],
        "channels": channels,
        **({"pairs": channels} if source_foreground else {}),
        "label_names": list(label_names),
        "orientation": "RAS",
        "axis": "axial",
        "spacing": None,
        "fit": "resize",
        "trim": False,
        "columns": [],
        "class_names": [],
        "shard": [1, 1],
    }
    interval = [(-1.0, 1.0)]
    record = Record("a", "a", "train", -1, np.eye(4), interval, "a.nii.gz", "0")
    target, source = voxels(foreground), voxels(source_foreground)
    labels = np.zeros((32,) * 3, np.uint8) if label_names else None
    if not source_foreground:
        write_store(path, settings, [record], lambda i: Voxels(target, labels))
    else:
        pair = replace(record, source_intervals=interval)
        write_store(path, settings, [pair], lambda i: Voxels(target, labels), sources=lambda i: Voxels(source))
    return Store(path)


def test_blank_slices_are_left_out(tmp_path):
    """11 of 1024 voxels are more than 1 %, 10 are less; channels of labels do not count."""
    store = sparse_store(tmp_path / "s.h5", [0] * 16 + [10] * 8 + [11] * 8)
    source = SliceBatchSource(store, "train", 1, 4, 0, slices=Slices(0))
    counts = [int((row[0] > 0).sum()) for step in range(25) for row in source.batch(step).window]
    assert set(counts) == {11}
    assert not is_blank(torch.tensor([[-1.0] * 99 + [-0.9]])) and is_blank(torch.tensor([[-1.0] * 100 + [-0.9]]))
    assert not is_blank(torch.tensor([[-1.0] * 100, [1.0] * 100]))  # one of two channels is enough


def test_a_slice_of_a_pair_is_blank_where_source_and_target_are(tmp_path):
    """The images of a pair count: those of the target too, and of the source neither labels nor neighbours."""
    blank, one = [0] * 32, [0] * 20 + [1024] + [0] * 11
    for name, target, source in (("target", one, blank), ("source", blank, one)):
        store = sparse_store(tmp_path / f"{name}.h5", target, source)
        slices = SlicePairSource(store, "train", 4, 0, slices=Slices(0, context=3))
        assert all(getattr(slices.batch(step), name)[:, 0].eq(1).all() for step in range(4))


def test_a_blank_volume_gives_a_blank_slice(tmp_path):
    batch = SliceBatchSource(sparse_store(tmp_path / "s.h5", [0] * 32), "train", 1, 2, 0, slices=Slices(0)).batch(0)
    assert batch.window.shape == (2, 3, 1, 32, 32) and batch.window[:, 0].eq(-1).all()


@pytest.mark.parametrize("axis", range(3))
def test_slices_of_volumes_without_pairs(small_store, axis):
    store = Store(small_store)
    source = SliceBatchSource(store, "train", 1, 3, 2, slices=Slices(axis))
    batch = source.batch(1)
    assert batch.start.eq(0).all() and batch.volumes is not None
    volumes = [store.volume(int(i)) for i in store.indices("train")]
    for window, low in zip(batch.window, batch.low, strict=True):
        places = [n for x in volumes for n, one in enumerate(x.unbind(1 + axis)) if torch.equal(one, window[:, 0])]
        assert len(places) == 1
        torch.testing.assert_close(low, F.avg_pool3d(window, (1, 4, 4)))
    flipped = replace(source, augment=AugmentConfig(noise=0.1)).batch(1)
    assert not torch.equal(flipped.window, batch.window)


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_of_volumes_are_of_the_whole_axis(pairs, axis):
    batch = SliceBatchSource(pairs, "train", 1, 8, 2, slices=Slices(axis)).batch(1)
    slices = [one for i in pairs.indices("train") for one in enumerate(pairs.volume(int(i)).unbind(1 + axis))]
    places = [place for window in batch.window for place, one in slices if torch.equal(one, window[:, 0])]
    assert len(places) == 8 and max(places) >= SIZE[0]


def test_a_store_of_slices_has_low_resolution_in_h_and_w_alone(tmp_path):
    x = np.random.default_rng(0).integers(-SCALE, SCALE, (1, 1, 64, 32)).astype(np.int16)
    store = sparse_store(tmp_path / "whole.h5", [0] * 32)
    settings = {**store.settings, "size": [1, 64, 32], "label_names": [], "shard": [1, 1]}
    record = Record("a", "a", "train", -1, np.eye(4), [(-1.0, 1.0)], "a.png", "0")
    write_store(tmp_path / "s.h5", settings, [record], lambda i: Voxels(x))
    flat = Store(tmp_path / "s.h5")
    assert flat.factors == (1, 4, 4) and flat.volume(0).shape == (1, 1, 64, 32)
    torch.testing.assert_close(flat.low(0), F.avg_pool3d(flat.volume(0), (1, 4, 4)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_the_middle_slice_keeps_its_place_in_space(axis):
    affine = np.array([[0, -1.5, 0, 10], [1.2, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
    moved = slice_affine(affine, SIZE, axis)
    for rows, columns in ((0, 0), (3, 7)):
        index = np.insert(np.array([rows, columns]), axis, SIZE[axis] // 2)
        np.testing.assert_allclose(moved @ [0, rows, columns, 1], affine @ [*index, 1])


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_model_of_slices_reads_files_as_its_slices_lie(axis, plane, tmp_path):
    values = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    settings = {"axis": axis, "intensity": "window", "window": (-4.0, 4.0), "validation": 0.0, "workers": 1}
    store = Store(prepare([tmp_path], tmp_path / "s.h5", PrepareConfig(size=(32, 32, 32), **settings)).path)
    description = store.description()
    if (axis, plane) in {("sagittal", "axial"), ("sagittal", "coronal"), ("coronal", "sagittal")}:
        with pytest.raises(InputError, match=f"prepare them with --axis {plane}"):
            description.of_slices(plane)
        return
    across = store.slice_axis(plane)
    expected = store.volume(0).numpy()[0].take(16, axis=across)
    read, _ = to_grid(values, affine, replace(description, axis=plane).grid_rule)
    np.testing.assert_allclose(read[16] / 4, expected, atol=1e-3)
    assert description.of_slices(plane).size == (1, 32, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"degrade": DegradeConfig(kind="noise")},
        {"degrade": DegradeConfig(kind="low-dose")},
        {"degrade": DegradeConfig(kind="copy"), "augment": AugmentConfig(noise=0.2, brightness=0.2, contrast=0.3)},
    ],
)
def test_air_with_noise_or_of_another_brightness_is_blank(tmp_path, settings):
    store = sparse_store(tmp_path / "s.h5", [0] * 24 + [900] * 8, label_names=())
    source = SlicePairSource(store, "train", 1, 4, slices=Slices(0), **settings)
    targets = torch.cat([source.batch(step).target for step in range(20)])
    # 900 of 1024 voxels are well above the rest, whatever is added to both
    assert ((targets[:, 0] > targets[:, 0].amin((1, 2, 3), keepdim=True) + 0.8).sum((1, 2, 3)) > 800).all()
    if "augment" in settings:
        alone = SliceBatchSource(store, "train", 1, 4, 0, augment=settings["augment"], slices=Slices(0))
        images = torch.cat([alone.batch(step).window for step in range(20)])[:, 0]
        assert ((images > images.amin((1, 2, 3), keepdim=True) + 0.8).sum((1, 2, 3)) > 800).all()
