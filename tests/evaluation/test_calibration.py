"""Measures of calibration on errors that were drawn as predicted, or wrongly by a known amount."""

import numpy as np
import pytest
import torch

from hagan3d.evaluation.translation.calibration import LEVELS, Calibration


def drawn(count=200_000, seed=0):
    """Errors of generalized Gaussians of many scales and shapes."""
    random = np.random.default_rng(seed)
    alpha = np.exp(random.uniform(np.log(0.01), np.log(0.3), count))
    beta = np.exp(random.uniform(np.log(0.9), np.log(4), count))
    size = random.gamma(1 / beta) ** (1 / beta) * alpha
    return tuple(torch.from_numpy(x) for x in (size * random.choice([-1, 1], count), alpha, beta))


def measured(error, alpha, beta, **more):
    made = Calibration()
    made.add(error, alpha, beta, **more)
    return made


def test_what_was_drawn_as_predicted_is_calibrated():
    made = measured(*drawn())
    found = made.result()
    assert found["voxels"] == 200_000 and found["ks"] < 0.005 and found["ence"] < 0.05
    assert found["uce"] < 0.05 * found["rmse"] ** 2
    for level in LEVELS:
        assert found["coverage"][f"{level:g}"] == pytest.approx(level, abs=0.005)
    assert made.scale() == pytest.approx(1, abs=0.01)
    assert found["sigma"] == pytest.approx(found["rmse"], rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_wrong_scale_is_found_and_mended(factor):
    error, alpha, beta = drawn()
    made = measured(error, alpha * factor, beta)
    assert made.scale() == pytest.approx(1 / factor, rel=0.01)
    wrong = made.result()
    assert wrong["ks"] > 0.1 and wrong["ence"] > 0.4 and abs(wrong["coverage"]["0.9"] - 0.9) > 0.05
    mended = measured(error, alpha * factor * made.scale(), beta).result()
    assert mended["coverage"]["0.9"] == pytest.approx(0.9, abs=0.01) and mended["ks"] < 0.01


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_the_scale_of_one_shape_is_its_closed_form(beta):
    error, alpha, _ = drawn(5000)
    shape = torch.full_like(alpha, beta)
    power = (error.abs() / alpha) ** beta
    assert measured(error, alpha, shape).scale() == pytest.approx(float(beta * power.mean()) ** (1 / beta), rel=1e-9)


def test_a_bias_shows_in_the_ks_distance():
    error, alpha, beta = drawn()
    shifted = measured(error + 0.7 * alpha, alpha, beta).result()
    assert shifted["ks"] > 0.2
    above = measured(torch.full((9,), 1.0), torch.full((9,), 0.1), torch.ones(9)).pit  # targets above all predictions
    assert above[-1] == 9


def test_uce_and_ence_of_one_bin_are_their_closed_forms():
    """Errors of one size under a normal of deviation 0.2."""
    error = torch.tensor([0.3, -0.3] * 500)
    alpha, beta = torch.full((1000,), 0.2 * 2**0.5), torch.full((1000,), 2.0)
    found = measured(error, alpha, beta).result()
    assert found["uce"] == pytest.approx(0.3**2 - 0.2**2, rel=1e-5) and found["ence"] == pytest.approx(0.5, rel=1e-5)
    assert found["bins"] == [[1000, pytest.approx(0.2), pytest.approx(0.3)]]


def test_bins_have_equal_mass_and_error_grows_with_sigma():
    rows = measured(*drawn()).groups(20)
    assert len(rows) == 20 and np.abs(rows[:, 0] - 10_000).max() < 500
    assert (np.diff(rows[:, 1]) > 0).all() and (np.diff(rows[:, 2]) > 0).mean() > 0.9


def test_sparsification_is_perfect_by_the_error_itself_and_useless_by_chance():
    error, alpha, _ = drawn()
    two = torch.full_like(alpha, 2.0)
    perfect = measured(error, error.abs() + 1e-9, two).result()
    chance = measured(
        error, alpha[torch.randperm(len(alpha), generator=torch.Generator().manual_seed(0))], two
    ).result()
    sensible = measured(*drawn()).result()
    assert perfect["ause"] == pytest.approx(0, abs=2e-3)
    assert chance["ause"] == pytest.approx(chance["ause_random"], rel=0.03)
    assert 0.05 < sensible["ause"] < 0.7 * sensible["ause_random"]


def test_sparsification_of_uniform_errors_is_its_closed_form():
    """|e| uniform in [0, 1]: the oracle keeps a mean of (1 - f) / 2, which is 1 - f of the whole; without order: 1."""
    error = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = torch.full_like(error, 0.5)
    found = measured(error, constant, constant * 4).result()
    assert found["ause_random"] == pytest.approx(np.mean(np.arange(100) / 100), abs=2e-3)


def test_parts_add_up_and_masks_choose():
    error, alpha, beta = drawn(30_000)
    whole = measured(error, alpha, beta)
    parts = measured(error[:10_000], alpha[:10_000], beta[:10_000]) + measured(
        error[10_000:], alpha[10_000:], beta[10_000:]
    )
    inside = torch.arange(30_000) < 10_000
    masked = measured(error, alpha, beta, inside=inside)
    assert parts.scale() == pytest.approx(whole.scale(), rel=1e-12)
    np.testing.assert_allclose(parts.by_sigma, whole.by_sigma, rtol=1e-12)
    assert np.array_equal(masked.pit, measured(error[:10_000], alpha[:10_000], beta[:10_000]).pit)
    assert Calibration().result() == {"voxels": 0}
