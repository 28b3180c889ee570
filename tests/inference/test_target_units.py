"""The units of a translation: those of targets, or of each source whose volume is its own target."""

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d import cli
from hagan3d import prepare as prepare_command
from hagan3d import translate as translate_command
from hagan3d.checkpoint.files import Checkpoint, path_of, save
from hagan3d.config import DegradeConfig
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.case_files import check_units
from hagan3d.inference.translate_files import target_intervals
from hagan3d.methods.registry import make_translation_networks
from tests.helpers import make_config


def test_a_translation_has_the_units_of_targets_where_these_have_their_own():
    affine = tuple(map(tuple, np.eye(4).tolist()))
    mr, ct = (Channel(name, kind, lo, hi) for name, kind, lo, hi in (("mr", "z-score", 0, 9), ("ct", "window", -5, 5)))
    own = [(100.0, 300.0)]  # of the source

    def intervals(target, *sources):
        description = DataDescription((32, 32, 32), "RAS", "axial", affine, (target,), source_channels=sources)
        return target_intervals(description, own)

    assert intervals(mr) == own  # a simulated source is a target, whose interval is that of each volume
    two = DataDescription((32, 32, 32), "RAS", "axial", affine, (ct, mr))
    assert target_intervals(two, [(-5.0, 5.0), (1.0, 2.0)]) == [(-5, 5), (1.0, 2.0)]  # of each channel its own kind
    assert intervals(mr, ct) == [(0, 9)] and intervals(ct) == intervals(ct, mr) == [(-5, 5)]


def test_a_volume_in_other_units_is_told_from_ct_beyond_a_narrow_window():
    check_units(np.linspace(-1000, 400, 100), -1024, 600, "HU", "ct")
    for window in ((-160, 240), (0, 80)):  # narrow windows of CT, whose volumes hold air and bone as well
        check_units(np.linspace(-1000, 600, 100), *window, "HU", "ct")
        with pytest.raises(InputError, match="HU; give a volume in those units"):
            check_units(np.linspace(0, 1500, 100), *window, "HU", "mr")
    with pytest.raises(InputError, match="SUV; give a volume in those units"):
        check_units(np.linspace(-1000, 400, 100), 0, 20, "SUV", "ct")


def test_outside_the_grid_of_the_model_anything_is_possible(tmp_path):
    for number in range(3):
        array = gaussian_filter(np.random.default_rng(number).random((40, 40, 40)), 3) * 9000 - 4700
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), tmp_path / f"scan{number}.nii.gz")
    words = ["--input", str(tmp_path), "--output", str(tmp_path / "s.h5"), "--size", "32", "32", "32"]
    words += ["--spacing", "1", "1", "1", "--intensity", "window", "--window", "-1000", "600"]
    assert cli.run(prepare_command.main, words) == 0
    config = make_config("upgan", width=4, levels=1, norm="rms", critic_width=4, degrade=DegradeConfig(kind="motion"))
    networks = make_translation_networks(config)
    states = {name: networks[name].state_dict() for name in networks.names()}
    save(Checkpoint(config, Store(tmp_path / "s.h5").description(), 1, states), path_of(tmp_path / "run", 1))
    words = [str(tmp_path / "run"), "--input", str(tmp_path / "scan0.nii.gz"), "--out", str(tmp_path / "out")]
    assert cli.run(translate_command.main, [*words, "--device", "cpu"]) == 0
    mean, lower, upper, sigma = (
        nibabel.load(tmp_path / "out" / f"scan0{end}.nii.gz").get_fdata() for end in ("", "_lower", "_upper", "_sigma")
    )
    corner = (slice(0, 3),) * 3
    assert (mean[corner] == -1000).all() and (lower[corner] == -1000).all() and (upper[corner] == 600).all()
    assert sigma[corner] == pytest.approx(sigma.max())
