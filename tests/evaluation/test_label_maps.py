"""Metrics of label maps: closed forms, and one pass over the volumes for all channels and labels."""

import numpy as np
import pytest

from hagan3d.data.label_maps import dice, label_map_of, overlap_counts, voxel_counts
from hagan3d.evaluation.features.label_maps import LabelView, component_counts
from hagan3d.evaluation.features.summary import ChannelView, VolumeSet, describe, summarize_set
from hagan3d.evaluation.label_maps.compare import label_set, mean_of
from hagan3d.evaluation.label_maps.overview import label_verdicts
from hagan3d.evaluation.label_maps.results import LabelComparison, LabelSet
from hagan3d.evaluation.metrics.compare import compare_summaries
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.label_maps import absent_difference, distribution_distance
from hagan3d.evaluation.metrics.registry import metrics
from hagan3d.evaluation.settings import EvaluateConfig

SIZE = (32, 32, 32)


def boxes(*sides: int) -> np.ndarray:
    """A label map of cubes of label 1, far from each other, and of one voxel of label 2."""
    label_map = np.zeros(SIZE, np.uint8)
    for number, side in enumerate(sides):
        label_map[:side, number * 10 : number * 10 + side, :side] = 1
    label_map[-1, -1, -1] = 2
    return label_map


def volume(label_map: np.ndarray, seed: int, labels: int = 3) -> np.ndarray:
    """Two random image channels, then the channels of the labels ``[5, D, H, W]``."""
    images = np.random.default_rng(seed).uniform(-1, 1, (2, *SIZE))
    probabilities = np.where(label_map == np.arange(labels)[:, None, None, None], 0.5, -0.7)
    return np.concatenate([images, probabilities]).astype(np.float32)


def test_voxels_and_components_of_cubes():
    label_map = boxes(3, 2)
    assert voxel_counts(label_map, 4).tolist() == [27 + 8, 1, 0]
    assert component_counts(label_map, 4).tolist() == [2, 1, 0]
    label_map[3, 3, 3] = 1  # shares a corner with the first cube
    assert component_counts(label_map, 4).tolist() == [2, 1, 0]


def test_dice_of_overlapping_cubes():
    one, other = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    one[:4], other[2:8] = 1, 1  # 4 and 6 slices, 2 in common
    found = dice(*overlap_counts(one, other, 3))
    assert found[0] == pytest.approx(2 * 2 / 10) and np.isnan(found[1])
    other[0, 0, 0] = 2
    assert dice(*overlap_counts(one, other, 3))[1] == 0
    assert np.array_equal(dice(*overlap_counts(other, other, 3)), [1, 1])


def test_the_label_of_a_voxel_is_the_most_probable():
    label_map = boxes(5)
    assert np.array_equal(label_map_of(volume(label_map, 0), 2), label_map)


def test_a_set_is_described_by_its_volumes():
    arrays = {
        "ml": np.array([1.0, 2, 3, 0]),
        "voxels": np.array([1, 2, 3, 0]),
        "components": np.array([1, 1, 4, 0]),
        "pair_dice": np.array([0.5, np.nan, 0.7]),
    }
    found = label_set(arrays, np.arange(4))
    assert found.mean_ml.value == 1.5 and found.deviation_ml == pytest.approx(np.std([1, 2, 3, 0], ddof=1))
    assert found.mean_ml.error == pytest.approx(np.std([1, 2, 3, 0], ddof=1) / 2)
    assert found.absent.value == 0.25 and found.components.value == 1.5
    assert found.pair_dice.value == pytest.approx(0.6) and found.pairs == 2
    assert (
        mean_of(np.array([np.nan])) is None
        and "pair_dice" not in label_set(arrays | {"pair_dice": np.zeros(0)}, np.arange(4)).to_dict()
    )
    twice = {name: np.tile(each, 2) for name, each in arrays.items()}  # two equal volumes of each subject
    again = label_set(twice, np.tile(np.arange(4), 2))
    assert again.mean_ml == found.mean_ml and again.absent == found.absent


