"""Voxel statistics: closed forms, and parts of a set that give the whole."""

from pathlib import Path

import numpy as np
import pytest

from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.features.summary import (
    ChannelView,
    VolumeSet,
    blocks,
    describe,
    rescaled,
    similarity,
    ssim_settings,
    summarize,
    summarize_set,
)
from hagan3d.evaluation.metrics import voxels as v

SIZE = (32, 32, 32)


def volumes(count, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal((count, *SIZE)) * scale).clip(-1, 1).astype(np.float32)


def view(folder=Path(), *extractors):
    return ChannelView(folder, extractors)


def summary(x, pairs=False):
    return summarize(iter(x[:, None]), [view()], 4, pairs, SIZE)[0]


def test_blocks_are_means():
    x = np.arange(4 * 4 * 8, dtype=np.float64).reshape(4, 4, 8)
    small = blocks(x, (2, 2, 2))
    assert small[0, 1, 0] == x[:2, 2:, :4].mean()
    assert blocks(x[None], (4, 4, 8)).shape == (1, 4, 4, 8)


def test_histograms_shifted_by_a_tenth_are_a_tenth_apart():
    x = volumes(3)
    a, b = (np.stack([describe(y * 0.5 + shift)["histogram"] for y in x]) for shift in (0.0, 0.1))
    assert v.histogram_distance(a, b) == pytest.approx(0.1, rel=0.02)


def test_slices_shifted_by_a_tenth_are_a_tenth_apart():
    x = volumes(5)
    assert v.slice_distance(describe_all(x), describe_all(x * 1.0 + 0.1)) == pytest.approx(0.1, rel=1e-3)


def describe_all(x):
    return np.stack([describe(y)["slice_mean"] for y in x])


def test_planes_see_a_turned_volume():
    x = volumes(6) + np.linspace(-0.5, 0.5, 32, dtype=np.float32)[None, :, None, None]
    real = np.stack([describe(y)["planes"] for y in x])
    turned = np.stack([describe(y[::-1])["planes"] for y in x])
    assert v.planes_fid(real, real) == pytest.approx(0, abs=1e-6)
    assert v.planes_fid(turned, real) > 0.5


def test_half_the_deviation_is_a_variety_of_one_half():
    x = volumes(20)
    rows = v.variety(summary(x * 0.5), summary(x))
    assert [row.voxels for row in rows] == [32, 16, 8, 4]
    assert [row.ratio for row in rows] == pytest.approx([0.5] * 4, rel=1e-4)
    assert v.variety(summary(x[:1].repeat(20, axis=0)), summary(x))[0].ratio == pytest.approx(0, abs=1e-6)


def test_variances_of_sets_of_other_sizes_are_unbiased():
    few, many = volumes(3), volumes(9, 1)
    expected = np.sqrt(few.var(axis=0, ddof=1).mean() / many.var(axis=0, ddof=1).mean())
    assert v.variety(summary(few), summary(many))[0].ratio == pytest.approx(float(expected), rel=1e-4)


def test_the_error_of_variety_is_what_repetition_shows():
    rows = [v.variety(summary(volumes(10, 2 * i)), summary(volumes(10, 2 * i + 1)))[3] for i in range(12)]
    seen = np.std([row.ratio for row in rows])
    assert np.mean([row.error for row in rows]) == pytest.approx(seen, rel=0.8)


def test_volumes_of_one_subject_do_not_make_the_error_of_variety_smaller():
    x, y = volumes(6), volumes(6, 1)
    copies, subjects = summary(x.repeat(4, axis=0)), np.arange(6).repeat(4)
    alone = v.variety(summary(x), summary(y))[0]
    together = v.variety(copies, summary(y), (subjects, np.arange(6)))[0]
    apart = v.variety(copies, summary(y))[0]
    assert together.ratio == pytest.approx(alone.ratio, rel=1e-6)
    assert together.error == pytest.approx(alone.error, rel=1e-6) and apart.error < 0.9 * together.error
    assert apart.ratio < 0.95 * together.ratio
    one, other = (v.seams(copies, summary(y), 16, who).ratio for who in ((subjects, np.arange(6)), None))
    assert one.value == pytest.approx(other.value) and one.error > other.error


