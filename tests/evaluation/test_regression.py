"""Regression: its numbers are those of unseen subjects, and its intervals hold the truth."""

import numpy as np
import pytest

from hagan3d.evaluation.exploration.regression import (
    RegressionMethod,
    correlation,
    cross_validate,
    fit,
    resampled,
    ridge,
)


def linear(n=200, d=6, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, d))
    return x, x @ np.arange(1.0, d + 1) + noise * random.standard_normal(n), np.arange(n)


def test_r2_of_a_linear_law_is_one_minus_the_share_of_noise():
    x, y, groups = linear(noise=np.sqrt(91.0))  # the law has variance 1 + 4 + ... + 36 = 91
    found = cross_validate(x, y, groups, rounds=200)
    assert found.r2.low < 0.5 < found.r2.high
    assert found.r2.low < found.r2.value < found.r2.high < found.r2.low + 0.4
    assert len(found.models) == 5 and found.predicted.shape == (200,)


def test_noise_predicts_nothing():
    x, _, groups = linear()
    y = np.random.default_rng(9).standard_normal(200)
    found = cross_validate(x, y, groups, rounds=200)
    assert found.r2.value < 0.02 and found.correlation.low < 0 < found.correlation.high + 0.05


def test_a_subject_is_never_on_both_sides():
    """Two volumes of a subject alike in all: without groups a neighbour tells the answer, with groups nothing does."""
    from sklearn.neighbors import KNeighborsRegressor

    random = np.random.default_rng(0)
    x, y = np.repeat(random.standard_normal((60, 4)), 2, axis=0), np.repeat(random.standard_normal(60), 2)
    nearest = RegressionMethod("nearest", KNeighborsRegressor(1))
    assert cross_validate(x, y, np.arange(120), nearest, rounds=20).r2.value > 0.5
    assert cross_validate(x, y, np.repeat(np.arange(60), 2), nearest, rounds=20).r2.value < 0


def test_the_strength_is_chosen_by_the_data():
    weak = fit(*linear(noise=0.01))
    strong = fit(np.random.default_rng(1).standard_normal((60, 40)), linear(60)[1], np.arange(60))
    assert weak[-1].alpha < 1 < 100 <= strong[-1].alpha
    np.testing.assert_allclose(weak[-1].coef_ / weak[0].scale_, np.arange(1.0, 7), atol=0.01)


def test_the_interval_of_pairs_is_that_of_their_subjects():
    x, y, groups = linear(50)
    once = resampled(correlation, x[:, 5], y, groups, rounds=400)
    twice = resampled(correlation, np.repeat(x[:, 5], 2), np.repeat(y, 2), np.repeat(groups, 2), rounds=400)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_a_constant_correlates_with_nothing():
    assert correlation(np.ones(5), np.arange(5.0)) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, g: (x, y[1:], g), "expected x"),
        (lambda x, y, g: (x, np.where(g == 3, np.nan, y), g), "finite"),
        (lambda x, y, g: (x, y, g % 3), "at least 4 subjects"),
    ],
)
def test_what_cannot_be_regressed_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cross_validate(*change(*linear(20)), ridge())
