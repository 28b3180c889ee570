"""Directions: found where they are known, and moved along exactly."""

import numpy as np
import pytest

from hagan3d.evaluation.exploration.directions import Scale, attribute_direction, between, cosine, principal_directions


def latents(n=300, d=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_scores_of_a_normal_attribute_are_its_deviations():
    y = 4000 + 1000 * np.random.default_rng(0).standard_normal(20000)
    scale = Scale.of(y)
    np.testing.assert_allclose(scale.score([2000.0, 4000.0, 6000.0]), [-2, 0, 2], atol=0.06)
    np.testing.assert_allclose(scale.value([-2.0, 0.0, 2.0]), [2000, 4000, 6000], atol=60)


def test_a_skewed_attribute_is_walked_within_its_range():
    y = np.random.default_rng(0).exponential(10, 500)  # a share: mean - 2 deviations would be negative
    low, high = Scale.of(y).value(np.array([-2.0, 2.0]))
    assert y.min() <= low < 1 and 30 < high <= y.max()


def test_values_that_occur_often_share_a_score():
    scale = Scale.of(np.array([0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(scale.score(np.array([0.0, 1.0])), [-0.3186, 1.1503], atol=1e-3)  # ranks 2 and 4 of 4
    with pytest.raises(ValueError, match="varies"):
        Scale.of(np.ones(5))


@pytest.mark.slow
def test_the_direction_of_a_known_law_is_found():
    z, law = latents(), np.array([3.0, 4, 0, 0, 0, 0, 0, 0])
    found = attribute_direction(z, z @ law / 5, np.arange(300), covariance=np.eye(z.shape[1]))
    assert cosine(found.direction.weights, law) > 0.999 and cosine(found.direction.step, law) > 0.999
    assert found.agreement.low > 0.99
    moved = found.direction.move(z[0], 1.5)
    assert found.direction.read(moved) == pytest.approx(1.5, abs=1e-5)


def test_the_way_stays_where_latents_are():
    """Two numbers of z that always change together: the weights may tell them apart, the way may not."""
    z = latents()
    z[:, 1] = z[:, 0] + 0.01 * z[:, 1]
    found = attribute_direction(z, z[:, 0].astype(float), np.arange(300))
    np.testing.assert_allclose(found.direction.step[:2], [1, 1], atol=0.02)


@pytest.mark.slow
def test_noise_has_no_direction():
    found = attribute_direction(latents(), np.random.default_rng(5).standard_normal(300), np.arange(300))
    assert found.agreement.low < 0.3 and found.regression.r2.value < 0.05


def test_principal_directions_are_those_of_greatest_variance():
    z = latents(2000) * np.array([1, 5, 1, 3, 1, 1, 1, 1]) + 7
    (first, second), shares = principal_directions(z, 2)
    assert abs(first.weights[1]) / np.linalg.norm(first.weights) > 0.99
    assert abs(second.weights[3]) / np.linalg.norm(second.weights) > 0.99
    np.testing.assert_allclose(shares, [25 / 40, 9 / 40], atol=0.03)
    readings = first.read(z)
    assert readings.mean() == pytest.approx(0, abs=1e-4) and readings.std() == pytest.approx(1, abs=1e-3)
    assert first.read(first.move(z[0], -2.0)) == pytest.approx(-2, abs=1e-4)
    with pytest.raises(ValueError, match="1 to 7"):
        principal_directions(z, 8)


def test_the_way_between_two_latents_keeps_their_length():
    a, b = latents(2, 128)
    np.testing.assert_allclose(between(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(between(a, b, 1.0), b, atol=1e-5)
    middle = between(a, b, 0.5)
    assert np.linalg.norm(middle) == pytest.approx((np.linalg.norm(a) + np.linalg.norm(b)) / 2, rel=1e-5)
    assert np.linalg.norm((a + b) / 2) < 0.8 * np.linalg.norm(middle)
    np.testing.assert_allclose(between(a, 3 * a, 0.5), 2 * a, rtol=1e-5)
    mean = np.full(a.shape, 5.0, np.float32)
    np.testing.assert_allclose(between(a + mean, b + mean, 0.5, mean), middle + mean, rtol=1e-5)
