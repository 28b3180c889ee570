"""`benchmarks/figures.py` draws its pictures from runs and stores."""

import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import figures
from hagan3d.errors import InputError


def draw(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, words)])
    return figures.main()


@pytest.mark.slow
def test_crops_and_a_walk_of_a_generating_run(phantom_run, phantom_store, tmp_path, monkeypatch):
    draw(monkeypatch, "crops", phantom_run, "--store", phantom_store, "--num", 2, "--out", tmp_path / "crops.png")
    assert Image.open(tmp_path / "crops.png").width > 2 * 150
    draw(monkeypatch, "walk", phantom_run, "--frames", 4, "--out", tmp_path / "walk.gif")
    assert Image.open(tmp_path / "walk.gif").n_frames > 1


@pytest.mark.slow
def test_a_curve_shows_logged_terms_alone(phantom_run, tmp_path, monkeypatch):
    draw(monkeypatch, "curve", phantom_run, "--terms", "g/gan", "--out", tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").width == 770
    with pytest.raises(InputError, match="logs no term g/nothing"):
        draw(monkeypatch, "curve", phantom_run, "--terms", "g/nothing", "--out", tmp_path / "curve.png")


def test_a_walk_is_closed_and_keeps_its_length():
    stops = [np.array([3.0, 0.0]), np.array([0.0, 3.0]), np.array([-3.0, 0.1])]
    z = figures.closed_walk(stops, 30)
    np.testing.assert_allclose(z[[0, 10, 20]], stops, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 3, rtol=1e-3)
    assert np.linalg.norm(z[29] - z[0]) < 1.2  # one step from the start


def test_a_large_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "crops", lambda a: a.out.write_bytes(bytes(figures.LIMIT + 1)))
    with pytest.raises(InputError, match="more than 300000"):
        draw(monkeypatch, "crops", "run", "--store", "s.h5", "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
    (tmp_path / "x.png").write_bytes(b"before")
    with pytest.raises(InputError, match="more than 300000"):
        draw(monkeypatch, "crops", "run", "--store", "s.h5", "--out", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"before"


@pytest.mark.parametrize("seeds", [[5], [1, 2, 1]])
def test_a_walk_needs_different_seeds(seeds, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="a walk needs two or more different seeds"):
        draw(monkeypatch, "walk", "run", "--seeds", *seeds, "--out", tmp_path / "x.gif")
