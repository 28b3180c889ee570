"""Geometry: whatever a file's axes and whatever is asked for, a place in the patient stays at its millimetres."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from hagan3d.data.io.geometry import (
    GridRule,
    _taps,
    check_orientation,
    resample_labels,
    resample_onto,
    spacing_of,
    stored_code,
    to_grid,
    to_output_axes,
    typical_affine,
)
from hagan3d.errors import InputError

TILT = np.array([[0.98, -0.15, 0.1], [0.16, 0.97, -0.16], [-0.07, 0.17, 0.98]])  # a few degrees off the axes
LANDMARK = np.array([11.0, -7.0, 23.0])  # RAS mm


def file_with_landmark(code: str, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume of odd sides and spacings in orientation `code` with a bright ball at LANDMARK."""
    shape, spacing = (50, 44, 38), (1.6, 2.1, 2.5)
    ornt = nibabel.orientations.axcodes2ornt(code)
    direction = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(ornt):
        direction[int(world), axis] = sign
    affine = np.eye(4)
    affine[:3, :3] = tilt @ direction * spacing
    affine[:3, 3] = LANDMARK + (3, -4, 2) - affine[:3, :3] @ (np.array(shape) / 2)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(apply_affine(affine, grid) - LANDMARK, axis=-1)
    return np.exp(-((distance / 7) ** 2)).astype(np.float32), affine


def centre_of_mass(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weights = np.clip(array - 0.2, 0, None).astype(np.float64)
    grid = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1)
    return apply_affine(affine, (grid * weights[..., None]).sum((0, 1, 2)) / weights.sum())


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("code", "orientation"), [("RAS", "RAS"), ("PSR", "LPS"), ("LIA", "SAR"), ("ASL", "PIR")])
@pytest.mark.parametrize("tilt", [np.eye(3), TILT], ids=["straight", "oblique"])
def test_a_landmark_stays_where_it_is_all_the_way(axis: str, code: str, orientation: str, tilt: np.ndarray):
    array, affine = file_with_landmark(code, tilt)
    size = (32, 64, 96)
    rule = GridRule(size, orientation, axis, None, "resize", False)  # type: ignore[arg-type]
    stored, stored_affine = to_grid(array, affine, rule)
    assert stored.shape == size and nibabel.aff2axcodes(stored_affine) == tuple(stored_code(orientation, rule.axis))
    np.testing.assert_allclose(centre_of_mass(stored, stored_affine), LANDMARK, atol=0.15)
    written, written_affine = to_output_axes(stored, stored_affine, orientation)
    assert nibabel.aff2axcodes(written_affine) == tuple(orientation)
    np.testing.assert_allclose(centre_of_mass(written, written_affine), LANDMARK, atol=0.15)


@pytest.mark.parametrize(
    ("orientation", "axis", "code"),
    [("RAS", "axial", "SAR"), ("RAS", "coronal", "ASR"), ("RAS", "sagittal", "RSA"), ("LPI", "axial", "IPL")],
)
def test_stored_axes(orientation: str, axis: str, code: str):
    assert stored_code(orientation, axis) == code  # type: ignore[arg-type]


def test_output_axes_undo_storing_exactly():
    array, affine = file_with_landmark("RAS", np.eye(3))
    for axis in ("axial", "coronal", "sagittal"):
        size = tuple(array.shape["RAS".index(letter)] for letter in stored_code("RAS", axis))  # type: ignore[arg-type]
        stored, stored_affine = to_grid(array, affine, GridRule(size, "RAS", axis, None, "resize", False))  # type: ignore[arg-type]
        written, written_affine = to_output_axes(stored, stored_affine, "RAS")
        np.testing.assert_array_equal(written, array)
        np.testing.assert_allclose(written_affine, affine, atol=1e-12)