def test_distances_of_shifted_and_missing_values():
    x = np.random.default_rng(0).uniform(1, 2, 50)
    assert distribution_distance(x + 0.3, x) == pytest.approx(0.3)
    assert absent_difference(np.array([0, 0, 5, 2]), np.array([1, 2, 0, 3])) == pytest.approx(0.25)


def test_every_metric_of_labels_is_computed_with_its_error():
    random = np.random.default_rng(0)
    one, other = (
        {
            "volume": random.normal(mean, 1, 60),
            "components": random.integers(1, 4, 60),
            "voxels": random.integers(0, 3, 60),
        }
        for mean in (5, 7)
    )
    found = compare_summaries("labels", one, other, EvaluateConfig(bootstrap=200))
    assert (
        list(found)
        == [metric.key for metric in metrics("labels")]
        == [
            "label_volume",
            "label_components",
            "label_absent",
        ]
    )
    assert found["label_volume"].value == pytest.approx(abs(one["volume"].mean() - other["volume"].mean()), rel=0.02)
    # the standard error of a difference of two means of 60 values
    assert found["label_volume"].error == pytest.approx((1 / 60 + 1 / 60) ** 0.5, rel=0.3)


def test_all_views_are_computed_in_one_pass_and_a_missing_one_alone(tmp_path):
    maps = [boxes(side) for side in (2, 3, 4, 5, 6, 7)]
    volumes = [volume(label_map, i) for i, label_map in enumerate(maps)]
    read = []

    def reading(first, last):
        read.append((first, last))
        return iter(volumes[first:last])

    views = [ChannelView(tmp_path / f"{i}", [], i) for i in (0, 1)] + [LabelView(tmp_path / "labels", 2, 3)]
    whole = VolumeSet("real", SIZE, 6, reading, {"store": "a"})
    first, second, labels = summarize_set(whole, views, batch=2, pairs=2, chunk=4)
    assert read == [(0, 4), (4, 6)]
    for i, summary in enumerate((first, second)):
        expected = np.stack([describe(x[i])["slice_mean"] for x in volumes])
        np.testing.assert_allclose(summary["slice_mean"], expected, atol=1e-6)
        assert len(summary["similarity"]) == 2
    assert labels["voxels"].tolist() == [[side**3, 1] for side in (2, 3, 4, 5, 6, 7)]
    # disjoint pairs: a cube inside a larger one
    assert labels["pair_dice"][:, 0] == pytest.approx([2 * 8 / (8 + 27), 2 * 64 / (64 + 125)])
    (tmp_path / "labels" / "real-000004.npz").unlink()
    again = summarize_set(whole, views, batch=2, pairs=2, chunk=4)
    assert read == [(0, 4), (4, 6), (4, 6)]
    assert all(np.array_equal(again[2][name], values) for name, values in labels.items())


@pytest.mark.parametrize(("value", "error", "state"), [(0.3, 0.05, "good"), (0.3, 0.2, "unclear"), (3.0, 0.1, "bad")])
def test_the_sentence_compares_volumes_with_the_floor(value, error, state):
    one = LabelSet(Estimate(2.0, 0.1), 0.5, Estimate(0.0), Estimate(1.0), None, 0)
    distances = {
        "generated vs held-out": {"label_volume": Estimate(value, error)},
        "train vs held-out": {"label_volume": Estimate(0.2, error)},
    }
    label = LabelComparison("core", {"generated": one, "held-out": one}, distances, None)
    (verdict,) = label_verdicts([label], {"generated": 200, "held-out": 60, "train": 90})
    assert verdict.state == state and verdict.text.startswith("label core, 2 +- 0.5 ml (held-out 2 +- 0.5): ")
    words = {"good": "no difference found", "unclear": "too few held-out volumes (60 subjects)"}
    assert words.get(state, "20 standard errors above the floor") in verdict.text
