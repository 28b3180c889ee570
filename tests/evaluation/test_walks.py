"""Walks: the verdict is that of the numbers, and pictures show what was measured where it is."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hagan3d.evaluation.exploration.strips import RED, Tile, planes_of, regions_of, write_gif, write_strip
from hagan3d.evaluation.exploration.walks import WalkFrame, score_walks
from hagan3d.evaluation.progress import no_progress
from hagan3d.evaluation.settings import ExploreConfig


def frames(measured):
    """Walks from two starts, with what was intended 0, 1, 2, ..."""
    return [
        WalkFrame(name, step, float(step), float(step), value, "")
        for name, row in zip("ab", measured, strict=True)
        for step, value in enumerate(row)
    ]


def test_a_walk_that_does_as_intended_is_perfect():
    found = score_walks(frames([[5.0, 7.0, 9.0], [5.0, 7.0, 9.0]]))
    assert found.correlation.value == pytest.approx(1) and found.monotone == 1 and found.slope == pytest.approx(2)


def test_one_step_back_is_not_monotone():
    found = score_walks(frames([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 3.0]]))
    assert found.monotone == 0.5 and found.correlation.value == pytest.approx(0.9)


def test_what_stands_still_does_not_follow():
    found = score_walks(frames([[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]))
    assert (found.correlation.value, found.monotone, found.slope) == (0, 0, 0)
    with pytest.raises(ValueError, match="measured"):
        score_walks([WalkFrame("a", 0, 0.0, None, 1.0, "")])


def test_what_was_counted_is_red_and_the_rest_is_grey():
    """The mask is the half of the patient's right: the left half of a radiologist's picture."""
    mask = np.zeros((16, 16, 16), bool)
    mask[:, :, :8] = True  # W grows to the left, as the affine says
    affine = np.array([[0, 0, -2.0, 0], [0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    picture = np.asarray(planes_of(np.zeros((16, 16, 16), np.float32), affine, regions_of(mask))).astype(int)
    colourful = picture[..., 0] - picture[..., 2] > 20
    middle = picture.shape[1] // 2
    assert colourful[:, : middle - 2].mean() > 0.9 and not colourful[:, middle + 2 :].any()
    assert picture[..., 0].max() <= RED[0]


def test_strip_and_moving_picture_hold_every_step(tmp_path):
    tiles = [Tile(Image.new("RGB", (40, 30 + step), (step * 60, 0, 0)), (f"step {step}",)) for step in range(4)]
    write_strip([("a", tiles), ("b", tiles)], "title", tmp_path / "strip.png")
    write_gif([("a", tiles), ("b", tiles)], "title", tmp_path / "walk.gif")
    assert Image.open(tmp_path / "strip.png").width >= 4 * 40
    with Image.open(tmp_path / "walk.gif") as moving:
        assert moving.n_frames == 6  # 0 1 2 3 2 1


@pytest.mark.parametrize(("training", "used", "held_out"), [(20, 20, 0), (19, 60, 41)])
def test_a_direction_is_fitted_on_held_out_volumes_only_if_the_others_are_too_few(
    training, used, held_out, monkeypatch
):
    from hagan3d.evaluation.exploration import exploration
    from hagan3d.evaluation.exploration.attributes import Attribute
    from hagan3d.evaluation.exploration.measurement import Measurement

    encoded = {f"v{i}": (None, np.full(4, i)) for i in range(60)}
    monkeypatch.setattr(exploration, "encode_volumes", lambda *_: encoded)
    store = SimpleNamespace(
        splits=["train"] * training + ["test"] * (60 - training),
        ids=list(encoded),
        subjects=list(encoded),
    )
    attribute = Attribute("age", np.arange(60.0), np.arange(60), "table.csv")
    config = ExploreConfig(source="encoded")
    found = exploration._population(None, store, Measurement(attribute, None), config, no_progress)
    assert (len(found.y), len(found.z), found.held_out) == (used, used, held_out)