def test_crop_pad_keeps_spacing_and_centre():
    array, affine = file_with_landmark("RAS", np.eye(3))
    for spacing in (None, (2.0, 2.0, 2.0)):
        stored, stored_affine = to_grid(
            array, affine, GridRule((64, 32, 32), "RAS", "axial", spacing, "crop-pad", False)
        )
        np.testing.assert_allclose(spacing_of(stored_affine), spacing or (2.5, 2.1, 1.6))
        middle = apply_affine(affine, (np.array(array.shape) - 1) / 2)
        np.testing.assert_allclose(apply_affine(stored_affine, (31.5, 15.5, 15.5)), middle, atol=1e-9)
        np.testing.assert_allclose(centre_of_mass(stored, stored_affine), LANDMARK, atol=0.2)
    same = to_grid(array, affine, GridRule((64, 32, 32), "RAS", "axial", None, "crop-pad", False))[0]
    np.testing.assert_array_equal(same[13:51, 6:26], np.transpose(array, (2, 1, 0))[:, 12:32, 9:41])
    assert (same[:13] == array.min()).all()


@pytest.mark.parametrize("degrees", [0, 20])
def test_outside_of_a_file_voxels_have_its_smallest_value(degrees):
    hounsfield = np.full((16, 16, 16), 40.0, np.float32)
    hounsfield[4:12] = -1000
    padded, _ = to_grid(hounsfield, np.eye(4), GridRule((32, 32, 32), "RAS", "axial", None, "crop-pad", False))
    assert (padded[:8] == -1000).all() and (padded[:, :, 24:] == -1000).all() and (padded[8:24, 8:24, 8:10] == 40).all()
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    grid = np.eye(4)
    grid[:2, :2] = [[cosine, -sine], [sine, cosine]]
    grid[:3, 3] = (7.5, 7.5, 7.5) - grid[:3, :3] @ np.full(3, 15.5)
    moved = resample_onto(hounsfield, np.eye(4), grid, (32, 32, 32))
    assert moved[0, 0, 0] == moved[15, 15, 5] == moved[31, 31, 31] == -1000 and moved.max() == 40


def test_shrinking_averages_and_keeps_a_constant():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 32)[:, None, None] * np.ones((64, 8, 8), np.float32)
    small, _ = to_grid(stripes, np.eye(4), GridRule((8, 8, 16), "RAS", "axial", None, "resize", False))
    np.testing.assert_allclose(small[..., 1:-1], 0.5, atol=1e-6)  # every fourth voxel alone would be 0 or 1
    flat, _ = to_grid(
        np.full((9, 10, 11), 3, np.float32), np.eye(4), GridRule((32,) * 3, "RAS", "axial", None, "resize", False)
    )
    np.testing.assert_allclose(flat, 3, atol=1e-6)


def test_stretching_repeats_the_outer_voxels_to_the_faces_of_the_file():
    """Of 32 places on an outer voxel of the file, 16 lie beyond its centre, and still inside of the file."""
    array = np.broadcast_to(np.array([5.0, 1, 9], np.float32)[:, None, None], (3, 32, 32))
    made = to_grid(array, np.eye(4), GridRule((32, 32, 96), "RAS", "axial", None, "resize", False))[0][0, 0]
    assert (made[:16] == 5).all() and (made[-16:] == 9).all() and made.min() < 1.1


def test_shrinking_weighs_with_a_triangle_as_wide_as_the_step():
    values = np.random.default_rng(0).random(48)
    array = (values[:, None, None] * np.ones((48, 6, 7))).astype(np.float32)
    small, _ = to_grid(array, np.eye(4), GridRule((7, 6, 12), "RAS", "axial", None, "resize", False))
    weights = np.clip(1 - np.abs(np.arange(48) - (4 * np.arange(12)[:, None] + 1.5)) / 4, 0, None)
    np.testing.assert_allclose(small[3, 3], weights @ values / weights.sum(1), atol=1e-6)


def test_shrinking_to_an_oblique_grid_averages_too():
    """Linear interpolation alone would keep about half of the deviation of white noise."""
    noise = np.random.default_rng(0).standard_normal((48, 48, 48)).astype(np.float32)
    turn = np.eye(4)
    turn[:2, :2] = [[0.9, -(0.19**0.5)], [0.19**0.5, 0.9]]
    grid = turn @ np.diag([3.0, 3.0, 3.0, 1.0])
    grid[:3, 3] = 23.5 - grid[:3, :3] @ np.full(3, 3.5)
    assert resample_onto(noise, np.eye(4), grid, (8, 8, 8)).std() < 0.2


