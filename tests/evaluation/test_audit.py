"""The memorisation audit: copies are flagged, new volumes are not, and its statistics are those of the papers."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu, norm

from benchmarks.audit_sanity import CASES, check
from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.memorisation.audit import SIDE, mirrored_distances, shifted_distances
from hagan3d.evaluation.memorisation.membership import auc, logits_of, membership, score_names, true_positives
from hagan3d.evaluation.memorisation.nearest import (
    Distances,
    authentic,
    authenticity,
    copying_score,
    data_copying,
    effective_count,
    nearer_share,
    rank_z,
    split_subjects,
    twin_ratios,
)
from hagan3d.methods.registry import make_networks
from tests.helpers import make_config


@pytest.fixture(scope="module")
def checked():
    random = np.random.default_rng(0)
    parts = [gaussian_filter(random.standard_normal((64, 32, 32, 32)), (0, s, s, s)) for s in (2, 4)]
    x = np.tanh(sum(0.5 * part / part.std() for part in parts)).astype(np.float32)
    names = ("other real volumes", "blurred real volumes", "copies of 8 training")
    return check(x, np.arange(64) // 2, random_extractor(), cases={name: CASES[name] for name in names})


@pytest.mark.slow
def test_copies_of_training_volumes_are_flagged_and_others_are_not(checked):
    for name, spaces in checked.items():
        flagged = {space: found.flagged for space, found in spaces.items()}
        assert any(flagged.values()) == CASES[name][1], (name, flagged)
    assert "twins" in checked["copies of 8 training"]["voxels"].flagged


def test_blurred_volumes_look_copied_until_the_question_is_swapped(checked):
    found = checked["blurred real volumes"]["voxels"].data_copying
    assert found.z < -2 < found.excess_z


def test_a_shifted_and_mirrored_volume_has_no_distance():
    random = np.random.default_rng(0)
    x = gaussian_filter(random.standard_normal((3, SIDE + 4, SIDE + 4, SIDE + 4)), (0, 1, 1, 1))
    whole, moved = x[:, 2:-2, 2:-2, 2:-2], x[:, 1:-3, 4:, 2:-2][..., ::-1]
    found = shifted_distances(whole, moved)
    assert np.diagonal(found).max() < 1e-4 < 0.1 * found[0, 1]
    assert np.diagonal(shifted_distances(whole, moved, mirror=False)).min() > 0.01
    np.testing.assert_allclose(found, shifted_distances(moved, whole).T, atol=1e-3)


def test_a_mirrored_volume_has_no_distance_of_features():
    random = np.random.default_rng(0)
    real = random.standard_normal((4, 2, 5))
    assert np.diagonal(mirrored_distances(real[:, 1], real)).max() == 0


def test_a_twin_ratio_leaves_out_the_subject_of_the_nearest():
    ratios = twin_ratios(np.array([[1.0, 1.1, 4.0], [3.0, 5.0, 2.0]]), np.array([0, 0, 1]))
    np.testing.assert_allclose(ratios, [0.25, 2 / 3])


def test_a_volume_is_authentic_if_its_nearest_has_a_nearer_one():
    among = np.array([[np.inf, 1.0], [1.0, np.inf]])
    assert authentic(np.array([[0.5, 2.0], [3.0, 1.5]]), among).tolist() == [False, True]


def test_the_share_nearer_to_training_is_the_mean_over_all_choices():
    random = np.random.default_rng(0)
    train, held = random.random((4, 7)), random.random((4, 3))
    choices = [(train[:, list(c)].min(axis=1) < held.min(axis=1)).mean() for c in itertools.combinations(range(7), 3)]
    assert nearer_share(train, held) == pytest.approx(np.mean(choices))
    assert nearer_share(held, train) == pytest.approx(1 - np.mean(choices))


def test_the_rank_score_is_the_mann_whitney_test():
    random = np.random.default_rng(0)
    x, y = random.random(12), random.random(9) + 0.1
    found = mannwhitneyu(x, y, use_continuity=False, method="asymptotic", alternative="less")
    assert norm.cdf(rank_z(x, y)) == pytest.approx(found.pvalue)


def points(made, train, held):
    def between(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    def among(a):
        return between(a, a) + np.where(np.eye(len(a)), np.inf, 0)

    groups = np.arange(len(train)), len(train) + np.arange(len(held))
    pairs = [(made, train), (made, held), (held, train), (train, held)]
    return Distances(*(between(a, b) for a, b in pairs), among(train), among(held), *groups)


def test_c_t_is_the_rank_score_in_one_cell_and_is_low_for_copies_in_several():
    random = np.random.default_rng(0)
    train, few, many = (random.standard_normal((n, 3)) for n in (60, 15, 60))
    copied = train + 0.01 * random.standard_normal(train.shape)
    d = points(copied, train, few)
    assert copying_score(d).value == pytest.approx(rank_z(d.generated_train.min(axis=1), d.held_train.min(axis=1)))
    for made, low in ((copied, True), (random.standard_normal((60, 3)), False)):
        score = copying_score(points(made, train, many))
        assert (score.value / score.error < -3) == low


def test_c_t_weighs_cells_by_their_held_out_volumes():
    random = np.random.default_rng(0)
    train, held = random.standard_normal((60, 3)), random.standard_normal((60, 3))
    made = np.concatenate([random.standard_normal((40, 3)), np.repeat(random.standard_normal((4, 3)), 10, axis=0)])
    centres = train[np.random.default_rng(5).permutation(60)[:3]]  # as many as cells of 20 held-out volumes
    cell = [np.linalg.norm(x[:, None] - centres[None], axis=2).argmin(axis=1) for x in (made, held, train)]
    scores, counts = [], []
    for one in range(3):
        a, b, near = (x[own == one] for x, own in zip((made, held, train), cell, strict=True))
        if min(len(a), len(b), len(near)) >= 5:
            scores.append(rank_z(*(np.linalg.norm(x[:, None] - near[None], axis=2).min(axis=1) for x in (a, b))))
            counts.append(len(b))
    d, parts = points(made, train, held), np.array(counts) / sum(counts)
    found = copying_score(d, seed=5)
    assert len(counts) > 1 and found.value == pytest.approx(float(parts @ scores))
    repeats = (1 / effective_count(d) + 1 / 60) / (1 / 80 + 1 / 60)
    assert found.error == pytest.approx(float(np.sqrt((parts**2).sum() * repeats))) and repeats > 1.1


def test_scores_are_compared_with_those_of_the_swapped_sets():
    random = np.random.default_rng(0)
    d = points(*(random.standard_normal((n, 3)) for n in (50, 40, 30)))
    one = authenticity(d)
    gap, swapped = one.generated.value - one.floor.value, one.swapped_generated.value - one.swapped_floor.value
    errors = [row.error for row in (one.generated, one.floor, one.swapped_generated, one.swapped_floor)]
    assert one.z == pytest.approx(gap / np.hypot(*errors[:2]))
    assert one.excess_z == pytest.approx((gap - swapped) / np.linalg.norm(errors))
    copied, (score, other) = data_copying(d), (copying_score(x) for x in (d, d.swapped()))
    assert copied.excess_z == pytest.approx((score.value - other.value) / np.hypot(score.error, other.error))
    assert (copied.value, copied.swapped) == (score.value, other.value) and swapped != 0


def test_a_volume_made_again_and_again_counts_once():
    random = np.random.default_rng(0)
    train, held = random.standard_normal((20, 3)), random.standard_normal((9, 3))
    assert effective_count(points(np.repeat(held[:1], 30, axis=0), train, held)) == 1
    assert effective_count(points(train, train, held)) == 20


def test_subjects_are_not_split():
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    mask = split_subjects(groups, 3, np.random.default_rng(0))
    assert 3 <= mask.sum() <= 5
    assert all(len(set(mask[groups == subject])) == 1 for subject in range(4))


def test_auc_and_true_positives_in_closed_form():
    members, others = np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0])
    assert auc(members, others) == pytest.approx(4.5 / 6)
    assert true_positives(members, others) == pytest.approx(1 / 3)
    assert true_positives(np.arange(1000.0), np.arange(200.0), rate=0.01) == pytest.approx(0.802)


def test_a_volume_is_scored_window_by_window_and_alone(monkeypatch):
    settings = {"latent_dim": 8, "channels": 64, "d_channels": 64, "subvolume_depth": 8}
    networks = make_networks(make_config("hagan", **settings))
    monkeypatch.setattr(networks.d_h, "forward", lambda x, start: (x.mean(dim=(1, 2, 3, 4)) + start, None))
    monkeypatch.setattr(networks.d_l, "forward", lambda x: (x.amax(dim=(1, 2, 3, 4)), None))
    x = np.random.default_rng(0).random((32, 32, 32)).astype(np.float32)
    logits = logits_of(networks, [x[None]], torch.device("cpu"))
    quarter = x.reshape(8, 4, 8, 4, 8, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(logits, [[x.mean() + np.mean([0, 8, 16, 24]), quarter.max()]], rtol=1e-6)
    assert score_names(networks) == ["d_h", "d_l", "sum"]


def test_logits_are_summed_in_units_of_their_deviation():
    random = np.random.default_rng(0)
    members, others = random.standard_normal((60, 2)) + [0, 1], random.standard_normal((20, 2))
    one, other = (
        membership(["a", "b", "sum"], members * scale, others * scale, np.arange(60), rounds=10)
        for scale in ([1, 1], [100, 1])
    )
    assert [row.auc for row in one] == pytest.approx([row.auc for row in other])
    assert one[2].auc == pytest.approx(auc((members / members.std(0)).sum(1), (others / members.std(0)).sum(1)))


def test_known_members_are_found_and_the_control_finds_nothing():
    random = np.random.default_rng(0)
    members, others = random.standard_normal((90, 2)), random.standard_normal((20, 2))
    for raised, flagged in ((0.0, False), (2.0, True)):
        rows = membership(["a", "b", "sum"], members + [0, raised], others, np.arange(90) // 2, rounds=50)
        for row in rows:
            assert row.control_auc == pytest.approx(0.5, abs=0.04)
        assert dataclasses.replace(rows[1], untrained_auc=0.5).flagged == flagged
        assert not dataclasses.replace(rows[0], untrained_auc=0.5).flagged
        assert not dataclasses.replace(rows[1], untrained_auc=0.9).flagged
