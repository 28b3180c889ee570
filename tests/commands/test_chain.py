"""The whole chain on real volumes: prepare, train, generate, encode."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from hagan3d import cli, encode, generate, prepare, train

TINY = (
    "--data.size 32 32 32 --data.subvolume-depth 16 --hagan.latent-dim 16 --hagan.channels 64 --hagan.d-channels 64 "
    "--train.batch-size 4 --train.device cpu --train.steps 3 --log.preview-every 3 --data.augment.flip_axes [W]"
).split()


@pytest.fixture(scope="module")
def core_crops(test_data):
    """The 24 hippocampus crops that are marked for CI."""
    entries = json.loads((test_data / "manifest.json").read_text())["entries"]
    return [
        test_data / entry["file"]
        for entry in entries
        if entry.get("core") and "hippocampus_msd/images" in entry["file"]
    ]


@pytest.mark.slow
def test_hippocampus_crops_from_files_to_files(core_crops, tmp_path, capsys):
    assert len(core_crops) == 24
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in core_crops))
    store, run = tmp_path / "crops.h5", tmp_path / "run"
    words = f"--input {tmp_path}/list.txt --output {store} --size 32 32 32 --subject pairs --validation 0.2"
    assert cli.run(prepare.main, words.split()) == 0, capsys.readouterr().err
    assert cli.run(train.main, ["--data.store", str(store), "--out", str(run), *TINY]) == 0, capsys.readouterr().err
    assert [path.name for path in (run / "previews").iterdir()] == ["step-00000003.png"]
    assert cli.run(generate.main, f"{run} --num 2 --out {tmp_path}/made".split()) == 0
    assert cli.run(encode.main, f"{run} --input {store} --out {tmp_path}/z --reconstruct".split()) == 0

    made = nib.load(tmp_path / "made" / "volume-000001.nii.gz")
    real = nib.load(core_crops[0])
    assert made.shape == (32, 32, 32)
    assert nib.aff2axcodes(made.affine) == nib.aff2axcodes(real.affine)
    extent = np.multiply(made.shape, made.header.get_zooms())
    np.testing.assert_allclose(extent, np.multiply(real.shape, real.header.get_zooms()), rtol=0.15)

    rows = list(csv.DictReader((tmp_path / "z" / "features.csv").open()))
    assert len(rows) == 24 and {row["split"] for row in rows} == {"train", "validation"}
    first = rows[0]["id"]
    again = nib.load(tmp_path / "z" / "reconstructions" / f"{first}.nii.gz")
    source = nib.load(next(path for path in core_crops if path.name.startswith(first)))
    corner = np.array([-0.5, -0.5, -0.5, 1])  # the outer corner of the first voxel stays where it is
    np.testing.assert_allclose((again.affine @ corner)[:3], (source.affine @ corner)[:3], atol=1e-3)


def test_what_is_there_is_not_overwritten(core_crops, tmp_path, capsys):
    words = f"--input {core_crops[0].parent} --output {tmp_path}/x.h5 --size 32 32 32".split()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "volume-000000.nii.gz").touch()
    assert cli.run(generate.main, f"{tmp_path} --out {tmp_path}/made".split()) == 2
    assert "--force" in capsys.readouterr().err
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "features.npz").touch()
    assert cli.run(encode.main, f"{tmp_path} --input {words[1]} --out {tmp_path}/z".split()) == 2
    assert "--force" in capsys.readouterr().err