def test_an_oblique_grid_smooths_along_an_axis_as_a_triangle_as_wide_as_the_step_there():
    """The variance of a Gaussian grows along x, y, z by that of the triangle, step^2 / 6: as for parallel axes.

    An axis of the file that runs across several axes of the grid gets the root of the sum of the squares of their
    shares in its step.
    """
    spread, turn = 3.0, 0.5
    distance = np.indices((64, 64, 64)) - 31.5
    blob = np.exp(-(distance**2).sum(0) / (2 * spread**2)).astype(np.float32)
    grid = np.eye(4)
    grid[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    grid = grid @ np.diag([3.0, 1.5, 2.3, 1.0])
    grid[:3, 3] = 31.5 - grid[:3, :3] @ (15.5, 31.5, 15.5)
    made = resample_onto(blob, np.eye(4), grid, (32, 64, 32)).astype(np.float64)
    at = apply_affine(grid, np.moveaxis(np.indices(made.shape), 0, -1)) - 31.5
    variance = (made[..., None] * at**2).sum((0, 1, 2)) / made.sum()
    steps = np.linalg.norm(grid[:3, :3], axis=1)
    np.testing.assert_allclose(variance, spread**2 + steps**2 / 6, atol=0.06)


def test_a_ramp_is_resampled_to_a_ramp():
    ramp = np.arange(48, dtype=np.float32)[:, None, None] * np.ones((48, 6, 7), np.float32)
    affine = np.diag([2.0, 1, 1, 1])
    stored, stored_affine = to_grid(ramp, affine, GridRule((7, 6, 16), "RAS", "axial", None, "resize", False))
    x = apply_affine(stored_affine, np.stack([np.zeros(16), np.zeros(16), np.arange(16)], -1))[:, 0]
    np.testing.assert_allclose(stored[3, 3, 1:-1], x[1:-1] / 2, atol=1e-4)


@pytest.mark.parametrize("air", [0.0, -1000.0])
def test_trim_cuts_what_is_blank_and_keeps_places(air):
    array, affine = np.zeros((60, 50, 40), np.float32), np.diag([1.0, 2.0, 3.0, 1])
    array[20:44, 10:30, 5:33] = 100 + np.random.default_rng(0).random((24, 20, 28))
    array += np.float32(air)
    stored, stored_affine = to_grid(array, affine, GridRule((28, 20, 24), "RAS", "axial", None, "resize", True))
    np.testing.assert_array_equal(stored, array[20:44, 10:30, 5:33].transpose(2, 1, 0))
    np.testing.assert_allclose(apply_affine(stored_affine, (0, 0, 0)), (20, 20, 15))


def test_typical_affine_is_the_affine_of_equal_ones_and_the_middle_of_others():
    array, affine = file_with_landmark("LIA", TILT)
    rule = GridRule((32, 32, 64), "RAS", "axial", None, "resize", False)
    stored_affine = to_grid(array, affine, rule)[1]
    typical = typical_affine(np.array([stored_affine] * 3), rule.size)
    np.testing.assert_allclose(
        apply_affine(typical, (15.5, 15.5, 31.5)), apply_affine(stored_affine, (15.5, 15.5, 31.5))
    )
    np.testing.assert_allclose(spacing_of(typical), spacing_of(stored_affine))
    several = np.array([np.diag([s, s, s, 1.0]) for s in (1.0, 2.0, 9.0)])
    typical = typical_affine(several, (33, 33, 33))
    np.testing.assert_allclose(spacing_of(typical), 2.0)
    np.testing.assert_allclose(apply_affine(typical, (16, 16, 16)), 32.0)  # the median of 16, 32 and 144


def test_orientations_are_checked():
    codes = {"".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)}
    for code in codes:
        check_orientation(code)
    assert len(codes) == 48
    for code in ("RAR", "ras", "RA", "XYZ"):
        with pytest.raises(InputError, match="must be three letters"):
            check_orientation(code)


