"""Phantoms: a patient is a seed, the truth is true, and the anatomy is where it belongs."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

from hagan3d.data.io.volumes import read_volume
from hagan3d.data.phantoms import anatomy
from hagan3d.data.phantoms.thorax import EXTENT, Phantom, make_phantom, write_phantoms
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
