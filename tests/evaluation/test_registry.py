"""The registry of metrics: what is registered is computed and reported, and nothing else has to change."""

import numpy as np
import pytest

from hagan3d.evaluation.metrics import registry
from hagan3d.evaluation.metrics.compare import compare_features
from hagan3d.evaluation.metrics.registry import metric, metrics, titles
from hagan3d.evaluation.settings import EvaluateConfig


@pytest.fixture
def own_metric(monkeypatch):
    metrics("features")  # imports the modules first: the copy below must hold them
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))

    @metric("mean_gap", title="gap of means", unit="a.u.", better="lower", needs="features")
    def mean_gap(x, y):
        return float(abs(x.mean() - y.mean()))

    return mean_gap


def test_a_registered_function_is_computed_with_a_bootstrap_error_and_has_a_title(own_metric):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((40, 2)) + 1, random.standard_normal((50, 2))
    config = EvaluateConfig(bootstrap=200, kid_subsets=1)
    estimate = compare_features(x, y, config).estimates["mean_gap"]
    assert estimate.value == own_metric(x, y)
    assert estimate.error == pytest.approx(
        (1 / 80 + 1 / 100) ** 0.5, rel=0.3
    )  # standard error of a difference of means
    assert titles("features")["mean_gap"] == "gap of means, a.u."


def test_a_metric_without_a_unit_or_of_another_input_is_apart(own_metric):
    assert titles("features")["kid"] == "KID"
    assert "mean_gap" not in titles("voxels") and {one.key for one in metrics("pair")} >= {"mae", "psnr_db", "ssim"}


def test_two_functions_with_one_key_are_refused(own_metric):
    with pytest.raises(ValueError, match="two metrics have the key 'kid'"):
        metric("kid", title="KID", better="lower", needs="features")(lambda x, y: 0.0)


def test_every_metric_of_voxels_names_an_array_of_the_summary():
    from hagan3d.evaluation.features.summary import describe

    arrays = describe(np.zeros((32, 32, 32), np.float32))
    assert all(one.needs.partition(":")[2] in arrays for one in metrics("voxels"))
