"""Distances of features: closed forms, other people's code, and errors that hold what they say."""

import sys
from functools import partial

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from hagan3d.evaluation.metrics import distances as d
from hagan3d.evaluation.metrics.compare import compare_features
from hagan3d.evaluation.metrics.fidelity import fidelity
from hagan3d.evaluation.settings import EvaluateConfig


def normal(count, dim=4, seed=0, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((count, dim)) * scale + shift


def of_subjects(people, each, seed, alike=0.9):
    """Features of so many subjects with some volumes each, which are correlated."""
    random = np.random.default_rng(seed)
    own, other = random.standard_normal((people, 1, 16)), random.standard_normal((people, each, 16))
    return (alike**0.5 * own + (1 - alike) ** 0.5 * other).reshape(-1, 16), np.repeat(np.arange(people), each)


@pytest.mark.parametrize("distance", [d.kid, d.rbf_mmd])
def test_volumes_of_one_subject_are_not_compared(distance):
    (x, of_x), (y, of_y) = of_subjects(5, 3, 0), of_subjects(4, 2, 1)
    of_y += 3  # two subjects are in both sets
    kernel = d.polynomial_kernel if distance is d.kid else partial(rbf, unit=np.median(pdist(y)))
    within_x, between, within_y = (
        np.mean([kernel(a[i : i + 1], b[j : j + 1]) for i, j in pairs_apart(of_a, of_b)])
        for a, of_a, b, of_b in ((x, of_x, x, of_x), (x, of_x, y, of_y), (y, of_y, y, of_y))
    )
    assert distance(x, y, subjects=(of_x, of_y)).value == pytest.approx(within_x - 2 * between + within_y)
    with pytest.raises(ValueError, match="expected 3 subjects in each set, got 5 and 2"):
        distance(x, y, subjects=(of_x, of_y // 4))


def rbf(x, y, unit):
    return np.mean([np.exp(-cdist(x, y, "sqeuclidean") / (2 * (unit * scale) ** 2)) for scale in d.RBF_WIDTHS], axis=0)


def pairs_apart(of_a, of_b):
    return [(i, j) for i in range(len(of_a)) for j in range(len(of_b)) if of_a[i] != of_b[j]]


@pytest.mark.parametrize(("people", "each"), [(20, 1), (10, 2), (5, 4)])
def test_a_set_of_few_subjects_is_as_near_as_one_of_many(people, each):
    found = []
    for seed in range(30):
        (x, of_x), (y, of_y) = of_subjects(100, 1, 2 * seed), of_subjects(people, each, 2 * seed + 1)
        found.append((d.kid(x, y, (-1 - of_x, of_y)), *d.precision_recall(x, y, 3, (-1 - of_x, of_y))))
    kid, precision, recall = zip(*found, strict=True)
    values, errors = ([getattr(one, name) for one in kid] for name in ("value", "error"))
    assert abs(np.mean(values)) < 3 * np.std(values) / 30**0.5
    assert 0.7 < np.mean(errors) / np.std(values) < 2.2
    for share in (precision, recall):
        assert 0.6 < np.mean([one.value for one in share]) < 0.9
        assert 0.7 < np.mean([one.error for one in share]) / np.std([one.value for one in share]) < 2.5


def test_two_sets_of_the_same_subjects_are_not_nearer_than_two_of_others():
    both = [of_subjects(20, 2, seed) for seed in range(30)]
    values = [d.kid(x[::2], x[1::2], (of[::2], of[1::2])).value for x, of in both]
    assert abs(np.mean(values)) < 3 * np.std(values) / 30**0.5


@pytest.mark.parametrize(("m", "n", "dim"), [(70, 50, 16), (24, 20, 40)])
def test_torch_fidelity_says_the_same(m, n, dim):
    fake, real = normal(m, dim, 0, 0.2), normal(n, dim, 1)
    for subsets, size in ((1, min(m, n)), (5, 12)):
        theirs = fidelity(fake, real, neighbours=3, subsets=subsets, size=size)
        assert d.fid(fake, real) == pytest.approx(theirs.fid, rel=1e-6, abs=1e-6)
        mean, deviation = d.kid_of_subsets(fake, real, subsets, size)
        assert mean == pytest.approx(theirs.kid_mean, rel=1e-6, abs=1e-6)
        assert deviation == pytest.approx(theirs.kid_deviation, rel=1e-6, abs=1e-6)
    precision, recall = d.precision_recall(fake, real)
    assert (precision.value, recall.value) == pytest.approx((theirs.precision, theirs.recall), abs=1e-6)


def test_torch_fidelity_that_does_not_import_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match="torchvision built for torch"):
        fidelity(normal(5), normal(5), neighbours=3, subsets=1, size=5)


def test_fid_of_two_gaussians_is_the_closed_form():
    fake, real = normal(200_000, 2, 0, shift=1.0, scale=3.0), normal(200_000, 2, 1)
    assert d.fid(fake, real) == pytest.approx(2 * 1 + 2 * (3 - 1) ** 2, rel=0.02)


@pytest.mark.parametrize("shrink", [False, True])
def test_fid_in_the_span_of_the_samples_is_the_whole(shrink):
    fake, real = normal(8, 30, 0, 0.3), normal(9, 30, 1)
    weights = [d.shrinkage(x) if shrink else 0 for x in (fake, real)]
    covariances = []
    for x, w in zip((fake, real), weights, strict=True):
        s = np.cov(x, rowvar=False)
        covariances.append((1 - w) * s + w * np.trace(s) / 30 * np.eye(30))
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    difference = ((fake.mean(0) - real.mean(0)) ** 2).sum()
    expected = difference + np.trace(covariances[0] + covariances[1]) - 2 * roots
    assert d.fid(fake, real, shrink) == pytest.approx(expected, rel=1e-6)


def test_shrinkage_is_the_formula_of_ledoit_and_wolf():
    x = normal(12, 5, 3) * np.array([1, 2, 3, 4, 5])
    c = x - x.mean(0)
    s = c.T @ c / 12
    delta = ((s - np.trace(s) / 5 * np.eye(5)) ** 2).sum() / 5
    beta = sum(((np.outer(row, row) - s) ** 2).sum() for row in c) / 12**2 / 5
    assert d.shrinkage(x) == pytest.approx(min(beta, delta) / delta)
    assert d.shrinkage(normal(1500, 5) * np.array([1, 2, 3, 4, 5])) < 0.02


def test_kernel_distances_are_the_double_sums():
    x, y = normal(6, 3, 0, 0.5), normal(5, 3, 1)

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    expected += np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    expected -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert d.kid(x, y).value == pytest.approx(expected)


def test_the_rbf_mixture_is_its_double_sums():
    x, y = normal(6, 3, 0, 0.5), normal(5, 3, 1, scale=2.0)
    unit = np.median([np.linalg.norm(y[i] - y[j]) for i in range(5) for j in range(i)])

    def kernel(a, b):
        widths = [unit / 4, unit / 2, unit, 2 * unit, 4 * unit]
        return np.mean([np.exp(-((a - b) ** 2).sum() / (2 * width**2)) for width in widths])

    expected = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    expected += np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    expected -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert d.rbf_mmd(x, y).value == pytest.approx(expected)


@pytest.mark.parametrize("measure", [d.kid, d.rbf_mmd])
def test_equal_distributions_are_within_the_interval_of_zero_and_others_far_outside(measure):
    pairs = [measure(normal(60, seed=2 * i), normal(50, seed=2 * i + 1)) for i in range(40)]
    values = np.array([pair.value for pair in pairs])
    errors = np.array([pair.error for pair in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(40)  # unbiased
    assert (np.abs(values) < 1.96 * errors).mean() >= 0.9
    apart = [measure(normal(60, seed=2 * i), normal(50, seed=2 * i + 1, shift=1.0)) for i in range(40)]
    assert all(pair.value > 3 * pair.error for pair in apart)
    assert np.mean([pair.error for pair in apart]) == pytest.approx(np.std([pair.value for pair in apart]), rel=0.3)


def test_the_mixture_sees_more_than_means():
    found = d.rbf_mmd(normal(100, seed=0, scale=2.0), normal(100, seed=1))
    assert found.value > 5 * found.error


def test_precision_and_recall_of_a_collapsed_and_of_a_scattered_set():
    real = normal(100)
    one = np.repeat(real[:1], 50, axis=0)
    precision, recall = d.precision_recall(one, real)
    assert precision.value == 1 and recall.value <= 0.05
    assert precision.error == pytest.approx((51 / 52 * 1 / 52 / 50) ** 0.5)
    precision, recall = d.precision_recall(normal(100, seed=1, scale=20), real)
    assert precision.value < 0.1


def test_sets_that_do_not_fit_are_refused():
    for x, y in ((normal(5, 3), normal(5, 4)), (normal(2), normal(9)), (normal(9)[0], normal(9))):
        with pytest.raises(ValueError, match="expected two sets .N"):
            d.kid(x, y)
    with pytest.raises(ValueError, match="expected"):
        d.kid_of_subsets(normal(5), normal(9), 1, 6)


def test_a_small_set_is_warned_of():
    config = EvaluateConfig(kid_subsets=2, bootstrap=5)
    assert "look at KID" in compare_features(normal(30, 8), normal(7, 8, 1), config).warnings[0]
    assert not compare_features(normal(30, 8), normal(20, 8, 1), config).warnings
