"""Translation from T1 and FLAIR to T2 on a real head, from files to a volume on the grid of T1."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from hagan3d import cli, prepare, train, translate
from hagan3d.data.io.geometry import resample_onto
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.store.store import Store


@pytest.mark.slow
def test_t1_and_flair_of_a_head_become_t2(test_data: Path, tmp_path: Path):
    """Two heads of other grids: one with T2, to train on; one of thick slices, to translate."""
    head, thick = test_data / "brain_paired_1mm_ms", test_data / "brain_paired_raw_ms"
    (tmp_path / "pairs.csv").write_text(
        "id,source_t1,source_flair,target_t2\n"
        f"p7,{head}/patient07_T1.nii.gz,{head}/patient07_FLAIR.nii.gz,{head}/patient07_T2.nii.gz\n"
    )
    t1, flair = (thick / f"patient20_study2_{name}.nii.gz" for name in ("T1W", "FLAIR"))
    (tmp_path / "new.csv").write_text(f"id,source_t1,source_flair\np20,{t1},{flair}\n")
    store, run = tmp_path / "heads.h5", tmp_path / "run"
    words = f"--pairs {tmp_path}/pairs.csv --output {store} --size 64 64 64 --validation 0 --workers 1"
    assert cli.run(prepare.main, words.split()) == 0
    words = (
        f"--method pix2pix --data.store {store} --data.size 64 64 64 --out {run} --pix2pix.source_channels 2 "
        "--pix2pix.width 8 --pix2pix.critic_width 8 --pix2pix.dropout false --train.batch_size 1 --train.steps 60 "
        "--train.lr_g 2e-3 --train.ema 0 --train.device cpu --log.preview_every 60 --train.seed 1"
    )
    assert cli.run(train.main, words.split()) == 0
    for table, reference in (("pairs", head / "patient07_T1.nii.gz"), ("new", t1)):
        words = f"{run} --input {tmp_path}/{table}.csv --out {tmp_path}/{table} --device cpu"
        assert cli.run(translate.main, words.split()) == 0
        (path,) = (tmp_path / table).glob("*.nii.gz")
        made, source = nibabel.load(path), nibabel.load(reference)
        assert made.shape == source.shape and np.allclose(made.affine, source.affine, atol=1e-3)
        assert nibabel.aff2axcodes(made.affine) == nibabel.aff2axcodes(source.affine)
        assert np.isfinite(made.get_fdata()).all()
    lo, hi = Store(store).intervals[0, 0]
    made, real = (nibabel.load(p).get_fdata() for p in (tmp_path / "pairs/p7.nii.gz", head / "patient07_T2.nii.gz"))
    assert lo <= made.mean() <= hi
    assert np.corrcoef(made.ravel(), real.ravel())[0, 1] > 0.8  # of the head it was trained on


@pytest.mark.slow
def test_pet_of_a_patient_becomes_ct_with_its_tumour(test_data: Path, tmp_path: Path):
    """One patient, who is learned by heart: PET and CT on their own grids, the tumour as label map."""
    folder, names = test_data / "petctmr_sarcoma", ("PET_image", "CT_image", "CT_mask")
    files = [folder / f"STS_002_{name}.nii.gz" for name in names]
    (tmp_path / "pairs.csv").write_text("id,source,target,seg\nsts2," + ",".join(map(str, files)) + "\n")
    (tmp_path / "pet.csv").write_text(f"id,source\nsts2,{files[0]}\n")
    store, run, out = tmp_path / "pet.h5", tmp_path / "run", tmp_path / "ct"
    words = (
        f"--pairs {tmp_path}/pairs.csv --output {store} --size 32 32 32 --validation 0 --workers 1 --intensity window "
        "--window -1000 1000 --label_names background tumour"
    )
    assert cli.run(prepare.main, words.split()) == 0
    words = (
        f"--method pix2pix --data.store {store} --out {run} --pix2pix.target_labels 2 --pix2pix.width 8 "
        "--pix2pix.critic_width 8 --pix2pix.critic_layers 2 --pix2pix.dropout false --train.batch_size 1 "
        "--train.steps 120 --train.lr_g 2e-3 --train.ema 0 --train.device cpu --log.preview_every 120"
    )
    assert cli.run(train.main, words.split()) == 0
    assert cli.run(translate.main, f"{run} --input {tmp_path}/pet.csv --out {out} --device cpu".split()) == 0
    ct, tumour = (nibabel.load(out / f"sts2_{name}.nii.gz") for name in ("target", "seg"))
    pet = nibabel.load(files[0])
    assert ct.shape == tumour.shape == pet.shape and np.allclose(ct.affine, pet.affine, atol=1e-3)
    pair = Store(store)
    made = resampled(ct, pair)
    real = (pair.volume(0)[0].numpy() + 1) * 1000 - 1000
    assert np.corrcoef(made.ravel(), real.ravel())[0, 1] > 0.9
    found, truth = resampled(tumour, pair) > 0.5, pair.label_map(0) == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.5


def resampled(image: nibabel.Nifti1Image, store: Store) -> np.ndarray:
    """Return an image on the grid of the first volume of a store ``[D, H, W]``."""
    volume = read_volume(Path(image.get_filename()))
    return resample_onto(volume.array, volume.affine, store.affines[0], store.size)
