"""Measures: thresholds agree with the truth of phantoms, label maps with what was drawn, calibration with a line."""

import nibabel
import numpy as np
import pytest

from hagan3d.data.phantoms.thorax import make_phantom
from hagan3d.data.preprocess.intensity import normalize
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.measures import (
    CT_MEASURES,
    EMPHYSEMA,
    LUNG,
    ChestCT,
    Measure,
    calibrate,
    label_measure,
    millilitres,
)

WINDOW = (-1024.0, 600.0)


@pytest.mark.slow
def test_thresholds_find_the_lungs_and_the_emphysema_of_phantoms():
    measured, true = [], []
    for seed in range(10):
        phantom = make_phantom(seed, (32, 32, 32), severity=seed % 5)
        labels = ChestCT()(normalize(phantom.hu, *WINDOW), WINDOW, phantom.affine)
        measured.append([measure(labels, phantom.affine) for measure in CT_MEASURES])
        true.append([phantom.attributes[measure.name] for measure in CT_MEASURES])
    r = {
        m.name: np.corrcoef(a, b)[0, 1]
        for m, a, b in zip(CT_MEASURES, np.transpose(measured), np.transpose(true), strict=True)
    }
    assert r["lung_volume_ml"] > 0.98 and r["emphysema_percent"] > 0.95 and r["body_volume_ml"] > 0.99
    lungs = np.transpose(measured)[0] / np.transpose(true)[0]
    assert lungs.min() > 0.9 and lungs.max() < 1.1


def test_the_axes_of_the_file_do_not_matter():
    phantom = make_phantom(3, (32, 32, 32), severity=3)
    x = normalize(phantom.hu, *WINDOW)
    labels = ChestCT()(x, WINDOW, phantom.affine)
    turned = ChestCT()(x.transpose(1, 2, 0), WINDOW, phantom.affine[:, [1, 2, 0, 3]])
    np.testing.assert_array_equal(turned, labels.transpose(1, 2, 0))


def test_air_alone_measures_nothing():
    labels = ChestCT()(np.full((8, 8, 8), -1, np.float32), WINDOW, np.eye(4))
    assert [measure(labels, np.eye(4)) for measure in CT_MEASURES] == [0, 0, 0, 0]


def test_a_share_and_an_amount():
    labels = np.array([[[LUNG, LUNG, LUNG, EMPHYSEMA, 0, 0]]], np.uint8)
    affine = np.diag([10.0, 10.0, 20.0, 1.0])
    assert millilitres(affine) == pytest.approx(2)
    assert [measure(labels, affine) for measure in CT_MEASURES[:2]] == pytest.approx([8, 25])


def test_a_name_says_which_labels():
    assert label_measure("label_1+3_ml", {"1": 1, "2": 2, "3": 3}) == Measure("label_1+3_ml", (1, 3))
    assert label_measure("label_2_percent", {"1": 1, "2": 2}).of == (1, 2)
    assert label_measure("lung_volume_ml", {"1": 1, "2": 2}) is None
    with pytest.raises(InputError, match="no label 7; the label maps hold 1, 2"):
        label_measure("label_7_ml", {"1": 1, "2": 2})


