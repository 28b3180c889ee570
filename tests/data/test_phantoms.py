"""Phantoms: a patient is a seed, the truth is true, and the anatomy is where it belongs."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from hagan3d import cli
from hagan3d import prepare as prepare_command
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.phantoms import anatomy, head, pet
from hagan3d.data.phantoms.thorax import EXTENT, Phantom, make_phantom, write_phantoms
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

LUNGS = (anatomy.RIGHT_LUNG, anatomy.LEFT_LUNG, anatomy.EMPHYSEMA)


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    return [make_phantom(seed, (32, 32, 32), severity=seed % 5) for seed in range(10)]


@pytest.mark.slow
def test_a_seed_is_a_patient(patients: list[Phantom]):
    again = make_phantom(3, (32, 32, 32), severity=3)
    np.testing.assert_array_equal(again.hu, patients[3].hu)
    assert again.attributes == patients[3].attributes
    assert all(np.abs(patients[0].hu - other.hu).mean() > 50 for other in patients[1:])


def test_sizes_share_the_patient():
    small, large = make_phantom(5, (32, 32, 32)), make_phantom(5, (48, 64, 56))
    assert large.hu.shape == large.labels.shape == (48, 64, 56)
    assert abs(small.attributes["lung_volume_ml"] / large.attributes["lung_volume_ml"] - 1) < 0.06
    np.testing.assert_allclose(small.affine @ (15.5, 15.5, 15.5, 1), large.affine @ (23.5, 31.5, 27.5, 1))
    with pytest.raises(InputError, match="multiples of 8"):
        make_phantom(0, (30, 32, 32))


def test_attributes_agree_with_the_label_map(patients: list[Phantom]):
    voxel_ml = np.prod(np.array(EXTENT) / 32) / 1000
    for phantom in patients:
        counts = np.bincount(phantom.labels.ravel(), minlength=9)
        lungs = counts[list(LUNGS)].sum()
        assert abs(lungs * voxel_ml / phantom.attributes["lung_volume_ml"] - 1) < 0.08
        assert abs(100 * counts[anatomy.EMPHYSEMA] / lungs - phantom.attributes["emphysema_percent"]) < 6
        assert 2000 < phantom.attributes["lung_volume_ml"] < 8500 and 500 < phantom.attributes["bone_volume_ml"] < 1700


@pytest.mark.slow
def test_severity_orders_emphysema():
    percent = [
        np.mean([make_phantom(seed, (32, 32, 32), severity).attributes["emphysema_percent"] for seed in (1, 2)])
        for severity in range(5)
    ]
    assert percent[0] < 1 and (np.diff(percent) > 2).all() and percent[4] > 20


def test_tissues_have_their_hounsfield_units(patients: list[Phantom]):
    for phantom in patients:
        right, left = (phantom.labels == label for label in (anatomy.RIGHT_LUNG, anatomy.LEFT_LUNG))
        assert -960 < np.median(phantom.hu[right | left]) < -740
        assert np.median(phantom.hu[phantom.labels == anatomy.BONE]) > 120
        assert 20 < np.median(phantom.hu[phantom.labels == anatomy.HEART]) < 70
        assert np.median(phantom.hu[phantom.labels == anatomy.AIR]) < -950
        assert phantom.hu.min() >= -1024


def test_organs_are_on_their_side(patients: list[Phantom]):
    for phantom in patients:
        place = {label: phantom.affine @ (*np.argwhere(phantom.labels == label).mean(0), 1) for label in range(1, 8)}
        assert place[anatomy.RIGHT_LUNG][0] > 30 and place[anatomy.LEFT_LUNG][0] < -30  # +x is the patient's right
        assert place[anatomy.HEART][0] < -3  # the heart is to the left
        spine = np.argwhere((phantom.labels == anatomy.BONE)[:, :, 14:18])
        assert spine[:, 1].mean() < 12  # in the back
        assert place[anatomy.AIRWAY][2] > place[anatomy.HEART][2]  # the windpipe is above


def test_written_files_are_ras_and_hold_the_same_voxels(tmp_path: Path):
    write_phantoms(tmp_path, 3, (32, 40, 48), seed=7)
    rows = list(csv.DictReader((tmp_path / "attributes.csv").open()))
    assert [row["id"] for row in rows] == ["phantom-00007", "phantom-00008", "phantom-00009"]
    assert [row["class"] for row in rows] == ["0", "1", "2"] and "lung_volume_ml" in rows[0]
    phantom = make_phantom(8, (32, 40, 48), severity=1)
    volume = read_volume(tmp_path / "volumes" / "phantom-00008.nii.gz")
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S") and volume.array.shape == (48, 40, 32)
    np.testing.assert_allclose(volume.array.transpose(2, 1, 0), phantom.hu, atol=0.51)
    labels = read_volume(tmp_path / "labels" / "phantom-00008.nii.gz")
    np.testing.assert_array_equal(labels.array.transpose(2, 1, 0), phantom.labels)


def test_a_head_has_four_contrasts_and_a_tumour_that_each_shows(tmp_path: Path):
    small, large = head.make_head(7, (32, 32, 32)), head.make_head(7, (64, 64, 64))
    assert small.images.shape == (4, 32, 32, 32) and large.labels.max() == 3
    # the patient is the seed's at every size
    assert abs(small.attributes["tumour_ml"] / large.attributes["tumour_ml"] - 1) < 0.15
    assert abs(small.attributes["brain_ml"] / large.attributes["brain_ml"] - 1) < 0.05
    t1, t1c, t2, flair = (image[large.labels == 3].mean() for image in large.images)
    assert t1c > 1.3 * t1  # the rim takes up contrast agent
    edema = large.labels == 1
    assert large.images[3][edema].mean() > large.images[0][edema].mean() + 50  # bright in FLAIR, dark in T1
    voxel = np.prod(np.array(head.EXTENT) / 64) / 1000
    assert large.attributes["edema_ml"] == pytest.approx(edema.sum() * voxel, abs=0.01)
    assert not np.array_equal(head.make_head(8, (32, 32, 32)).labels, small.labels)
    with pytest.raises(InputError, match="multiples of 8"):
        head.make_head(0, (30, 32, 32))


def test_heads_are_written_as_an_nnunet_data_set(tmp_path: Path):
    folder = head.write_heads(tmp_path / "heads", 3, (32, 32, 32), seed=5)
    config = PrepareConfig(size=(32, 32, 32), labels=str(folder / "attributes.csv"))
    store = Store(prepare(find_inputs(None, nnunet=folder), tmp_path / "s.h5", config, progress=False).path)
    assert store.channels == head.CHANNELS and store.label_names == head.LABEL_NAMES
    phantom = head.make_head(6, (32, 32, 32))
    np.testing.assert_array_equal(store.label_map(1), phantom.labels)
    lo, hi = store.intervals[1, 2]
    t2 = (store.channel(1, 2).numpy() + 1) * (hi - lo) / 2 + lo
    np.testing.assert_allclose(t2, np.clip(np.rint(phantom.images[2]), lo, hi), atol=0.6)
    np.testing.assert_allclose(store.affines[1], phantom.affine, atol=1e-4)
    assert store.columns["tumour_ml"][1] == phantom.attributes["tumour_ml"]


def test_chests_are_prepared_with_their_label_maps(tmp_path: Path):
    folder = write_phantoms(tmp_path / "chests", 2, (32, 32, 32), seed=3)
    config = PrepareConfig(size=(32, 32, 32), intensity="window", label_names=anatomy.LABEL_NAMES, validation=0)
    store = Store(prepare(folder / "cases.csv", tmp_path / "s.h5", config, progress=False).path)
    assert store.channels == ("ct",) and store.label_names == anatomy.LABEL_NAMES
    np.testing.assert_array_equal(store.label_map(1), make_phantom(4, (32, 32, 32), severity=1).labels)


def test_lesions_take_up_the_tracer_and_are_the_same_at_every_size(tmp_path: Path):
    small, large = pet.make_pet_phantom(5, (32, 32, 32)), pet.make_pet_phantom(5, (64, 64, 64))
    assert small.attributes["lesions"] == large.attributes["lesions"] == 3
    assert abs(small.attributes["lesion_ml"] / large.attributes["lesion_ml"] - 1) < 0.15
    voxel = np.prod(np.array(EXTENT) / 64) / 1000
    lesion = large.labels == pet.LESION
    assert large.attributes["lesion_ml"] == pytest.approx(lesion.sum() * voxel, rel=0.1)
    assert large.pet[lesion].mean() > 3 and large.pet.max() <= large.attributes["lesion_suv_max"] * 1.2
    lungs = np.isin(large.labels, (anatomy.RIGHT_LUNG, anatomy.LEFT_LUNG))
    assert 0.2 < large.pet[lungs].mean() < 0.8 and abs(large.pet[large.labels == anatomy.AIR].mean()) < 0.1
    assert large.hu[lesion].mean() > -150 > large.hu[lungs].mean()
    # the rest of the chest is that of the CT phantom of the seed
    chest, same = make_phantom(5), binary_erosion(~binary_dilation(lesion, iterations=2))
    np.testing.assert_array_equal(chest.labels[same], large.labels[same])
    with pytest.raises(InputError, match="multiples of 8"):
        pet.make_pet_phantom(0, (30, 32, 32))


def test_pet_and_ct_are_prepared_as_pairs_with_labels(tmp_path: Path):
    folder = pet.write_pet_phantoms(tmp_path / "petct", 3, (32, 32, 32), seed=5)
    words = "--size 32 32 32 --workers 1 --intensity window --source.intensity window --source.window 0 8".split()
    given = ["--pairs", str(folder / "labelled_pairs.csv"), "--label_names", *pet.LABEL_NAMES]
    assert cli.run(prepare_command.main, [*given, *words, "--source.units", "SUV", "--output", f"{tmp_path}/s.h5"]) == 0
    store = Store(tmp_path / "s.h5")
    phantom = pet.make_pet_phantom(6, (32, 32, 32))
    np.testing.assert_array_equal(label_map_of(store.volume(1).numpy(), 1), phantom.labels)
    suv = (store.source(1)[0].numpy() + 1) * 4
    np.testing.assert_allclose(suv, np.clip(phantom.pet, 0, 8), atol=2e-3)
    assert store.description().source_channels[0].units == "SUV"
    assert (folder / "pairs.csv").read_text().splitlines()[0] == "id,source,target"


@pytest.mark.parametrize("name", ["attributes.csv", "dataset.json", "pairs.csv"])
def test_tables_of_others_are_not_replaced_by_phantoms(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, which is not of phantoms; use another --out"):
        write_phantoms(tmp_path, 1, (32, 32, 32))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
    for _ in range(2):
        write_phantoms(tmp_path / "own", 1, (32, 32, 32))
    for number, seed in ((2, 0), (1, 3)):  # files of the first would stay among those of the second
        with pytest.raises(InputError, match="own: holds phantoms of another kind, number, size or seed; use another"):
            write_phantoms(tmp_path / "own", number, (32, 32, 32), seed)
    with pytest.raises(InputError, match="holds phantoms of another kind"):
        head.write_heads(tmp_path / "own", 1, (32, 32, 32))
