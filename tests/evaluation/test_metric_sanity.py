"""Sanity of the metrics: degraded volumes are worse than real halves, and real halves do not differ."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.metric_sanity import DEGRADED, HALVES, check, detected_by, shuffled
from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.report.figures import embedding


@pytest.fixture(scope="module")
def found():
    random = np.random.default_rng(0)

    def smooth(count, size, sigma):
        x = gaussian_filter(random.standard_normal((count, *size)), (0, sigma, sigma, sigma))
        return x / x.std()

    size = (32, 32, 32)
    x = np.tanh(0.5 * smooth(1, size, 4) + 0.4 * smooth(48, size, 3) + 0.3 * smooth(48, size, 1)).astype(np.float32)
    return check(x, [random_extractor()], rounds=8)


def test_real_halves_are_within_the_interval_of_zero(found):
    row = next(row for row in found[HALVES] if row.metric == "kid (random)")
    assert abs(row.estimate.value) <= 1.96 * row.estimate.error
    assert not detected_by(found[HALVES])


@pytest.mark.parametrize("name", list(DEGRADED))
def test_a_degraded_copy_is_five_standard_errors_worse_on_some_measure(found, name):
    assert detected_by(found[name]), [(row.metric, row.worse) for row in found[name]]


def test_a_collapsed_copy_is_detected_by_variety_and_by_recall(found):
    detected = {row.metric for row in detected_by(found["mode-collapsed"])}
    assert {"variety, from 1", "recall (random)", "MS-SSIM, from real"} <= detected


def test_shuffling_keeps_every_voxel_and_every_block():
    x = np.arange(2 * 16**3, dtype=np.float32).reshape(2, 16, 16, 16)
    mixed = shuffled(x, np.random.default_rng(0))
    assert not np.array_equal(mixed, x)
    np.testing.assert_array_equal(np.sort(mixed.reshape(2, -1)), np.sort(x.reshape(2, -1)))
    corners = {float(v) for v in x[0, ::4, ::4, ::4].ravel()}
    assert corners == {float(v) for v in mixed[0, ::4, ::4, ::4].ravel()}


def test_the_embedding_of_points_in_a_plane_keeps_their_distances():
    random = np.random.default_rng(0)
    flat = random.standard_normal((20, 2)) * (3, 1)
    turned = flat @ np.linalg.qr(random.standard_normal((6, 6)))[0][:2]
    placed = embedding(turned)
    expected = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(placed[:, None] - placed[None], axis=2), expected, atol=1e-9)