@pytest.mark.parametrize("degrees", [0, 20])
def test_nearest_voxels_make_no_label_that_was_not_there_and_leave_0_beyond(degrees):
    labels = np.full((16, 14, 12), 3.0, np.float32)
    labels[4:12, 4:10, 3:9] = 7
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(np.radians(degrees)), -np.sin(np.radians(degrees))],
                    [np.sin(np.radians(degrees)), np.cos(np.radians(degrees))]]  # fmt: skip
    grid = turn @ np.diag([1.3, 0.8, 1.7, 1.0])
    grid[:3, 3] = -2.13
    padded, _ = to_grid(labels, np.eye(4), GridRule((32,) * 3, "RAS", "axial", None, "crop-pad", False), labels=True)
    assert np.array_equal(padded[10:22, 9:23, 8:24], labels.transpose(2, 1, 0)) and padded.sum() == labels.sum()
    made = resample_onto(labels, np.eye(4), grid, (16, 24, 12), nearest=True)
    at = np.rint(apply_affine(grid, np.stack(np.indices(made.shape), -1))).astype(int)
    inside = ((at >= 0) & (at < labels.shape)).all(-1)
    expected = np.zeros_like(made)
    expected[inside] = labels[tuple(at[inside].T)]
    assert set(np.unique(made)) == {0.0, 3.0, 7.0}
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("degrees", [0, 20])
def test_voxels_that_are_tiny_by_mistake_take_no_more_than_the_volume_has(degrees):
    array = np.random.default_rng(0).normal(size=(14, 18, 22)).astype(np.float32)
    affine = np.diag([1e-9, 1e-9, 1e-9, 1])
    grid = np.eye(4)
    grid[:2, :2] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()[:2, :2]
    grid[:3, 3] = -grid[:3, :3] @ (4, 4, 4)
    stored = resample_onto(array, affine, grid, (8, 8, 8))
    assert stored[4, 4, 4] == pytest.approx(array.mean(), abs=0.5) and stored[0, 0, 0] == array.min()
    if not degrees:
        assert stored[4, 4, 4] == pytest.approx(array.mean(), abs=1e-6)


@pytest.mark.parametrize("step", [1.0, 2.5, 4.0, 9.9, 10.1, 40.0])
def test_taps_are_those_of_the_triangle_at_every_step(step):
    source, target, first = 20, 3, 0.3
    index, weights, _ = _taps(source, target, first, step)
    dense = np.zeros((target, source))
    np.add.at(dense, (np.arange(target)[:, None], index), weights)
    centre = np.clip(first + step * np.arange(target), 0, source - 1)
    triangle = np.clip(1 - np.abs(centre[:, None] - np.arange(source)) / max(step, 1), 0, None)
    np.testing.assert_allclose(dense, triangle / triangle.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("side", "degrees"), [(32, 0), (16, 0), (24, 0), (32, 17)])
def test_a_coarser_label_map_stays_where_its_image_is(side, degrees):
    at = np.indices((64, 64, 64)) - 31.5
    ball = ((at**2).sum(0) < 20**2).astype(np.float32)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(np.radians(degrees)), -np.sin(np.radians(degrees))],
                    [np.sin(np.radians(degrees)), np.cos(np.radians(degrees))]]  # fmt: skip
    step = 64 / side
    grid = turn @ np.diag([step, step, step, 1])
    grid[:3, 3] = 31.5 - grid[:3, :3] @ np.full(3, (side - 1) / 2)
    made = resample_labels(ball * 3, np.eye(4), grid, (side,) * 3)
    assert set(np.unique(made)) == {0, 3}
    np.testing.assert_allclose(apply_affine(grid, np.argwhere(made > 0)).mean(0), 31.5, atol=0.01)
    assert (made > 0).sum() * step**3 == pytest.approx(ball.sum(), rel=0.05)


def test_the_label_with_the_largest_share_wins_and_labels_beyond_are_0():
    labels = np.zeros((4, 4, 4), np.float32)
    labels[:2, :2, :2] = [[[1, 1], [2, 2]], [[2, 2], [0, 5]]]
    labels[2:, 2:, 2:] = 9
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = 0.5
    made = resample_labels(labels, np.eye(4), grid, (4, 4, 4))
    shares = [resample_onto((labels == v).astype(np.float32), np.eye(4), grid, (4, 4, 4), background=float(v == 0))
              for v in range(10)]  # fmt: skip
    expected = np.argmax(shares, axis=0)
    clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-3
    assert clear.mean() > 0.9 and np.array_equal(made[clear], expected[clear])
    assert made[1, 1, 1] == 9 and (made[2:] == 0).all()
    named, _ = to_grid(labels, np.eye(4), GridRule((2, 2, 2), "RAS", "axial", None, "resize", False), labels=True)
    assert np.array_equal(named, made[:2, :2, :2].transpose(2, 1, 0))
