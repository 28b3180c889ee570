"""The augmentation study runs, and holds its own promise: no generator has seen what its classifier does without."""

import csv
import shutil

import augmentation_study
import numpy as np
import pytest
import study

from hagan3d import cli
from hagan3d.checkpoint import load
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert cli.run(augmentation_study.main, ["--quick", "--out", str(folder)]) == 0
    return folder


def test_the_quick_mode_compares_three_arms_on_held_out_volumes(out):
    whole, rows = Store(out / "phantoms.h5"), list(csv.DictReader((out / "study.csv").open()))
    assert [row["arm"] for row in rows] == ["real alone", "real and generated", "generated alone"]
    for row in rows:
        assert int(row["held_out"]) == whole.splits.count("validation") and int(row["generated"]) == 10
        assert float(row["accuracy low"]) <= float(row["accuracy"]) <= float(row["accuracy high"])
    assert float(rows[0]["accuracy gain"]) == 0


def test_the_generator_saw_the_training_volumes_of_the_fraction_and_no_others(out):
    whole, part = Store(out / "phantoms.h5"), Store(out / "store-050.h5")
    assert 0 < part.splits.count("train") < whole.splits.count("train")
    assert {i for i, s in zip(part.ids, part.splits, strict=True) if s != "train"} == {
        i for i, s in zip(whole.ids, whole.splits, strict=True) if s != "train"
    }
    checkpoint = load(next((out / "run-050" / "checkpoints").glob("*.pt")))
    assert checkpoint.store == part.store_fingerprint and checkpoint.config.data.split == "train"


def test_a_part_of_another_store_is_refused(out, tmp_path):
    for name in ("phantoms.h5", "store-050.h5"):
        shutil.copy(out / name, tmp_path / name)
    (tmp_path / "store-050.made-by.json").write_text('{"store": "another"}')
    with pytest.raises(InputError, match="were made with store another"):
        study.part_of(Store(tmp_path / "phantoms.h5"), 0.5, tmp_path)


def test_a_run_that_saw_more_is_refused(out, tmp_path, capsys):
    for name in ("phantoms.h5", "store-050.h5"):
        shutil.copy(out / name, tmp_path / name)
    shutil.copytree(out / "run-050", tmp_path / "run-025")
    words = ["--store", str(tmp_path / "phantoms.h5"), "--out", str(tmp_path), "--fractions", "0.25", "--steps", "1"]
    assert cli.run(augmentation_study.main, words) == 2
    assert "needs its own" in capsys.readouterr().err
    assert not (tmp_path / "more-025.h5").exists()


def test_generated_volumes_are_never_among_those_that_are_asked_about(out):
    store = Store(out / "more-050.h5")
    outcome = augmentation_study.classify(store, study.ARMS[1], range(1), 1)
    assert store.generated.sum() == 10
    assert not any(subject.startswith("generated") for subject in outcome.subjects)
    without = study.held_out(store)[:2]
    store.labels[without] = -1
    assert len(augmentation_study.classify(store, study.ARMS[1], range(1), 1).subjects) == len(outcome.subjects) - 2
    store = Store(out / "more-050.h5")
    real, made = study.sources_of(store)[study.ARMS[1]]
    assert len(made) == 10 and len(real) + len(made) + len(outcome.subjects) == len(store)


def test_intervals_hold_the_truth_where_it_is_known():
    random = np.random.default_rng(0)
    truth, subjects = np.arange(400) % 4, np.arange(400)
    wrong = (truth + 1) % 4
    one, other = (
        study.Outcome(
            augmentation_study.right_answers(np.where(random.random((5, 400)) < share, truth, wrong), truth), subjects
        )
        for share in (0.7, 0.5)
    )
    drawn = study.resampled(augmentation_study.accuracies, one, other)[:, :, 0]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    assert low[0] < 0.7 < high[0] and low[1] < 0.2 < high[1] and low[1] > 0.1


def test_balanced_accuracy_is_the_mean_over_classes():
    right = augmentation_study.right_answers(np.array([[0, 0, 0, 0]]), np.array([0, 0, 0, 1]))
    np.testing.assert_array_equal(augmentation_study.accuracies(right), [0.75, 0.5])
