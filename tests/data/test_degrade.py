"""Simulated acquisitions do what their physics says, and the same again for the same seed."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

from hagan3d.config import DegradeConfig
from hagan3d.data.batches.degrade import Physics, _moved, degrade, sampling_mask
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
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


@pytest.mark.parametrize(("mask", "acceleration"), [("cartesian", 9), ("gaussian", 63)])
def test_the_one_point_that_is_sampled_at_least_is_frequency_0_of_odd_sides_too(mask, acceleration):
    constant = torch.full((7, 9, 11), 0.3)
    config = DegradeConfig(kind="undersample", mask=mask, acceleration=acceleration, centre=0.0)
    torch.testing.assert_close(degrade(constant, config, 1), constant)


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


@pytest.mark.parametrize("mask", ["cartesian", "gaussian"])
def test_the_sampling_density_falls_with_the_radius(mask):
    """Of few samples without replacement each point has a share of its density."""
    config = DegradeConfig(kind="undersample", mask=mask, acceleration=32, centre=0.0)
    kept = sum(sampling_mask((64, 64, 8), config, np.random.default_rng(seed)) for seed in range(2000))
    line, radius = kept[len(kept) // 2, :, 0], abs(np.arange(64) - 32) / 64
    density = 1 - 1.6 * radius if mask == "cartesian" else np.exp(-((radius / 0.18) ** 2) / 2)
    near, far = ((radius > low) & (radius < low + 0.16) for low in (0.1, 0.3))
    assert line[near].sum() / line[far].sum() == pytest.approx(density[near].sum() / density[far].sum(), rel=0.2)


def test_motion_moves_all_planes_of_k_space_but_the_central_ones():
    """Without rotation, and with one movement: two poses, of which each moves its planes by fractions of the sides."""
    x = gaussian_filter(np.random.default_rng(0).random((12, 32, 10)), 2) * 2 - 1
    config = DegradeConfig(kind="motion", moves=1, rotate_deg=0, shift=0.2, centre=0.1)
    random = np.random.default_rng(8)
    change = int(random.choice(np.arange(1, 32), 1, replace=False)[0])
    k = np.fft.fftn((x + 1) / 2)
    frequencies = np.fft.fftfreq(32, 1 / 32)  # -16 to 15
    outside = abs(frequencies) >= 3  # 0.1 of 32 planes on each side stay still
    for planes in (frequencies + 16 < change, frequencies + 16 >= change):
        random.uniform(size=3)  # angles
        moved = shift(x, random.uniform(-0.2, 0.2, 3) * x.shape, order=1, mode="nearest")
        k[:, planes & outside] = np.fft.fftn((moved + 1) / 2)[:, planes & outside]
    expected = 2 * abs(np.fft.ifftn(k)) - 1
    made = degrade(torch.from_numpy(x), config, 8).numpy()
    assert 3 < change < 29 and abs(made - x).max() > 0.05
    np.testing.assert_allclose(made, expected.clip(-1, 1), atol=1e-5)


def test_motion_turns_a_volume_about_its_centre():
    ball = torch.full((33, 33, 33), -1.0)
    ball[14:19, 14:19, 14:19] = 1.0
    config = DegradeConfig(kind="motion", moves=1, rotate_deg=30, shift=0, centre=0)
    made = degrade(ball, config, 1) + 1
    assert abs(made - 1 - ball).max() > 0.5
    for dim in range(3):
        profile = made[10:23, 10:23, 10:23].sum([other for other in range(3) if other != dim])
        centre = float((profile * torch.arange(10, 23)).sum() / profile.sum())
        assert centre == pytest.approx(16, abs=0.1)


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


def test_low_dose_noise_follows_the_attenuation_of_water_along_rows_and_columns():
    """Half of the rows are water, of 0.019 per mm, and half air; rays run along H, of 2 mm, and along W, of 3 mm."""
    hounsfield = torch.full((16, 64, 64), -1000.0)
    hounsfield[:, :32] = 0.0
    x = (hounsfield + 1024) * 2 / 1624 - 1
    noise = degrade(x, DegradeConfig(kind="low-dose", dose=0.5, noise_hu=2.0), 0, Physics(spacing=(1.0, 2.0, 3.0))) - x
    along_h, along_w = 32 * 2 * 0.019, 64 * 3 * 0.019
    expected = (np.exp(along_h) + np.exp(along_w)) / (np.exp(along_h) + 1)
    assert float(noise[:, :32].var() / noise[:, 32:].var()) == pytest.approx(expected, rel=0.05)


def test_low_dose_noise_has_the_spectrum_of_the_ramp_filter_with_a_hann_window():
    noise = degrade(torch.zeros(64, 64, 64), DegradeConfig(kind="low-dose", dose=0.5, noise_hu=5.0), 0, Physics())
    power = (torch.fft.fft2(noise).abs() ** 2).mean(0)
    low, high = (float(power[0, at] + power[at, 0]) for at in (4, 20))

    def ramp(f):
        return f * np.cos(np.pi * f) ** 4

    assert high / low == pytest.approx(ramp(20 / 64) / ramp(4 / 64), rel=0.3)


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


def test_motion_is_rigid_in_mm():
    rod = np.full((24, 64, 64), -1, np.float32)
    rod[12, 16:48, 32] = 1
    turned = _moved(rod, np.array([0.0, 0.0, 10.0]), np.zeros(3), (5.0, 1.0, 1.0))
    at = np.indices(rod.shape).reshape(3, -1) * np.array([[5.0], [1.0], [1.0]])
    covariance = np.cov(at, aweights=(turned + 1).ravel())
    assert np.degrees(np.arctan(covariance[0, 1] / covariance[1, 1])) == pytest.approx(10, abs=1)


def test_low_dose_noise_is_that_of_axial_slices_however_volumes_are_stored():
    x, degradation = torch.zeros(48, 40, 32), DegradeConfig(kind="low-dose", dose=0.5, noise_hu=5.0)
    for axis in range(3):
        noise = degrade(x, degradation, 0, Physics(axis=axis, spacing=(1.0, 1.0, 1.0))) - x
        for other in range(3):  # the ramp filter works within a slice, and slices are independent
            one, next_one = noise.narrow(other, 0, x.shape[other] - 1), noise.narrow(other, 1, x.shape[other] - 1)
            correlation = float(torch.corrcoef(torch.stack([one.flatten(), next_one.flatten()]))[0, 1])
            assert (abs(correlation) < 0.03) == (other == axis), (axis, other, correlation)


def test_a_chest_stored_by_coronal_slices_has_its_rays_where_the_scanner_has_them(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(32, 32, 32)))
    config = PrepareConfig(size=(32, 32, 32), axis="coronal", validation=0)
    store = Store(prepare([tmp_path], tmp_path / "s.h5", config, progress=False).path)
    assert Pairs(store, DegradeConfig(kind="low-dose"))._physics(0).axis == store.slice_axis("axial") == 1


def test_more_moves_than_planes_are_refused(small_store):
    with pytest.raises(InputError, match="data.degrade.moves 32: must be below the 32 planes along H"):
        Pairs(Store(small_store), DegradeConfig(kind="motion", moves=32))
    Pairs(Store(small_store), DegradeConfig(kind="motion", moves=31)).pair(0)
