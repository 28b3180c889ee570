"""Verdicts: three states by statistical power, and features that overlook blur never carry good news alone."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.summary import ChannelView, summarize
from hagan3d.evaluation.metrics.compare import compare_summaries
from hagan3d.evaluation.metrics.distances import kid
from hagan3d.evaluation.metrics.estimate import Estimate, bootstrap_error
from hagan3d.evaluation.metrics.power import FALSE_ALARM, MISSED, Difference, joint_state
from hagan3d.evaluation.metrics.registry import metrics
from hagan3d.evaluation.metrics.voxels import Variety
from hagan3d.evaluation.report.results import FLOOR, GENERATED
from hagan3d.evaluation.report.verdict import verdicts
from hagan3d.evaluation.settings import EvaluateConfig

VIEW = ChannelView(Path(), [])


def difference(value, error, better="lower", matters=1.0, volumes=50, floor=0.0):
    return Difference("KID", "", better, matters, Estimate(value, error), Estimate(floor, error), volumes)


@pytest.mark.parametrize(
    ("value", "error", "state"), [(2.0, 0.1, "bad"), (0.1, 0.1, "good"), (0.1, 0.5, "unclear"), (-3.0, 0.1, "good")]
)
def test_a_small_difference_is_good_news_only_where_a_large_one_would_have_been_seen(value, error, state):
    assert difference(value, error).state == state


@pytest.mark.parametrize(("value", "state"), [(-60.0, "bad"), (60.0, "bad"), (5.0, "good")])
def test_a_signed_metric_is_told_apart_on_both_sides(value, state):
    assert difference(value, 3.0, better="zero", matters=40.0).state == state


def test_fewer_volumes_see_less():
    few, many = (difference(0.0, 0.1, volumes=n).detectable for n in (5, 100))
    assert few > 1.5 * many


def test_false_alarms_and_misses_are_as_rare_as_promised():
    random, n, repetitions = np.random.default_rng(0), 12, 4000

    def outcomes(shift):
        x, y = random.standard_normal((2, repetitions, n))
        errors = [v.std(axis=1, ddof=1) / math.sqrt(n) for v in (x, y)]
        rows = zip(x.mean(axis=1) + shift, y.mean(axis=1), *errors, strict=True)
        found = [Difference("", "", "lower", 1.0, Estimate(a, e), Estimate(b, f), n) for a, b, e, f in rows]
        return np.mean([one.state == "bad" for one in found])

    assert outcomes(0.0) <= 3 * FALSE_ALARM
    true_error = math.sqrt(2 / n)
    detectable = difference(0.0, true_error / math.sqrt(2), volumes=n).detectable
    assert outcomes(detectable) >= 1 - MISSED - 0.05


def test_one_that_is_told_apart_outweighs_all_others():
    assert joint_state(["good", "unclear", "bad"]) == "bad"
    assert joint_state(["good", "unclear"]) == "unclear"
    assert joint_state(["good", "good"]) == "good"


def test_errors_of_repeated_volumes_are_those_of_their_subjects():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((30, 4)), random.standard_normal((40, 4))
    twice, subjects = np.repeat(x, 2, axis=0), (np.repeat(np.arange(30), 2), 30 + np.arange(40))

    def gap(a, b):
        return lambda i, j: float(a[i].mean() - b[j].mean())

    once = bootstrap_error(gap(x, y), (np.arange(30), np.arange(40)), 400)
    assert bootstrap_error(gap(twice, y), subjects, 400) == pytest.approx(once, rel=1e-9)
    naive = bootstrap_error(gap(twice, y), (np.arange(60), np.arange(40)), 400)
    assert naive < 0.92 * once
    repeated, each = kid(twice, y, subjects), kid(x, y)
    assert (repeated.value, repeated.error) == pytest.approx((each.value, each.error), rel=1e-9)
    named = kid(x, y, (np.arange(30), -1 - np.arange(40)))
    assert (named.value, named.error) == pytest.approx((each.value, each.error))


@pytest.mark.parametrize("subjects", [np.arange(12), np.repeat(np.arange(4), 3)])
def test_the_jackknife_leaves_out_one_subject_at_a_time(subjects):
    random = np.random.default_rng(1)
    x, y = random.standard_normal((12, 3)), random.standard_normal((9, 3))
    of_y = -1 - np.arange(9)
    left = [kid(x[subjects != one], y, (subjects[subjects != one], of_y)).value for one in np.unique(subjects)]
    right = [kid(x, np.delete(y, i, axis=0), (subjects, np.delete(of_y, i))).value for i in range(9)]
    expected = math.sqrt((len(left) - 1) * np.var(left) + 8 * np.var(right))
    assert kid(x, y, (subjects, of_y)).error == pytest.approx(expected)


@dataclass(frozen=True)
class Compared:
    """What a verdict reads of a comparison of features."""

    estimates: dict[str, Estimate] = field(default_factory=dict)


def phantoms(count, seed):
    random = np.random.default_rng(seed)
    x = gaussian_filter(random.standard_normal((count, 32, 32, 32)), (0, 1, 1, 1))
    return np.tanh(1.5 * x / x.std()).astype(np.float32)


def results_of(generated):
    sets = {"generated": generated, "held-out": phantoms(40, 1), "train": phantoms(40, 2)}
    summaries = {name: summarize(iter(x[:, None]), [VIEW], 8, False, x.shape[1:])[0] for name, x in sets.items()}
    config = EvaluateConfig(bootstrap=20)
    pairs = ((GENERATED, "generated", "held-out"), (FLOOR, "train", "held-out"))

    def columns(needs):
        return {name: compare_summaries(needs, summaries[a], summaries[b], config) for name, a, b in pairs}

    found = {one.key: Estimate(0.0, 0.01 * one.matters) for one in metrics("features")}
    encoder = {GENERATED: Compared(found), FLOOR: Compared(found)}
    variety = {name: [Variety(32, 1.0, 0.01)] for name in ("generated", "held-out")}
    return SimpleNamespace(
        texture=columns("texture"),
        voxels=columns("voxels"),
        features={"encoder": encoder},
        origin=SimpleNamespace(
            subjects={"generated": 40, "held-out": 40, "train": 40},
            extractors=[SimpleNamespace(name="encoder", confirms=False)],
        ),
        variety=variety,
        seams=None,
        reconstruction=None,
        geometry=(),
        audit=None,
    )


def test_real_volumes_are_not_told_apart_and_the_encoder_agrees():
    found = verdicts(results_of(phantoms(40, 3)))
    assert [one.state for one in found[:4]] == ["good"] * 4, [one.text for one in found]
    assert "no difference" in found[0].text and "one of this size would have been" in found[1].text


def test_blurred_volumes_are_named_so_and_the_encoder_does_not_deny_it():
    blurred = gaussian_filter(phantoms(40, 3), (0, 0.7, 0.7, 0.7))
    overall, texture, _, encoder, *_ = verdicts(results_of(blurred))
    assert overall.state == "bad" and overall.text.startswith(
        "generated volumes are blurred, and differ from real ones in "
    )
    assert texture.state == "bad" and texture.text.startswith("blurred: power of structures below 4 voxels is missing")
    assert encoder.state == "unclear" and "can overlook blur and noise" in encoder.text


def test_noisy_volumes_are_named_too_rough():
    real = phantoms(40, 3)
    noise = 0.2 * np.random.default_rng(0).standard_normal(real.shape).astype(np.float32)
    overall, texture, *_ = verdicts(results_of((real + noise).clip(-1, 1)))
    assert "too rough" in overall.text and texture.text.startswith("too rough: power of structures below 4 voxels")


def test_upsampled_volumes_are_told_apart():
    x = phantoms(40, 3)[:, ::2, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    overall, texture, *_ = verdicts(results_of(x))
    assert overall.state == texture.state == "bad"


def test_sets_with_large_errors_cannot_tell():
    results = results_of(phantoms(5, 3))
    wide = {key: Estimate(0.0, 1e3) for columns in (results.texture, results.voxels) for key in columns[FLOOR]}
    results.texture = results.voxels = {GENERATED: wide, FLOOR: wide}
    results.origin.subjects["held-out"] = 5
    overall, texture, slices, *_ = verdicts(results)
    assert {overall.state, texture.state, slices.state} == {"unclear"}
    assert "too few held-out volumes (5 subjects)" in slices.text
