"""The segmentation study runs, holds its own promise, and measures Dice rightly."""

import csv
import shutil

import numpy as np
import pytest
import segmentation_study
import study
import torch

from hagan3d import cli
from hagan3d.checkpoint import load
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a study")
    assert cli.run(segmentation_study.main, ["--quick", "--out", str(folder)]) == 0
    return folder


def test_the_quick_mode_compares_three_arms_on_held_out_volumes(out):
    whole, rows = Store(out / "heads.h5"), list(csv.DictReader((out / "study.csv").open()))
    assert [row["arm"] for row in rows] == ["real alone", "real and generated", "generated alone"]
    for row in rows:
        assert int(row["held_out"]) == whole.splits.count("validation") and int(row["generated"]) == 2
        for name in ("edema", "core", "enhancing", "mean"):
            assert 0 <= float(row[f"{name} low"]) <= float(row[name]) <= float(row[f"{name} high"]) <= 1
    assert float(rows[0]["mean gain"]) == 0


def test_the_generator_saw_the_training_volumes_of_the_fraction_and_no_others(out, tmp_path, capsys):
    part = Store(out / "store-050.h5")
    checkpoint = load(next((out / "run-050" / "checkpoints").glob("*.pt")))
    assert checkpoint.store == part.store_fingerprint and checkpoint.config.data.split == "train"
    for name in ("heads.h5", "store-050.h5"):
        shutil.copy(out / name, tmp_path / name)
    shutil.copytree(out / "run-050", tmp_path / "run-025")
    words = ["--store", str(tmp_path / "heads.h5"), "--out", str(tmp_path), "--fractions", "0.25", "--steps", "1"]
    assert cli.run(segmentation_study.main, words) == 2
    assert "needs its own" in capsys.readouterr().err


def test_the_same_line_again_trains_nothing(out, monkeypatch):
    monkeypatch.setattr(segmentation_study, "train_unet", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(study.train_command, "main", lambda *_: pytest.fail("trained again"))
    before = (out / "study.csv").read_text()
    assert cli.run(segmentation_study.main, ["--quick", "--out", str(out)]) == 0
    assert (out / "study.csv").read_text() == before


def test_results_of_other_settings_are_not_taken_for_these(out, capsys):
    store = Store(out / "more-050.h5")
    with pytest.raises(InputError, match="made with U-Net steps 4, not 9; give another --out"):
        segmentation_study.segment(store, "real alone", range(1), 9, out / "050")
    run = out / "run-050"
    with pytest.raises(InputError, match="made with generated 2, not 5; give another --out"):
        study.with_generated(Store(out / "store-050.h5"), Store(out / "store-050.h5"), run, out / "more-050.h5", 5)


def test_dice_is_one_for_the_truth_and_counted_by_hand_for_a_shift(out):
    store = Store(out / "heads.h5")
    truth = torch.from_numpy(store.label_map(0).astype(np.int64))

    class Answer(torch.nn.Module):
        def __init__(self, labels):
            super().__init__()
            self.labels = labels

        def forward(self, x):
            assert x.shape == (1, 4, 32, 32, 32)  # images alone: the labels are what it must find
            return torch.nn.functional.one_hot(self.labels, 4).movedim(-1, 0)[None].float()

    np.testing.assert_array_equal(segmentation_study.dice_of(Answer(truth), store, 0), 1)
    moved = truth.roll(1, 2)
    expected = [
        2 * int(((truth == label) & (moved == label)).sum()) / (2 * int((truth == label).sum())) for label in (1, 2, 3)
    ]
    np.testing.assert_allclose(segmentation_study.dice_of(Answer(moved), store, 0), expected)


def test_images_and_labels_are_changed_alike(out):
    store = Store(out / "heads.h5")
    x, labels = segmentation_study.example(store, 0, np.random.default_rng(4))
    assert x.shape == (4, 32, 32, 32) and labels.shape == (4, 32, 32, 32)
    assert torch.equal(labels.sum(0), torch.ones(32, 32, 32)) and set(labels.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(labels[1] > 0, torch.from_numpy(store.label_map(0) == 1))  # they moved
    flair = x[3]
    assert flair[labels[1] > 0].mean() > flair[labels[0] > 0].mean() + 0.3  # and edema is still bright
