"""Augmentation of real volumes: a pure function of volume, settings and seed."""

import pytest
import torch

from hagan3d.config import AugmentConfig
from hagan3d.data.batches.pairs import _augmented
from hagan3d.data.batches.transforms import augment
from hagan3d.errors import InputError

EVERYTHING = AugmentConfig(
    flip_axes=("W",), rotate_deg=10, scale=0.1, shift=0.1, brightness=0.1, contrast=0.1, noise=0.05
)


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(32, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_seeds_give_equal_volumes_and_others_do_not(volume: torch.Tensor):
    before, state = volume.clone(), torch.get_rng_state()
    first, second, other = (augment(volume, EVERYTHING, seed) for seed in (5, 5, 6))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert type(first) is torch.Tensor and first.shape == volume.shape and first.abs().max() <= 1
    assert torch.equal(volume, before) and torch.equal(torch.get_rng_state(), state)


def test_nothing_asked_for_is_nothing_done(volume: torch.Tensor):
    assert augment(volume, AugmentConfig(), 1) is volume


@pytest.mark.parametrize(("axis", "dim"), [("D", 0), ("H", 1), ("W", 2)])
def test_flips_mirror_that_axis_half_of_the_time(volume: torch.Tensor, axis: str, dim: int):
    made = [augment(volume, AugmentConfig(flip_axes=(axis,)), seed) for seed in range(40)]  # type: ignore[arg-type]
    flipped = sum(torch.equal(item, volume.flip(dim)) for item in made)
    assert flipped + sum(torch.equal(item, volume) for item in made) == 40 and 10 <= flipped <= 30


def assert_fills(values: list[float], low: float, high: float):
    """Check that values lie in an interval, on both sides of its middle, and reach the outer fifths."""
    reach = 0.2 * (high - low)
    assert low - 1e-3 <= min(values) < low + reach and high - reach < max(values) <= high + 1e-3


def test_brightness_and_contrast_fill_the_range_asked_for(volume: torch.Tensor):
    small, shifts, ratios = volume / 2, [], []
    for seed in range(30):
        shift = augment(small, AugmentConfig(brightness=0.1), seed) - small
        ratio = augment(small, AugmentConfig(contrast=0.2), seed) / small
        assert shift.std() < 1e-6 and ratio.std() < 1e-3
        shifts.append(float(shift.median()))
        ratios.append(float(ratio.median()))
    assert_fills(shifts, -0.1, 0.1)
    assert_fills(ratios, 0.8, 1.2)
    assert len({round(value, 6) for value in (*shifts, *ratios)}) == 60  # each time, by another amount


def test_a_shift_moves_whole_volumes_by_the_fraction_asked_for_at_most():
    dot = torch.full((32, 32, 64), -1.0)
    dot[15:17, 15:17, 31:33] = 1
    moved: list[list[float]] = [[], [], []]
    for seed in range(20):
        made = augment(dot, AugmentConfig(shift=0.25), seed) + 1
        for dim, side in enumerate(dot.shape):
            profile = made.sum([other for other in range(3) if other != dim])
            centre = (profile * torch.arange(side)).sum() / profile.sum()
            moved[dim].append(float(centre - (side - 1) / 2) / side)
    for fractions in moved:
        assert_fills(fractions, -0.25, 0.25)


def ramp_after(config: AugmentConfig, seed: int, dim: int = 2, spacing=(1.0, 1.0, 1.0)) -> torch.Tensor:
    """Return the gradient in the middle of a ramp along an axis that was augmented, in units of the ramp before."""
    ramp = torch.linspace(-0.5, 0.5, 32).expand(32, 32, 32).movedim(2, dim).contiguous()
    made = augment(ramp, config, seed, spacing)[12:20, 12:20, 12:20]
    return torch.stack([made.diff(dim=dim).mean() for dim in range(3)]) * 31


def test_a_rotation_is_of_the_degrees_asked_for_about_each_axis_at_most():
    found = torch.stack([ramp_after(AugmentConfig(rotate_deg=10), seed) for seed in range(20)])
    degrees = torch.rad2deg(torch.acos((found[:, 2] / found.norm(dim=1)).clamp(max=1)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(20), atol=0.01, rtol=0)
    assert 5 < degrees.max() < 10 * 2**0.5 + 0.1  # the direction of W turns about two axes
    assert all(found[:, other].abs().max() > 0.1 for other in (0, 1))


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_a_rotation_is_rigid_in_millimetres(spacing):
    steps = torch.tensor(spacing)
    found = torch.stack([ramp_after(AugmentConfig(rotate_deg=10), seed, spacing=spacing) / steps for seed in range(20)])
    lengths, degrees = found.norm(dim=1), torch.rad2deg(torch.acos((found[:, 2] / found.norm(dim=1)).clamp(max=1)))
    torch.testing.assert_close(lengths, (1 / steps[2]).expand(20), atol=0.01, rtol=0)  # of a ramp along W
    assert 5 < degrees.max() < 10 * 2**0.5 + 0.1


@pytest.mark.parametrize("dim", range(3))
def test_a_scale_is_within_the_fraction_asked_for_along_each_axis(dim: int):
    found = torch.stack([ramp_after(AugmentConfig(scale=0.2), seed, dim)[dim] for seed in range(20)])
    assert 0.8 - 0.01 < found.min() < 0.9 and 1.1 < found.max() < 1.2 + 0.01


def test_what_comes_in_from_outside_continues_the_border():
    constant = torch.full((32, 32, 32), 0.5)
    made = augment(constant, AugmentConfig(rotate_deg=20, scale=0.2, shift=0.2), 3)
    torch.testing.assert_close(made, constant, atol=1e-5, rtol=0)


def test_noise_is_gaussian_with_at_most_the_deviation_asked_for():
    found = torch.stack([augment(torch.zeros(32, 32, 32), AugmentConfig(noise=0.1), seed).std() for seed in range(20)])
    assert 0.07 < found.max() < 0.102 and found.min() > 0  # never none


@pytest.mark.parametrize("name", ["scale", "contrast"])
def test_changes_that_would_mirror_or_invert_are_refused(name):
    with pytest.raises(InputError, match=f"data.augment.{name}: must be .*below 1"):
        AugmentConfig(**{name: 1.1})


def test_masks_move_with_their_volumes_and_have_no_noise():
    mask = torch.zeros(16, 16, 16)
    mask[4:12, 4:12, 4:12] = 1
    (image,), found = _augmented([mask[None]], mask, AugmentConfig(noise=0.9, contrast=0.9), 3, (1.0, 1.0, 1.0))
    assert torch.equal(found[0], mask) and not torch.equal(image[0], mask)


def test_seeds_count_in_all_their_32_bits(volume: torch.Tensor):
    one, other = (augment(volume, AugmentConfig(brightness=0.1), seed) for seed in (5, 5 + 2**31))
    assert not torch.equal(one, other)