def test_calibration_is_judged_on_what_it_was_not_fitted_to():
    random = np.random.default_rng(0)
    truth, held_out = random.uniform(0, 100, 400), np.arange(400) % 4 == 0
    measured = (truth - 7) / 1.6 + random.normal(0, 2, 400)
    found = calibrate(measured, truth, held_out)
    assert (found.slope, found.offset) == pytest.approx((1.6, 7), abs=0.6)
    assert found.is_held_out and not calibrate(measured, truth, held_out & False).is_held_out
    assert found.volumes == 100 and found.correlation > 0.99 and found.error == pytest.approx(3.2, rel=0.15)
    measured[held_out] = random.permutation(measured[held_out])
    assert abs(calibrate(measured, truth, held_out).correlation) < 0.3


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A store of bright balls on a dark ground, and label maps on a grid twice as fine, axes in another order."""
    from hagan3d.data.preprocess.pipeline import prepare
    from hagan3d.data.preprocess.settings import PrepareConfig
    from hagan3d.data.store.store import Store

    folder = tmp_path_factory.mktemp("balls")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    fine = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"))
    for number in range(24):
        random = np.random.default_rng(number)
        centre, radius = random.uniform(26, 38, 3), random.uniform(8, 16)
        ball = np.linalg.norm(fine - centre[:, None, None, None], axis=0) < radius
        affine = np.diag([-1.0, 1, 1, 1])
        noisy = 100.0 * ball + random.normal(0, 10, ball.shape)
        nibabel.save(nibabel.Nifti1Image(noisy.astype(np.float32), affine), folder / f"images/ball{number:02d}.nii.gz")
        turned = nibabel.Nifti1Image((2 * ball).astype(np.uint8), affine).as_reoriented(
            np.array([[2, -1], [0, 1], [1, 1]])
        )
        nibabel.save(turned, folder / f"labels/ball{number:02d}.nii.gz")
    settings = PrepareConfig(size=(32, 32, 32), validation=0.3, workers=1)
    prepare([folder / "images"], folder / "balls.h5", settings, progress=False)
    return Store(folder / "balls.h5"), folder / "labels"


def test_label_maps_come_to_the_grid_with_their_volume(labelled):
    from hagan3d.evaluation.exploration.segmentation import read_label_maps

    store, folder = labelled
    maps = read_label_maps(store, folder, range(len(store)))
    assert maps.labels == (2,)
    for index in (0, 5):
        true = nibabel.load(folder / f"{store.ids[index]}.nii.gz").get_fdata().astype(bool).sum() / 1000
        assert maps.measured(index, Measure("label_2_ml", (2,))) == pytest.approx(true, rel=1e-3)
        inside = maps.shares(index)[1] > 0.5
        assert store.channel(index).numpy()[inside].mean() > store.channel(index).numpy()[~inside].mean() + 0.5


def test_a_unet_learns_the_label_maps(labelled):
    from hagan3d.evaluation.exploration.segmentation import UNetConfig, read_label_maps, train_unet

    store, folder = labelled
    maps = read_label_maps(store, folder, range(len(store)))
    train, held_out = store.indices("train"), store.indices("validation")
    segmenter = train_unet(store, maps, train, held_out, UNetConfig(steps=20, batch_size=2, lr=2e-2))
    assert segmenter.dice > 0.8
    labels = segmenter(store.channel(int(held_out[0])).numpy(), (0, 1), store.affines[0])
    assert set(np.unique(labels)) <= {0, 2}


def test_a_volume_without_a_label_map_is_named(labelled, tmp_path):
    from hagan3d.evaluation.exploration.segmentation import read_label_maps

    store, folder = labelled
    for name in ("ball00", "ball01"):
        (tmp_path / f"{name}.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())
    with pytest.raises(InputError, match="no label map for ball02"):
        read_label_maps(store, tmp_path, range(3))
    empty = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([-1.0, 1, 1, 1]))
    nibabel.save(empty, tmp_path / "ball00.nii.gz")
    assert read_label_maps(store, tmp_path, [0, 1]).labels == (2,)  # a volume may have nothing of what others have
    with pytest.raises(InputError, match="are empty"):
        read_label_maps(store, tmp_path, [0])
    with pytest.raises(InputError, match=r"ball00.*whole numbers"):
        read_label_maps(store, folder.parent / "images", [0])
    image = nibabel.load(folder / "ball00.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.dataobj, image.affine + np.eye(4, k=3) * 500), tmp_path / "ball00.nii.gz")
    with pytest.raises(InputError, match=r"ball00\.nii\.gz: its grid does not overlap with that of ball00 in"):
        read_label_maps(store, tmp_path, [0, 1])
