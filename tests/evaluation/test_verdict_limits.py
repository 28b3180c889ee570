"""Where verdicts change: errors and intervals, least subjects, variety, seams, reconstruction, and memorisation."""

import dataclasses
import math

import pytest
from scipy.stats import norm

from hagan3d.evaluation.memorisation.results import (
    Audit,
    Authenticity,
    DataCopying,
    MedianDistances,
    Membership,
    Nearer,
    SpaceAudit,
    Twins,
)
from hagan3d.evaluation.metrics.estimate import Estimate, binomial_error
from hagan3d.evaluation.metrics.power import Difference
from hagan3d.evaluation.metrics.voxels import Seams, Variety
from hagan3d.evaluation.report.results import Reconstruction
from hagan3d.evaluation.report.verdict import audit_verdicts, differences, variety_verdict, verdicts
from tests.evaluation.test_verdict import phantoms, results_of


@pytest.fixture(scope="module")
def results():
    """Results of generated volumes that are like the real ones."""
    return results_of(phantoms(40, 3))


def test_an_interval_holds_95_percent():
    found, reach = Estimate(2.0, 0.5), 0.5 * norm.isf(0.025)
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-4)
    assert math.isnan(Estimate(2.0).low)


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (0.3, 50), (1.0, 20)])
def test_a_share_of_0_or_1_has_an_error_too(share, count):
    p = (share * count + 1) / (count + 2)
    assert binomial_error(share, count) == pytest.approx(math.sqrt(p * (1 - p) / count)) and p not in (0, 1)


def test_the_error_of_an_excess_is_that_of_the_value_and_of_its_floor():
    one = Difference("KID", "", "lower", 1.0, Estimate(2.0, 0.3), Estimate(0.5, 0.4), 50)
    assert one.error == pytest.approx(0.5) and one.excess == pytest.approx(1.5)


def test_the_smallest_set_determines_what_can_be_seen(results):
    results.origin.subjects["generated"] = 7
    assert {one.volumes for group in differences(results).values() for one in group.values()} == {7}
    results.origin.subjects["generated"] = 40


@pytest.mark.parametrize(
    ("ratio", "error", "state"),
    [(0.95, 0.04, "good"), (0.95, 0.06, "unclear"), (0.75, 0.01, "bad"), (1.5, 0.01, "good")],
)
def test_variety_may_be_lower_by_a_fifth(ratio, error, state):
    """With many volumes an excess of 3.9 errors is found in 80 % of repetitions."""
    rows = {"generated": [Variety(0, 0.1, None), Variety(32, ratio, error)], "held-out": [Variety(32, 1.0, 0.0)]}
    assert variety_verdict(rows, 10_000).state == state


@pytest.mark.parametrize(
    ("ratio", "error", "state"),
    [(1.0, 0.012, "good"), (1.0, 0.015, "unclear"), (1.04, 0.001, "good"), (1.06, 0.001, "bad"), (0.8, 0.001, "good")],
)
def test_steps_at_window_borders_may_be_higher_by_a_twentieth(results, ratio, error, state):
    results.seams, results.origin.subjects = Seams(ratio, 1.0, Estimate(ratio, error)), {"held-out": 10_000}
    found = next(one for one in verdicts(results) if "window borders" in one.text)
    results.seams, results.origin.subjects = None, dict.fromkeys(("generated", "held-out", "train"), 40)
    assert found.state == state


@pytest.mark.parametrize(("mae", "state"), [(0.1, "good"), (0.3, "bad")])
def test_a_reconstruction_is_better_than_the_mean_volume(results, mae, state):
    results.reconstruction = Reconstruction(8, mae, 20.0, 0.5, 0.2)
    assert next(one for one in verdicts(results) if one.text.startswith("reconstruction")).state == state
    results.reconstruction = None


SPACE = SpaceAudit(
    independent=50.0,
    distances=MedianDistances(1.0, 1.0, 1.0),
    twins=Twins(limit=0.45, lowest_real=0.5, lowest=0.3, share=0.02, count=2, sources=2),
    nearer=Nearer(share=0.54, expected=0.5, deviation=0.01, z=4.0),
    authenticity=Authenticity(*[Estimate(50.0, 1.0)] * 4, z=-4.0, excess_z=-2.9),
    data_copying=DataCopying(value=-5.0, z=-2.9, swapped=0.0, swapped_z=0.0, excess_z=-4.0),
)


@pytest.mark.parametrize(
    ("test", "part", "change"),
    [
        ("twins", "twins", {"sources": 3}),
        ("twins", "twins", {"lowest": 0.24}),
        ("nearer", "nearer", {"share": 0.55}),
        ("AuthPct", "authenticity", {"excess_z": -3.0}),
        ("C_T", "data_copying", {"z": -3.0}),
    ],
)
def test_a_sign_of_memorisation_is_beyond_all_its_thresholds(test, part, change):
    assert SPACE.flagged == []
    changed = dataclasses.replace(SPACE, **{part: dataclasses.replace(getattr(SPACE, part), **change)})
    assert changed.flagged == [test]


def test_a_share_of_twins_below_a_fiftieth_is_chance():
    few = dataclasses.replace(SPACE, twins=dataclasses.replace(SPACE.twins, sources=3, share=0.019))
    assert few.flagged == []


def test_the_sentence_on_discriminators_names_the_best_attack():
    rows = [Membership(name, auc, 0.1, 0.5, 0.02, 0.01, 5.0, 0.5) for name, auc in (("d_h", 0.58), ("d_l", 0.71))]
    volumes = {"generated": 10, "train": 20, "held-out": 10}
    generated, found = audit_verdicts(Audit(volumes, {"voxels": SPACE}, rows, [], 20))
    assert generated.state == "good" and found.state == "bad" and "AUC 0.71" in found.text
    _, found = audit_verdicts(Audit(volumes, {"voxels": SPACE}, rows[:1], [], 20))
    assert found.state == "good" and "no evidence of membership" in found.text


def test_copies_of_training_volumes_that_were_not_compared_are_not_ruled_out():
    volumes = {"generated": 10, "train": 20, "held-out": 10}
    (found,) = audit_verdicts(Audit(volumes, {"voxels": SPACE}, None, [], 21))
    assert found.state == "unclear" and "only 20 of 21 training volumes were compared" in found.text
    copies = dataclasses.replace(SPACE, twins=dataclasses.replace(SPACE.twins, sources=3))
    (found,) = audit_verdicts(Audit(volumes, {"voxels": copies}, None, [], 21))
    assert found.state == "bad"
