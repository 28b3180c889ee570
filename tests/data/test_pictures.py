"""Pictures: turned as a radiologist holds them, in the right proportions, large enough to see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d.data.pictures import (
    PLANES,
    MiddlePlanes,
    Segmented,
    comparison_sheet,
    contact_sheet,
    font,
    is_own_picture,
    label_colour,
    middle_plane,
)

AFFINES = {
    "SAR": np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]]),
    "RPI": np.diag([1.0, -1, -1, 1]),
}


def marked(code: str, letter: str) -> np.ndarray:
    """Return a volume whose half towards `letter` is bright."""
    volume = np.full((16, 16, 16), -1.0, np.float32)
    pair = next(pair for pair in ("RL", "AP", "SI") if letter in pair)
    axis = next(i for i, own in enumerate(code) if own in pair)
    half = slice(8, None) if code[axis] == letter else slice(None, 8)
    np.moveaxis(volume, axis, 0)[half] = 1
    return volume


@pytest.mark.parametrize("code", list(AFFINES))
@pytest.mark.parametrize(("plane", "up", "right"), [("axial", "A", "L"), ("coronal", "S", "L"), ("sagittal", "S", "P")])
def test_planes_are_in_radiological_display(code: str, plane: str, up: str, right: str):
    picture, _ = middle_plane(marked(code, up), AFFINES[code], plane)  # type: ignore[arg-type]
    assert (picture[:8] == 1).all() and (picture[8:] == -1).all()
    picture, _ = middle_plane(marked(code, right), AFFINES[code], plane)  # type: ignore[arg-type]
    assert (picture[:, 8:] == 1).all() and (picture[:, :8] == -1).all()


def test_proportions_follow_the_spacing(tmp_path: Path):
    affine = AFFINES["SAR"] @ np.diag([3.0, 1, 1, 1])
    contact_sheet([np.ones((32, 32, 32), np.float32)], affine, ["a"], tmp_path / "a.png", planes=["coronal"])
    picture = np.array(Image.open(tmp_path / "a.png"))
    rows, columns = np.flatnonzero((picture[:-30] == 255).any(1)), np.flatnonzero((picture == 255).any(0))
    assert abs(len(rows) / len(columns) - 3) < 0.1 and len(rows) >= 128


def test_sheets_take_tensors_long_names_and_odd_numbers(tmp_path: Path):
    volumes = [torch.rand(32, 64, 32) * 2 - 1 for _ in range(3)]
    contact_sheet(volumes, AFFINES["SAR"], ["a", "b" * 300, ""], tmp_path / "deep" / "a.png")
    comparison_sheet({"real": volumes, "generated": volumes[:2]}, AFFINES["SAR"], tmp_path / "b.png")
    for path in (tmp_path / "deep" / "a.png", tmp_path / "b.png"):
        assert Image.open(path).size[0] > 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "deep"]


@pytest.mark.parametrize("code", sorted(AFFINES))
def test_middle_planes_of_slabs_are_those_of_the_volume(tmp_path, code):
    volume = np.random.default_rng(0).random((12, 9, 10), dtype=np.float32) * 2 - 1
    planes = MiddlePlanes(volume.shape, AFFINES[code])
    for first in range(0, 12, 5):
        planes.add(volume[first : first + 5])
    for plane in PLANES:
        (whole, spacing), (kept, same) = (middle_plane(given, AFFINES[code], plane) for given in (volume, planes))
        np.testing.assert_array_equal(kept, whole)
        assert same == spacing
    for name, given in (("whole", volume), ("kept", planes)):
        contact_sheet([given], AFFINES[code], [""], tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "kept").read_bytes()


def test_labels_are_outlined_in_their_colours(tmp_path):
    label_map = np.zeros((16, 16, 16), np.uint8)
    label_map[4:12, 4:12, 4:12] = 2
    x = np.zeros((16, 16, 16), np.float32)
    comparison_sheet({"real": [Segmented(x, label_map)]}, np.diag([1.0, 1, 1, 1]), tmp_path / "a.png")
    comparison_sheet({"real": [x]}, np.diag([1.0, 1, 1, 1]), tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert (one.mode, other.mode) == ("RGB", "L") and one.size == other.size
        colours, grey = np.asarray(one).astype(int), np.asarray(other.convert("RGB")).astype(int)
    changed = (colours != grey).any(axis=2)
    # in each of three planes of 160 pixels, the outline of a square of 80 pixels with rounded corners, one pixel wide
    assert changed.sum() == pytest.approx(3 * 4 * 79, rel=0.06)
    towards = np.array(label_colour(2)) - grey[changed]
    assert np.abs(colours[changed] - grey[changed] - 0.85 * towards).max() <= 1


def test_captions_have_accents_and_greek():
    drawn = [bytes(font(13).getmask(letter)) for letter in ("é", "ü", "ł", "Ω", "\ufffe")]  # the last one is a box
    assert len(set(drawn)) == 5


def test_control_characters_of_a_caption_are_replaced(tmp_path):
    sheet = tmp_path / "a.png"
    contact_sheet([np.zeros((8, 8, 8), np.float32)], np.eye(4)[None], ["x\ny\tz"], sheet)
    assert is_own_picture(sheet) and not is_own_picture(tmp_path / "b.png")
    Image.new("L", (8, 8)).save(sheet)
    assert not is_own_picture(sheet)
