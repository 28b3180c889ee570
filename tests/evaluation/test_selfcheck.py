"""The instrument sees what it must: spoilt volumes are worse than real halves, and those are not told apart."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.metrics.sanity import HALVES, SPOILT, caught_by, check, shuffled
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
    row = next(row for row in found[HALVES] if row.measure == "kid (random)")
    assert abs(row.value) <= 1.96 * row.error
    assert not caught_by(found[HALVES])


@pytest.mark.parametrize("name", list(SPOILT))
def test_a_spoilt_copy_is_five_standard_errors_worse_on_some_measure(found, name):
    assert caught_by(found[name]), [(row.measure, row.worse) for row in found[name]]


def test_a_collapsed_copy_is_caught_by_variety_and_by_recall(found):
    caught = {row.measure for row in caught_by(found["mode-collapsed"])}
    assert {"variety, from 1", "recall (random)", "MS-SSIM, from real"} <= caught


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
