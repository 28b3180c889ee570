"""Intensities: a straight line there and back, found by window, percentiles or z-score."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hagan3d.data.io.writer import write_nifti
from hagan3d.data.preprocess.checking import _channel
from hagan3d.data.preprocess.intensity import IntensityRule, denormalize, normalize
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import ChannelConfig, DomainConfig, PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

VALUES = np.random.default_rng(0).normal(300, 50, (8, 9, 10))


@pytest.mark.parametrize("values", [VALUES, torch.from_numpy(VALUES)], ids=["numpy", "torch"])
def test_there_and_back(values: np.ndarray | torch.Tensor):
    x = normalize(values, 0.0, 700.0)
    assert x.min() >= -1 and x.max() <= 1
    np.testing.assert_allclose(denormalize(x, 0.0, 700.0), VALUES, atol=1e-9)


def test_window_clips():
    np.testing.assert_array_equal(normalize(np.array([-2000.0, -1024, -212, 600, 3000]), -1024, 600), [-1, -1, 0, 1, 1])


def test_percentiles_ignore_a_few_wild_voxels():
    wild = VALUES.copy()
    wild[0, 0, 0] = 1e6
    lo, hi = IntensityRule("percentiles", (0, 1), (0.5, 99.5)).interval(wild)
    assert 100 < lo < 250 and 400 < hi < 500


def test_z_score_is_mean_and_three_deviations_inside_the_mask():
    mask = np.zeros(VALUES.shape, bool)
    mask[2:5] = True
    lo, hi = IntensityRule("z-score", (0, 1), (0, 100)).interval(VALUES, mask)
    inside = VALUES[2:5]
    np.testing.assert_allclose([(lo + hi) / 2, (hi - lo) / 6], [inside.mean(), inside.std()])


def test_a_z_score_without_a_mask_looks_above_the_mean():
    lo, hi = IntensityRule("z-score", (0, 1), (0, 100)).interval(np.array([-900.0, -800, -100, 200, 300, 500]))
    inside = np.array([-100.0, 200, 300, 500])  # the mean of all is -133
    np.testing.assert_allclose([(lo + hi) / 2, (hi - lo) / 6], [inside.mean(), inside.std()])


@pytest.mark.parametrize("values", [[0.0, -1.0, 2.0], [0.0, 3.0, 1.0], [0.0, 0.5, 2.0]])
def test_voxels_that_are_no_labels_are_refused(values: list[float]):
    with pytest.raises(InputError, match=f"labels must be integers from 0 to 2, got {values[1]:g}"):
        IntensityRule("labels", (0, 2), (0, 100)).interval(np.array(values))


@pytest.mark.parametrize("kind", ["percentiles", "z-score"])
def test_an_empty_interval_is_refused_with_a_remedy(kind: str):
    values = np.zeros((10, 10, 10))
    values[0, 0, 0] = 1.0
    with pytest.raises(InputError, match="use .*window"):
        IntensityRule(kind, (0, 1), (0.5, 99.5)).interval(values)  # type: ignore[arg-type]


def test_further_channels_are_scaled_inside_the_mask_too(tmp_path: Path):
    random, inside = np.random.default_rng(0), np.zeros((16, 16, 16), bool)
    inside[4:12, 4:12, 4:12] = True
    affines = {"t1": np.eye(4), "t2": np.diag([2.0, 2.0, 2.0, 1.0])}
    affines["t2"][:3, 3] = 0.5
    for name in ("a", "b"):
        for channel, affine in affines.items():
            where = inside if channel == "t1" else inside[::2, ::2, ::2]
            values = np.where(where, random.normal(100, 5, where.shape), random.normal(500, 50, where.shape))
            write_nifti(tmp_path / f"{name}_{channel}.nii.gz", values, affine)
        write_nifti(tmp_path / "masks" / f"{name}.nii.gz", inside, np.eye(4))
    (tmp_path / "cases.csv").write_text("id,t1,t2\na,a_t1.nii.gz,a_t2.nii.gz\nb,b_t1.nii.gz,b_t2.nii.gz\n")
    config = PrepareConfig(size=(32, 32, 32), intensity="z-score", masks=str(tmp_path / "masks"), workers=1)
    store = Store(prepare(tmp_path / "cases.csv", tmp_path / "s.h5", config, progress=False).path)
    middle, half = store.intervals.mean(2), np.ptp(store.intervals, axis=2) / 6
    assert np.abs(middle - 100).max() < 3 and np.abs(half - 5).max() < 1.5
    assert all(channel.masked for channel in store.description().channels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (-1000.0, 400.0)}, "window: has no effect with intensity percentiles; use intensity window"),
        ({"intensity": "window", "percentiles": (1.0, 99.0)}, "percentiles: have no effect with intensity window"),
        ({"intensity": "z-score", "window": (0.0, 1.0)}, "window: has no effect with intensity z-score"),
        ({"class_column": "Sex"}, "class_column, partial_labels: are about the table of --labels"),
        ({"partial_labels": True}, "class_column, partial_labels: are about the table of --labels"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        PrepareConfig(**settings)


def test_a_channel_has_the_settings_of_all_where_it_has_none_of_its_own():
    pet, ct = ChannelConfig(units="SUV"), ChannelConfig(window=(-160.0, 240.0))
    of_all = PrepareConfig(intensity="window", window=(-1000.0, 400.0), intensities={"pet": pet, "ct": ct})
    found = [_channel(name, of_all.intensities.get(name), of_all) for name in ("pet", "ct", "other")]
    assert [channel["window"] for channel in found] == [(-1000.0, 400.0), (-160.0, 240.0), (-1000.0, 400.0)]
    assert {channel["intensity"] for channel in found} == {"window"}
    assert [channel["units"] for channel in found] == ["SUV", "HU", "HU"]
    mr = _channel("mr", ChannelConfig(intensity="percentiles"), of_all)  # as in stores of older versions
    assert (mr["window"], mr["percentiles"], mr["units"]) == ((-1024.0, 600.0), (0.5, 99.5), "")
    with pytest.raises(InputError, match="window of ct has no effect with its intensity, percentiles"):
        _channel("ct", ct, PrepareConfig())


def test_settings_of_sources_without_sources_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(9, 9, 9)))
    with pytest.raises(
        InputError, match="source.intensity, source.size and others: are about sources of --pairs or --domains"
    ):
        inspect([tmp_path], PrepareConfig(), progress=False, sources_as=DomainConfig(intensity="z-score"))
