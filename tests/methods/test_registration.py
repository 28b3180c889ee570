"""Adversarial registration: known misalignments, learned, undone, measured."""

import dataclasses
import json

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import cli, evaluate, train, translate
from hagan3d import prepare as prepare_command
from hagan3d.checkpoint import load_translation
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import Pairs, PairSource
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.translation.registration import misalignment_errors
from hagan3d.inference.translate_files import sources_of_store
from hagan3d.ops.warp import affine_matrix, warp
from hagan3d.run_settings import load_config
from tests.methods.small import make_updates, run_steps

SMALL = (
    "--registration.width 4 --registration.critic_width 4 --train.batch_size 2 --train.device cpu --train.steps 2 "
    "--registration.spacing 2 2 2 --log.preview_every 1"
).split()
MISALIGN = DegradeConfig(kind="misalign", misalign_mm=8.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four smooth volumes, 2 mm a voxel, two of them held out."""
    folder = tmp_path_factory.mktemp("misaligned")
    for number in range(4):
        array = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 4) * 8000
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), folder / f"scan{number}.nii.gz")
    settings = PrepareConfig(size=(32, 32, 32), intensity="window", validation=0.5, seed=1, workers=1)
    return prepare([folder], folder / "s.h5", settings, progress=False).path


def test_the_true_parameters_align_the_moving_image(store):
    pairs = Pairs(Store(store), MISALIGN)
    pair, parameters = pairs.pair(0), pairs.misalignment(0)
    assert pair.source.shape[0] == 2 and torch.equal(pair.source[1:], pair.target)
    back = warp(pair.source[None, :1], affine_matrix(parameters[None]), (2.0, 2.0, 2.0))[0]
    middle = (slice(None), *(slice(10, 22),) * 3)  # what never left the volume
    before, after = ((x - pair.target)[middle].square().mean() for x in (pair.source[:1], back))
    assert after < before / 50


def test_misalignments_differ_by_step_and_are_reproducible(store):
    source = PairSource(Store(store), "train", 2, 0, MISALIGN)
    one, two, again = source.batch(0), source.batch(1), source.batch(0)
    assert torch.equal(one.misalignment, again.misalignment) and not torch.equal(one.misalignment, two.misalignment)
    assert one.misalignment[:, :3].abs().max() <= 25 and one.misalignment[:, 3:6].abs().max() <= 8
    assert not one.misalignment[:, 6:].any()
    parts = list(one.micro_batches(2))
    assert torch.equal(torch.cat([part.misalignment for part in parts]), one.misalignment)


def test_learns_a_pair_by_heart(store):
    narrow = {"width": 8, "critic_width": 4, "spacing": [2.0, 2.0, 2.0]}
    settings = {"batch_size": 1, "ema": 0.0, "lr_decay": None}
    config = load_config("registration_32", registration=narrow, train=settings)
    batch = PairSource(Store(store), "train", 1, 0, dataclasses.replace(MISALIGN, fixed=True)).batch(0)
    updates = make_updates(config)
    nets = updates.networks
    assert not nets.estimate(batch.source).any()
    run_steps(updates, batch, 20)
    with torch.no_grad():
        parameters = nets.estimate(batch.source)[0]
    error = misalignment_errors(parameters, batch.misalignment[0], (32, 32, 32), (2.0, 2.0, 2.0))
    assert error["turn_deg"] < 2 and error["shift_mm"] < 1


def test_from_a_store_to_files_on_the_fixed_grid_and_errors_before_and_after(store, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--config", "registration_32", "--data.store", str(store), "--out", str(run), *SMALL]
    assert cli.run(train.main, words) == 0
    assert len(list((run / "previews").glob("*.png"))) == 2
    fixed = nibabel.Nifti1Image(np.random.default_rng(0).normal(0, 500, (32, 30, 28)), np.diag([2.0, 2.0, 2.0, 1]))
    nibabel.save(fixed, tmp_path / "fixed.nii.gz")
    (tmp_path / "pairs.csv").write_text(f"id,source,target\na,{store.parent}/scan0.nii.gz,fixed.nii.gz\n")
    moved = tmp_path / "moved"
    words = [str(run), "--input", str(tmp_path / "pairs.csv"), "--out", str(moved)]
    assert cli.run(translate.main, words) == 2  # stretched to the model's grid, its voxels are no cubes
    assert "mm per voxel on the model's grid" in capsys.readouterr().err and not (moved / "a.nii.gz").exists()
    far = nibabel.Nifti1Image(fixed.get_fdata(), [[2.0, 0, 0, 900], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    nibabel.save(far, tmp_path / "fixed.nii.gz")
    assert cli.run(translate.main, words) == 2
    assert "scan0.nii.gz: its grid does not overlap with that of" in capsys.readouterr().err
    nibabel.save(nibabel.load(store.parent / "scan1.nii.gz"), tmp_path / "fixed.nii.gz")
    assert cli.run(translate.main, words) == 0
    made = nibabel.load(moved / "a.nii.gz")
    assert made.shape == (32, 32, 32) and np.allclose(made.affine, np.diag([2.0, 2.0, 2.0, 1]))
    assert cli.run(evaluate.main, [str(run), "--store", str(store), "--out", str(tmp_path / "measured")]) == 0
    found = json.loads((tmp_path / "measured" / "metrics.json").read_text())["misalignment"]
    assert 5 < found["before"]["turn_deg"]["mean"] < 20 and found["after"]["distance_mm"]["mean"] > 0
    assert "Misalignment" in (tmp_path / "measured" / "report.html").read_text()


def pairs_of(folder, spacing=2.0, window=(-1000.0, 1000.0)):
    """Make a store of four pairs, a CT that moves and an MR that stays."""
    folder.mkdir()
    for number, name in enumerate(f"{kind}{k}" for kind in "sm" for k in range(4)):
        array = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 4) * 4000 + 200
        nibabel.save(
            nibabel.Nifti1Image(array.astype(np.float32), np.diag([spacing] * 3 + [1])), folder / f"{name}.nii"
        )
    rows = [f"p{k},m{k}.nii,s{k}.nii" for k in range(4)]
    (folder / "pairs.csv").write_text("\n".join(["id,source,target", *rows]))
    words = f"--pairs {folder}/pairs.csv --output {folder}/s.h5 --size 32 32 32 --validation 0.5 --workers 1"
    low, high = window
    scales = f"--intensity window --window 0 500 --source.intensity window --source.window {low} {high}"
    assert cli.run(prepare_command.main, [*words.split(), *scales.split()]) == 0
    return folder / "s.h5"


def test_stores_of_pairs_are_checked_and_written_in_units_of_what_moves(tmp_path):
    path = pairs_of(tmp_path / "a")
    words = ["--config", "registration_32", "--data.store", str(path), "--out", str(tmp_path / "run"), *SMALL]
    assert cli.run(train.main, words) == 0
    model = load_translation(tmp_path / "run")
    for simulate in (False, True):
        _, sources = sources_of_store(path, model, "all", simulate)
        assert {tuple(source.intervals) for source in sources} == {((-1000.0, 1000.0),)}
    wide, coarse = pairs_of(tmp_path / "b", window=(-160.0, 240.0)), pairs_of(tmp_path / "c", spacing=4.0)
    for other, message in ((wide, "window -160 to 240 of source"), (coarse, "4, 4, 4 mm per voxel")):
        for simulate in (False, True):
            with pytest.raises(InputError, match=message):
                sources_of_store(other, model, "all", simulate)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.degrade.kind", "noise"], "method registration trains on misalign"),
        (["--registration.source_channels", "1"], "registration.target_channels: must be 2"),
        (["--registration.target_channels", "3"], "registration.target_channels: must be 2"),
        ([], "registration.spacing is"),
        (["--data.degrade.misalign_deg", "200"], "data.degrade.misalign_deg"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(store, tmp_path, words, message, capsys):
    assert (
        cli.run(train.main, ["--config", "registration_32", "--data.store", str(store), "--out", str(tmp_path), *words])
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_distances_are_those_of_a_shift():
    known = torch.zeros(12)
    known[3:6] = torch.tensor([3.0, 4.0, 0.0])
    found = misalignment_errors(torch.zeros(6), known, (32, 32, 32), (1.0, 1.0, 1.0))
    assert found["distance_mm"] == pytest.approx(5) and found["shift_mm"] == pytest.approx(7 / 3)
