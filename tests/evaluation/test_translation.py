"""Held-out pairs: errors by their closed forms, volumes measured on scales that others gave, one report."""

import dataclasses
import json
import math

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from scipy.ndimage import gaussian_filter

from hagan3d import cli
from hagan3d import evaluate as door
from hagan3d.checkpoint.files import Checkpoint, path_of, save
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.translation.pairs import calibration_folds, voxel_errors
from hagan3d.evaluation.translation.results import Spread, plain
from hagan3d.methods.registry import make_networks
from tests.helpers import make_config

NOISE = DegradeConfig(kind="noise", noise=0.1)


def test_errors_are_their_closed_forms():
    target = torch.full((1, 16, 16, 16), 0.5)
    inside = torch.zeros(1, 16, 16, 16, dtype=torch.bool)
    inside[:, 4:12, 4:12, 4:12] = True
    made = target + 0.1
    made[~inside.expand_as(made)] -= 0.3
    found = voxel_errors(made, target, inside, 812.0)
    assert found["mask"]["mae"] == pytest.approx(81.2, rel=1e-5) and found["mask"]["mae_percent"] == pytest.approx(5)
    assert found["mask"]["psnr_db"] == pytest.approx(10 * np.log10(4 / 0.01), rel=1e-5)
    assert found["mask"]["nmse"] == pytest.approx(0.01 / 2.25, rel=1e-5)
    assert found["whole"]["mae"] == pytest.approx(812 * (0.1 / 8 + 0.2 * 7 / 8), rel=1e-5)
    same = voxel_errors(target, target, inside, 1.0)["whole"]
    assert same["ssim"] == pytest.approx(1) and same["psnr_db"] == np.inf and same["mae"] == 0


