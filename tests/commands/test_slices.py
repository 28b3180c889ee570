"""2D networks from the command line: trained on slices of volumes, translated and evaluated on whole volumes."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from hagan3d import cli, encode, evaluate, explore, generate, plan, prepare, train, translate
from hagan3d.checkpoint import load_translation
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.store.store import Store
from hagan3d.inference.slice_translation import SliceTranslator

TINY = "--train.batch_size 2 --train.device cpu --log.every 1 --log.preview_every 2 --train.steps 2"
SLICES = "--data.size 1 32 32 --data.slices"
PIX2PIX = (
    f"--method pix2pix --pix2pix.width 4 --pix2pix.critic_width 4 --pix2pix.critic_layers 1 {SLICES} axial "
    f"--data.context 3 --data.degrade.kind noise {TINY}"
)
WGAN = f"--method wgan_gp --wgan_gp.width 8 --wgan_gp.latent_dim 8 {SLICES} coronal {TINY}"


@pytest.fixture(scope="module")
def run(phantom_store, tmp_path_factory):
    """A pix2pix of axial slices with their neighbours after two steps."""
    out = tmp_path_factory.mktemp("slices")
    assert cli.run(train.main, f"--data.store {phantom_store} --out {out} {PIX2PIX}".split()) == 0
    assert (out / "previews" / "step-00000002.png").exists()
    return out


def test_whole_volumes_are_translated_on_their_grid(run, phantom_store, tmp_path):
    random = np.random.default_rng(0)
    array = np.clip(random.normal(-200, 300, (40, 36, 30)), -1000, 500).astype(np.int16)
    affine = np.array([[0, -1.5, 0, 10], [1.2, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    words = f"{run} --device cpu --input {tmp_path / 'scan.nii.gz'} --out"
    for depth in (0, 5):
        assert cli.run(translate.main, f"{words} {tmp_path / str(depth)} --depth {depth}".split()) == 0
    one, other = (nibabel.load(tmp_path / name / "scan.nii.gz") for name in ("0", "5"))
    assert one.shape == array.shape
    np.testing.assert_allclose(one.affine, affine, atol=1e-4)
    np.testing.assert_allclose(one.get_fdata(), other.get_fdata(), atol=0.1)  # of 1624 HU
    assert one.get_fdata().std() > 1


def test_a_store_is_translated_slice_by_slice(run, phantom_store, tmp_path):
    words = f"{run} --device cpu --input {phantom_store} --split validation --simulate --out {tmp_path / 'out'}"
    assert cli.run(translate.main, words.split()) == 0
    store = Store(phantom_store)
    for i in store.indices("validation"):
        assert nibabel.load(tmp_path / "out" / f"{store.ids[i]}.nii.gz").shape == store.size


@pytest.mark.slow
def test_errors_are_those_of_whole_volumes(run, phantom_store, tmp_path):
    words = f"{run} --store {phantom_store} --out {tmp_path} --device cpu"
    assert cli.run(evaluate.main, words.split()) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    store, model = Store(phantom_store), load_translation(run)
    assert results["volumes"] == len(results["rows"]) == len(store.indices("validation"))
    assert results["seam_ratio"] is None
    row, translator = results["rows"][0], SliceTranslator(model.networks, axis=0, context=3)
    pair = Pairs(store, model.config.data.degrade).pair(row["index"])
    error = (translator.whole(pair.source).mean[0].clamp(-1, 1) - pair.target).abs().mean()
    assert row["translated"]["whole"]["mae"] == pytest.approx(float(error) * 812, rel=1e-5)  # half of 1624 HU


def test_a_resume_and_a_plan_of_slices(run, phantom_store, tmp_path, capsys):
    words = f"--data.store {phantom_store} {PIX2PIX}"
    assert cli.run(train.main, f"{words} --out {run}".split()) == 0
    assert "step 2 is done already" in capsys.readouterr().err
    assert cli.run(plan.main, f"{words} --vram 8GB".split()) == 0
    shown = capsys.readouterr().out
    assert "fits" in shown and f"reads {2 * 2 * 32**3 / 1e6:.1f} MB of voxels" in shown
    changed = words.replace("slices axial", "slices coronal")
    assert cli.run(train.main, f"{changed} --out {run}".split()) == 2
    assert "data.slices" in capsys.readouterr().err


def test_single_slices_are_generated(phantom_store, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.run(train.main, f"--data.store {phantom_store} --out {out} {WGAN}".split()) == 0
    assert cli.run(generate.main, f"{out} --num 2 --device cpu --out {tmp_path / 'made'}".split()) == 0
    store = Store(phantom_store)
    image = nibabel.load(tmp_path / "made" / "volume-000000.nii.gz")
    assert image.shape == (32, 1, 32)  # x, y, z
    whole = store.description().affine_array
    np.testing.assert_allclose(image.affine[1, 3], (whole @ [16, 16, 16, 1])[1], atol=1e-3)
    assert (tmp_path / "made" / "samples.png").exists()
    refused = {
        evaluate: f"{out} --store {phantom_store} --out {tmp_path / 'e'}",
        encode: f"{out} --input {phantom_store} --out {tmp_path / 'f'}",
        explore: f"{out} --store {phantom_store} --out {tmp_path / 'x'}",
    }
    capsys.readouterr()
    for command, words in refused.items():
        assert cli.run(command.main, f"{words} --device cpu".split()) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in error if "error:" in line]) == 1, error


@pytest.mark.slow
def test_from_images_to_translated_and_generated_slices(tmp_path, capsys):
    for k in range(10):
        array = np.random.default_rng(k).integers(0, 256, (40, 50)).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / f"i{k}.png")
    store = tmp_path / "s.h5"
    assert cli.run(prepare.main, f"--input {tmp_path} --output {store} --size 1 32 64 --validation 0.3".split()) == 0
    shown = capsys.readouterr().out
    assert "10 volumes" in shown and "--data.size 1 32 64 --method METHOD" in shown
    words = f"--data.store {store} --data.size 1 32 64 {TINY} --out {tmp_path}"
    options = "--pix2pix.width 4 --pix2pix.critic_width 4 --pix2pix.critic_layers 1 --data.degrade.kind noise"
    assert cli.run(train.main, f"--method pix2pix {words}/p {options}".split()) == 0
    where = f"{tmp_path}/p --device cpu"
    assert cli.run(translate.main, f"{where} --input {tmp_path / 'i0.png'} --out {tmp_path}/t".split()) == 0
    image = nibabel.load(tmp_path / "t" / "i0.nii.gz")
    assert image.shape == (1, 40, 50) and nibabel.aff2axcodes(image.affine) == ("S", "P", "L")
    assert cli.run(evaluate.main, f"{where} --store {store} --out {tmp_path}/e".split()) == 0
    assert np.isfinite(
        json.loads((tmp_path / "e" / "metrics.json").read_text())["rows"][0]["translated"]["whole"]["ssim"]
    )
    assert cli.run(train.main, f"--method wgan_gp {words}/w --wgan_gp.width 8 --wgan_gp.latent_dim 8".split()) == 0
    assert cli.run(generate.main, f"{tmp_path}/w --num 1 --device cpu --out {tmp_path}/g".split()) == 0
    assert nibabel.load(tmp_path / "g" / "volume-000000.nii.gz").shape == (64, 32, 1)
    capsys.readouterr()
    words = f"{tmp_path}/w --device cpu --store {store} --out {tmp_path}/f --train-features"
    assert cli.run(evaluate.main, words.split()) == 2
    assert "holds single slices" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"--method hagan {SLICES} axial", "method hagan works on volumes alone"),
        (
            f"--method pix2pix {SLICES} axial --data.degrade.kind noise --data.size 1 64 64",
            "axial slices of [1, 32, 32]",
        ),
        ("--method pix2pix --data.size 1 32 32 --data.degrade.kind noise", "set --data.slices to train on slices"),
        (f"--method hagan {SLICES} axial --data.context 3", "data.context: method hagan does not read it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(phantom_store, tmp_path, words, message, capsys):
    out = tmp_path / "run"
    assert cli.run(train.main, [*words.split(), "--data.store", str(phantom_store), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (out / "checkpoints").exists()