def test_the_variety_of_repeated_subjects_is_unbiased_at_every_resolution(monkeypatch):
    monkeypatch.setattr(v, "SMALL", 16)
    ratios = []
    for seed in range(8):
        people, each = volumes(5, 2 * seed)[:, None], volumes(10, 2 * seed + 1).reshape(5, 2, *SIZE)
        alike = (0.8 * people + 0.6 * each).reshape(-1, *SIZE)
        found = v.variety(summary(alike), summary(volumes(30, 100 + seed)), (np.arange(10) // 2, -1 - np.arange(30)))
        ratios.append([row.ratio for row in found[:2]])
        assert [row.voxels for row in found[:2]] == [0, 16]
    assert np.mean(ratios, axis=0) == pytest.approx([1, 1], abs=0.01)


def test_a_collapsed_generator_has_finite_seams():
    constant, x = summary(np.zeros((5, 32, 32, 32), np.float32)), summary(volumes(6))
    found = v.seams(constant, x, 16)
    assert found.ratio.to_dict() == {"value": 0, "error": 0, "low": 0, "high": 0}
    assert v.seams(x, constant, 16) is None


def test_brightness_moves_the_similarity_of_volumes_little():
    from hagan3d.evaluation.features.summary import similarity

    x = volumes(3) * 0.3
    assert similarity(x, x) == pytest.approx([1, 1, 1], abs=1e-5)
    assert (similarity(x, x + 0.1) > 0.95).all()  # 5 % of the range
    assert (similarity(x, x * 0) < similarity(x, x + 0.1) - 0.1).all()  # without structure


def test_seams_at_window_borders_are_seen():
    x = volumes(6)
    stepped = x + 0.5 * (np.arange(32) >= 16)[None, :, None, None]
    assert v.seams(summary(x), summary(volumes(6, 1)), 16).ratio.value == pytest.approx(1, abs=0.03)
    found = v.seams(summary(stepped), summary(x), 16).ratio
    assert found.low > 1.2
    assert v.seams(summary(x), summary(x), 32) is None


def test_a_slice_that_is_never_covered_is_named():
    x = volumes(8)
    lacking = x.copy()
    lacking[:, 5] = -1
    found = v.coverage(summary(lacking), summary(x))
    assert (found.worst, found.worst_share) == (5, 0)
    assert v.coverage(summary(x), summary(x)).share == 1
    first = v.coverage(summary(x), summary(volumes(8, 1)), 3)
    assert first == v.coverage(summary(x[:3]), summary(volumes(8, 1))) != v.coverage(summary(x), summary(volumes(8, 1)))


def test_volumes_that_are_not_finite_are_refused():
    x = volumes(5)
    x[2, 3, 4, 5] = np.nan
    with pytest.raises(InputError, match="the run diverged; use an earlier checkpoint"):
        summary(x)


def test_a_slice_is_covered_if_8_of_10_real_volumes_are():
    generated = np.array([[0.0, 0.0, 0.0], [0.7, 0.6, 1.0]])
    real = np.repeat(np.arange(10)[:, None] / 10, 3, axis=1)  # 8, 7 and all of them are within the range
    assert v.covered_slices(generated, real) == pytest.approx(200 / 3)


def test_a_volume_is_like_itself_and_unlike_others():
    x = volumes(4)
    np.testing.assert_allclose(similarity(x, x), 1, atol=1e-5)
    assert similarity(x[:2], x[2:]).max() < 0.5
    same, real = (v.pair_similarity(summary(y, pairs=True)) for y in (x[:1].repeat(4, axis=0), x))
    assert same.estimate.value > 0.99 > real.estimate.value


@pytest.mark.parametrize(("side", "window", "scales"), [(32, 7, 3), (64, 7, 4), (128, 7, 5), (256, 11, 5)])
def test_windows_of_similarity_fit_the_volume(side, window, scales):
    settings = ssim_settings((side,) * 3)
    assert (settings["kernel_size"], len(settings["weights"])) == (window, scales)
    assert sum(settings["weights"]) == pytest.approx(1)


def volume_set(x, store="a"):
    return VolumeSet("real", SIZE, len(x), lambda first, last: iter(x[first:last, None]), {"store": store})


def test_features_are_standardized_by_the_reference_set():
    rows = {name: np.random.default_rng(i).normal(i, 1 + i, (50, 3)) for i, name in enumerate(("generated", "train"))}
    found = rescaled({name: {"features/f": x} for name, x in rows.items()}, "f", "train")
    mean, deviation = rows["train"].mean(axis=0), rows["train"].std(axis=0)
    for name, x in rows.items():
        np.testing.assert_allclose(found[name]["features/f"], (x - mean) / deviation)


class PairCounter:
    """Compares nothing, and counts the pairs of volumes."""

    key = {}

    def __init__(self, folder):
        self.folder = folder

    def summarize(self, x, pairs):
        return {"similarity": x[: len(x) // 2 * pairs, 0, 0, 0, 0], "range": x[:, 0, 0, 0]}


@pytest.mark.parametrize(("pairs", "found"), [(0, 0), (1, 1), (3, 3), (9, 4)])
def test_as_many_pairs_are_compared_as_asked_for(pairs, found, tmp_path):
    x = volumes(8)[:, None]
    some = VolumeSet("some", SIZE, 8, lambda first, last: iter(x[first:last]), {})
    (one,) = summarize_set(some, [PairCounter(tmp_path)], batch=4, pairs=pairs, chunk=4)
    assert len(one["similarity"]) == found and len(one["range"]) == 8


def test_a_set_in_chunks_is_the_set_at_once_and_goes_on_where_it_stopped(tmp_path):
    x, extractor = volumes(10), random_extractor()
    whole = summarize(iter(x[:, None]), [view(tmp_path, extractor)], 10, True, SIZE)[0]
    again = summarize_set(volume_set(x), [view(tmp_path, extractor)], batch=2, pairs=5, chunk=4)[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"real-{i:06d}.npz" for i in (0, 4, 8)]
    for name, values in whole.items():
        np.testing.assert_allclose(again[name], values, atol=1e-5, err_msg=name)
    (tmp_path / "real-000004.npz").unlink()
    read = []

    def reading(first, last):
        read.append((first, last))
        return iter(x[first:last, None])

    counted = VolumeSet("real", SIZE, 10, reading, {"store": "a"})
    summarize_set(counted, [view(tmp_path, extractor)], batch=2, pairs=5, chunk=4)
    assert read == [(4, 8)]


def test_what_was_kept_of_another_store_or_extractor_is_refused(tmp_path):
    x = volumes(4)
    summarize_set(volume_set(x), [view(tmp_path)], batch=2, pairs=2)
    for others, extractors in ((volume_set(x, "b"), []), (volume_set(x), [random_extractor()])):
        with pytest.raises(InputError, match="another store, run or setting"):
            summarize_set(others, [view(tmp_path, *extractors)], batch=2, pairs=2)
    (tmp_path / "real-000000.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        summarize_set(volume_set(x), [view(tmp_path)], batch=2, pairs=2)


def test_sizes_that_differ_are_refused():
    with pytest.raises(InputError, match=r"\[32, 32, 64\]"):
        summarize(iter([np.zeros((1, 32, 32, 64), np.float32)]), [view()], 2, False, SIZE)
