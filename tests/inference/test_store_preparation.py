"""Stores that are given to a model must be prepared as its training data were."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from hagan3d.data.io.volumes import VolumeFile
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.case_files import read_case
from hagan3d.inference.encoding import check_store, inputs_of_files
from hagan3d.inference.source_volume import check_sources
from hagan3d.inference.translate_files import read_source


def with_channel(description, **changes):
    return replace(description, channels=(replace(description.channels[0], **changes), *description.channels[1:]))


def other_models(description):
    """Models that the store does not fit, with what the message must name."""
    spacing = tuple(2 * step for step in description.voxel_spacing)
    affine = tuple((*(2 * value for value in row[:3]), row[3]) for row in description.affine[:3])
    yield replace(description, axis="coronal"), "--axis axial, the model's is coronal"
    yield replace(description, orientation="LPS"), "--orientation RAS, the model's is LPS"
    yield replace(description, spacing=spacing, affine=(*affine, description.affine[3])), "--spacing"
    yield with_channel(description, intensity="z-score"), "the model's is z-score"
    yield with_channel(description, lo=-1000.0, hi=400.0), "window -1024 to 600 of image, the model's is -1000 to 400"


@pytest.mark.parametrize("check", [check_store, check_sources])
def test_a_store_of_another_preparation_is_refused(small_store, check):
    store = Store(small_store)
    check(store, store.description())
    for model, named in other_models(store.description()):
        with pytest.raises(InputError, match="was prepared in another way") as refused:
            check(store, model)
        assert named in str(refused.value) and str(store.path) in str(refused.value)


def test_what_the_volumes_happen_to_have_is_not_compared(small_store, monkeypatch):
    store = Store(small_store)
    own = with_channel(store.description(), intensity="percentiles", percentiles=(0.5, 99.5))
    monkeypatch.setattr(Store, "description", lambda _: own)
    wider = tuple((*(1.2 * value for value in row[:3]), row[3]) for row in own.affine[:3])
    check_store(store, replace(own, affine=(*wider, own.affine[3])))  # voxels as large as volumes make them
    check_store(store, with_channel(own, lo=own.channels[0].lo - 100))  # each volume has its own interval
    with pytest.raises(InputError, match="percentiles 0.5 to 99.5 of image, the model's are 1 to 99"):
        check_store(store, with_channel(own, percentiles=(1.0, 99.0)))


def test_a_model_of_masked_z_scores_takes_stores_with_masks_and_no_files(small_store, monkeypatch, tmp_path):
    store = Store(small_store)
    own = with_channel(store.description(), intensity="z-score")
    monkeypatch.setattr(Store, "description", lambda _: own)
    with pytest.raises(InputError, match=r"z-scores of image are not those inside masks .*, unlike the model's"):
        check_store(store, with_channel(own, masked=True))
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8)), np.eye(4)), path)
    channel = replace(own.channels[0], masked=True)
    with pytest.raises(InputError, match="scan.nii.gz: the model was trained on z-scores inside masks"):
        read_case(VolumeFile(path, "scan"), own.grid_rule, [channel])


def test_files_are_filled_as_the_training_data_were(tmp_path):
    array = np.random.default_rng(0).normal(-300, 200, (32, 32, 32)).astype(np.float32)
    array[:, :9] = np.nan
    folder = tmp_path / "scans"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / "a.nii.gz")
    config = PrepareConfig(size=(32, 32, 32), intensity="window", fill=-1024.0)
    store = Store(prepare([folder], tmp_path / "s.h5", config, progress=False).path)
    own = DataDescription.from_dict(store.description().to_dict())
    encoded = next(inputs_of_files(folder, own)[1])
    source = read_source(own, VolumeFile(folder / "a.nii.gz", "a"))
    np.testing.assert_allclose(encoded.read(0, 32), store.volume(0), atol=1e-4)
    np.testing.assert_allclose(source.x, store.volume(0), atol=1e-4)
    assert "9216 of 32768 voxels are NaN or infinite and become -1024" in source.remarks[0]
    with pytest.raises(InputError, match="NaN or infinite; replace them with --fill VALUE"):
        read_source(replace(own, fill=None), VolumeFile(folder / "a.nii.gz", "a"))