def test_ssim_of_slices_is_that_of_monai_in_2d():
    x, y = (torch.rand(1, 12, 16, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    expected = SSIMMetric(2, data_range=2.0)(x.transpose(0, 1) + 1, y.transpose(0, 1) + 1).mean()
    found = voxel_errors(x, y, torch.ones_like(x, dtype=torch.bool), 1.0)["whole"]
    assert found["ssim_slices"] == pytest.approx(float(expected), rel=1e-4)
    assert found["ssim_slices"] != pytest.approx(found["ssim"], rel=1e-2)


def test_ssim_is_that_of_monai():
    random = torch.Generator().manual_seed(0)
    target, made = (torch.rand(1, 20, 18, 16, generator=random) * 2 - 1 for _ in range(2))
    found = voxel_errors(made, target, torch.ones(1, 20, 18, 16, dtype=torch.bool), 1.0)
    expected = SSIMMetric(3, data_range=2.0)(made[None] + 1, target[None] + 1)
    assert found["whole"]["ssim"] == pytest.approx(float(expected), rel=1e-5)
    assert found["mask"]["ssim"] == pytest.approx(found["whole"]["ssim"], rel=1e-6)


def test_errors_outside_the_mask_do_not_lower_its_similarity():
    random = torch.Generator().manual_seed(0)
    target = torch.rand(1, 16, 20, 40, generator=random) * 2 - 1
    made, inside = target.clone(), torch.zeros(1, 16, 20, 40, dtype=torch.bool)
    made[..., :15] = torch.rand(1, 16, 20, 15, generator=random) * 2 - 1
    inside[..., 20:] = True  # the window reaches 5 voxels
    found = voxel_errors(made, target, inside, 1.0)
    for name in ("ssim", "ssim_slices"):
        assert found["mask"][name] == pytest.approx(1, abs=1e-6) and found["whole"][name] < 0.8
    inside[..., 19] = True
    for name, value in voxel_errors(made, target, inside, 1.0)["mask"].items():
        assert value < 1 - 1e-6 or not name.startswith("ssim")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Ten volumes of five subjects, some held out."""
    folder = tmp_path_factory.mktemp("held_out")
    for number in range(1, 11):
        array = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 3) * 4000
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / f"scan{number}.nii.gz")
    settings = PrepareConfig(size=(32, 32, 32), intensity="window", subject="pairs", validation=0.6, workers=1)
    return Store(prepare([folder], folder / "s.h5", settings, progress=False).path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, store):
    """An untrained residual cascade: it gives back its source, with a Laplace density of the same width everywhere."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"width": 4, "levels": 1, "critic_width": 4, "residual": True, "stages": 1, "initial_error": 0.3}
    config = make_config("upgan", **settings, degrade=NOISE, ema=0.0)
    networks = make_networks(config)
    states = {name: networks[name].state_dict() for name in networks.names()}
    save(Checkpoint(config, store.description(), 7, states), path_of(folder, 7))
    return folder


def test_scales_come_from_other_subjects(store):
    folds = calibration_folds(store, Pairs(store, NOISE))
    assert folds.held_out == store.indices("validation").tolist()
    for i, fitted in folds.fitted_on.items():
        assert fitted and store.subjects[i] not in {store.subjects[j] for j in fitted}


def test_test_volumes_are_scaled_on_validation_ones(store, monkeypatch):
    monkeypatch.setattr(store, "splits", ["test", "validation"] * 5)
    folds = calibration_folds(store, Pairs(store, NOISE))
    assert folds.held_out == list(range(0, 10, 2)) and set(folds.fitted_on.values()) == {tuple(range(1, 10, 2))}
    monkeypatch.setattr(store, "splits", ["train"] * 10)
    with pytest.raises(InputError, match="has no held-out volumes"):
        calibration_folds(store, Pairs(store, NOISE))


def test_a_run_is_measured_and_its_uncertainty_scaled(run, store, tmp_path, capsys):
    words = [str(run), "--store", str(store.path), "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run(door.main, words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    held_out = store.indices("validation")
    assert metrics["volumes"] == len(held_out) == len(metrics["rows"])
    summary = metrics["summary"]
    assert summary["translated"] == summary["source as it is"]  # an untrained residual network changes nothing
    pairs = [Pairs(store, NOISE).pair(int(i)) for i in held_out]
    error = torch.stack([pair.source - pair.target for pair in pairs])
    assert summary["translated"]["whole"]["mae"]["mean"] == pytest.approx(float(error.abs().mean()) * 812, rel=1e-4)
    found = metrics["calibration"]
    # a Laplace density of mean error 0.3, fitted to the errors inside the mask: s = mean |e| / 0.3
    shown = torch.cat([(pair.source - pair.target)[pair.target > -0.9].abs() for pair in pairs])
    assert found["scale"] == pytest.approx(float(shown.mean()) / 0.3, rel=0.01)
    assert found["as predicted"]["coverage"]["0.9"] > 0.99 and 0.85 < found["scaled"]["coverage"]["0.9"] < 0.99
    assert found["as predicted"]["ause"] == pytest.approx(found["as predicted"]["ause_random"], rel=0.05)
    report = (tmp_path / "report.html").read_text()
    assert report.count("<img") >= 5 and "Worst cases" in report and "http" not in report
    capsys.readouterr()
    assert cli.run(door.main, words) == 0 and "is there already" in capsys.readouterr().out


def test_a_store_of_another_size_is_refused(run, store, tmp_path, capsys):
    other = dataclasses.replace(PrepareConfig(), size=(32, 32, 64), intensity="window", subject="pairs", workers=1)
    made = prepare([store.path.parent / "scan1.nii.gz"], tmp_path / "o.h5", other, progress=False)
    assert cli.run(door.main, [str(run), "--store", str(made.path), "--out", str(tmp_path / "e")]) == 2
    assert "but the model's are [32, 32, 32]" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_other_weights_are_another_evaluation(run, store):
    from hagan3d.checkpoint import load_translation
    from hagan3d.evaluation.translation.pairs import pair_evaluation_key
    from hagan3d.inference.windowed_translation import Translator

    model = load_translation(run, "raw")
    keys = [pair_evaluation_key([model], store, Translator(model.networks)) for _ in range(2)]
    with torch.no_grad():
        next(model.networks.parameters()).add_(1)
    keys.append(pair_evaluation_key([model], store, Translator(model.networks)))
    assert keys[0] == keys[1] != keys[2]


def test_a_volume_without_a_value_does_not_spoil_the_mean():
    spread = Spread.of([1.0, math.nan, 3.0, math.inf])  # no voxel in the mask; no error
    assert (spread.mean, spread.volumes) == (2, 2) and spread.deviation == pytest.approx(2**0.5)
    none = Spread.of([math.nan])
    assert str(none) == "none" and none.volumes == 0
    assert plain({"ssim": none, "rows": {"p1": math.inf}}) == {
        "ssim": {"mean": None, "deviation": 0.0, "volumes": 0},
        "rows": {"p1": None},
    }
