"""The tasks of benchmarks/methods.py are valid runs, and its domains without pairs have known pairs."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from hagan3d.data.store.store import Store
from hagan3d.run_settings import load_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("methods")


@pytest.fixture
def contrast(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("contrast")


def test_a_folder_of_runs_is_of_one_config_time_and_number_of_threads(methods, tmp_path):
    timed, folder = methods.timed, tmp_path / "default-0"
    timed.check_plan(folder, "hagan_32", 1800.0, 1)  # nothing has begun
    folder.mkdir()
    (folder / "plan.json").write_text(
        '{"steps": 9, "seconds": 5.0, "config": "hagan_32", "minutes": 30.0, "threads": 1}'
    )
    timed.check_plan(folder, "hagan_32", 1800.0, 1)
    assert timed.planned_steps(folder, 1800.0, 1.0) == 9
    for asked, said in ((("hagan_64", 1800.0, 1), "hagan_32"), (("hagan_32", 300.0, 1), "30.0")):
        with pytest.raises(SystemExit, match=said):
            timed.check_plan(folder, *asked)


def test_every_run_of_every_task_is_a_valid_config(methods):
    for name, task in methods.TASKS.items():
        for kind, changes in methods.runs(task).items():
            settings = methods.with_steps({**task["settings"], **changes}, task, kind, 40)
            config = load_config(task.get("config", name), **methods.timed.nested(settings))
            assert config.train.steps == 40 and config.translates
            assert not (task.get("domains") and config.data.paired), name  # domains have no pairs


def test_a_regression_has_no_adversarial_term(methods):
    tasks = {name: task for name, task in methods.TASKS.items() if methods.REGRESSION in methods.runs(task)}
    assert len(tasks) >= 15
    for name, task in tasks.items():
        changes = methods.runs(task)[methods.REGRESSION]
        config = load_config(task.get("config", name), **methods.timed.nested({**task["settings"], **changes}))
        assert config.method.adversarial_weight == 0


def test_the_rows_of_unit_are_eight_different_runs(methods):
    task = methods.TASKS["unit_rows"]
    made = [
        load_config("unit_32", **methods.timed.nested({**task["settings"], **row})) for row in task["variants"].values()
    ]
    assert len(made) == 8 and all(made.count(config) == 1 for config in made)


def test_domains_are_the_volumes_and_their_other_contrast(contrast, phantom_store, tmp_path, monkeypatch):
    monkeypatch.setattr(contrast, "FEATURE_STEPS", 1)
    path = contrast.contrast_store(Path(phantom_store), tmp_path)
    made, volumes = Store(path), Store(phantom_store)
    assert made.has_domains and len(made) == 2 * len(volumes)
    for i in range(len(volumes)):
        source, target = (made.ids.index(f"{domain}_{volumes.ids[i]}") for domain in ("source", "target"))
        assert made.subjects[source] == made.subjects[target] == volumes.subjects[i]
        assert made.splits[source] == made.splits[target] == volumes.splits[i]
        x = volumes.volume(i).numpy()
        np.testing.assert_array_equal(made.volume(source), x)
        np.testing.assert_allclose(made.volume(target), contrast.other_contrast(x), atol=2e-5)
    before = path.stat().st_mtime_ns
    assert contrast.contrast_store(Path(phantom_store), tmp_path) == path and path.stat().st_mtime_ns == before


def test_the_other_contrast_has_the_points_of_its_curve(contrast):
    x, y = (np.array(values, np.float32) for values in zip(*contrast.CURVE, strict=True))
    np.testing.assert_allclose(contrast.other_contrast(x), y, atol=1e-6)
    between = (x[1:] + x[:-1]) / 2
    np.testing.assert_allclose(contrast.other_contrast(between), (y[1:] + y[:-1]) / 2, atol=1e-6)
