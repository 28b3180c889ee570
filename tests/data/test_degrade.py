"""Simulated acquisitions do what their physics says, and the same again for the same seed."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d.config import DegradeConfig
from hagan3d.data.batches.degrade import Physics, degrade, sampling_mask
from hagan3d.errors import InputError

KINDS = ("undersample", "motion", "noise", "gibbs", "low-dose", "thick-slices")
NOTHING = {
    "undersample": {"acceleration": 1.0},
    "motion": {"rotate_deg": 0.0, "shift": 0.0},
    "noise": {"noise": 0.0},
    "gibbs": {"gibbs": 0.0},
    "low-dose": {"dose": 1.0},
    "thick-slices": {"thickness": 1},
}


@pytest.fixture(scope="module")
def volume():
    values = gaussian_filter(np.random.default_rng(0).standard_normal((32, 32, 24)), 1.5)
    return torch.from_numpy((values / np.abs(values).max()).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_asked_for_changes_nothing(volume, kind):
    made = degrade(volume, DegradeConfig(kind=kind, **NOTHING[kind]), 1)
    atol = 1e-3 if kind == "gibbs" else 1e-5  # MONAI's cuts one corner of k-space in any case
    torch.testing.assert_close(made, volume, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_names_an_acquisition(volume, kind):
    config = DegradeConfig(kind=kind)
    made = degrade(volume, config, 1)
    assert made.shape == volume.shape and made.dtype == torch.float32 and made.abs().max() <= 1
    assert torch.equal(made, degrade(volume, config, 1)) and not torch.equal(made, volume)
    if kind not in ("gibbs", "thick-slices"):
        assert not torch.equal(made, degrade(volume, config, 2))


@pytest.mark.parametrize(("mask", "points"), [("cartesian", 32), ("gaussian", 32 * 48)])
@pytest.mark.parametrize("acceleration", [2.0, 4.0, 8.0])
def test_just_as_many_lines_are_kept_as_the_acceleration_says(mask, points, acceleration):
    shape = (48, 32, 24)
    config = DegradeConfig(kind="undersample", mask=mask, acceleration=acceleration)
    kept = sampling_mask(shape, config, np.random.default_rng(3))
    assert kept.size == points and kept.sum() == round(points / acceleration)
    assert kept[len(kept) // 2, 16, 0]  # frequency 0


def test_an_undersampled_volume_has_no_signal_on_lines_that_were_left_out():
    """A volume that is constant but for one frequency along H loses it when that line is not kept."""
    config = DegradeConfig(kind="undersample", acceleration=8, centre=0.1)
    h = torch.arange(32) / 32
    seen = []
    for frequency in range(1, 16):
        wave = (0.3 * torch.cos(2 * np.pi * frequency * h)).expand(8, 32)[:, :, None].expand(8, 32, 8).contiguous()
        seen.append(float(degrade(wave, config, 5).std() / wave.std()))
    kept = sampling_mask((8, 32, 8), config, np.random.default_rng(5))[0, :, 0]
    expected = [(int(kept[16 + f]) + int(kept[16 - f])) / 2 for f in range(1, 16)]
    for share, want in zip(seen, expected, strict=True):
        assert (share < 1e-5) == (want == 0) and share == pytest.approx(1, abs=1e-4) or want != 1


def test_rician_noise_adds_twice_its_variance_to_the_mean_square():
    made = degrade(torch.full((32, 32, 32), -0.5), DegradeConfig(kind="noise", noise=0.2), 0)
    assert float(((made + 1) ** 2).mean()) == pytest.approx(0.25 + 2 * 0.04, rel=0.02)


def test_low_dose_noise_has_the_deviation_in_hu_that_the_dose_says():
    water = torch.full((8, 64, 64), float((0 + 1024) * 2 / 1624 - 1))
    made = degrade(water, DegradeConfig(kind="low-dose", dose=0.2, noise_hu=20.0), 0, Physics())
    assert float((made - water).std()) * 812 == pytest.approx(20 * 2, rel=0.05)  # sqrt(1 / dose - 1) = 2


def test_low_dose_noise_is_strongest_where_rays_are_attenuated_most():
    bone = torch.full((4, 64, 64), -1.0)
    bone[:, 24:40] = 1.0
    made = degrade(bone, DegradeConfig(kind="low-dose", dose=0.1), 0, Physics(hi=1000.0, spacing=(1.0, 4.0, 4.0)))
    assert (made - bone)[:, 28:36].std() > (made - bone)[:, :8].std()


def test_a_thick_slice_is_the_mean_of_its_thin_ones(volume):
    single = torch.zeros(32, 8, 8)
    single[16:20] = 1.0
    made = degrade(single, DegradeConfig(kind="thick-slices", thickness=4), 0)
    assert float(made.sum()) == pytest.approx(float(single.sum()), rel=1e-5)
    assert float(made[17:19].min()) == pytest.approx(0.875) and float(made[14].max()) > 0


@pytest.mark.parametrize("name, value", [("acceleration", 0.5), ("dose", 0.0), ("moves", 0), ("thickness", 0)])
def test_settings_that_cannot_work_are_named(name, value):
    with pytest.raises(InputError, match=f"data.degrade.{name}: must be"):
        dataclasses.replace(DegradeConfig(), **{name: value})
    with pytest.raises(InputError, match="a centre of 0.5"):
        DegradeConfig(kind="undersample", centre=0.5)
