"""Translation window by window equals the whole pass where norms allow; files keep geometry, units and bounds."""

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import hagan3d as h3
from hagan3d import cli
from hagan3d import translate as translate_command
from hagan3d.checkpoint import load_translation
from hagan3d.checkpoint.files import Checkpoint, Loaded, path_of, save
from hagan3d.config import DegradeConfig
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.directions import directed
from hagan3d.inference.memory import count_translation, translation_depth
from hagan3d.inference.source_volume import SourceVolume
from hagan3d.inference.translate_files import (
    Uncertainty,
    make_translator,
    maps_of,
    sources_of_store,
    target_intervals,
    write_translations,
)
from hagan3d.inference.windowed_translation import Translator, Windows, blended, seam_ratio
from hagan3d.methods.pix2pix.config import Pix2PixConfig
from hagan3d.methods.registry import make_translation_networks
from hagan3d.methods.upgan.config import UPGANConfig
from hagan3d.methods.upgan.networks import UPGANNetworks
from hagan3d.networks.translation import Translation
from hagan3d.ops.ggd_interval import ggd_central, ggd_half_width
from tests.helpers import make_config

SIZE = (160, 16, 16)


def cascade(norm: str, size=SIZE) -> UPGANNetworks:
    torch.manual_seed(0)
    settings = UPGANConfig(width=4, levels=1, norm=norm, critic_width=4, stages=2)
    networks = UPGANNetworks(size, settings).eval().requires_grad_(False)
    for name, value in networks.named_parameters():
        if "heads" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.2)
    return networks


@pytest.mark.parametrize(("norm", "same"), [("rms", True), ("instance", False)])
def test_windows_equal_the_whole_volume_with_norms_per_voxel(norm, same):
    source = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    networks = cascade(norm)
    whole = networks.translate(source[None])
    result = Translator(networks, depth=96, overlap=64).whole(source)
    for name in ("mean", "alpha", "beta", "sigma"):
        error = float((getattr(result, name) - getattr(whole, name)).abs().max())
        assert (error < 1e-5) == same, (name, error)
    one = Translator(networks).whole(source)
    assert torch.equal(one.mean, whole.mean) and torch.equal(one.sigma, whole.sigma)


def test_statistics_are_those_of_the_whole_volume():
    source = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    source[:, 80:] *= 0.1  # a window alone would have another mean sigma
    networks = cascade("rms")
    result = Translator(networks, depth=64, overlap=32)._statistics(lambda a, b: source[:, a:b], SIZE[0])
    expected = networks.statistic_map(source[None], []).mean()
    torch.testing.assert_close(result[0][0], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("length", "depth", "overlap"), [(160, 64, 32), (96, 64, 32), (128, 64, 0), (64, 96, 32), (192, 128, 96)]
)
def test_blending_equal_windows_gives_the_volume(length, depth, overlap):
    volume = torch.rand(2, length, 3, 3)
    slabs = list(blended(Windows(length, depth, overlap), lambda first, stop: volume[:, first:stop].clone()))
    torch.testing.assert_close(torch.cat(slabs, 1), volume)
    assert all(len(slab) for slab in slabs)


def test_windows_are_blended_linearly():
    """Windows of zeros and of ones give a ramp, and slices next to the border of a window have no weight."""
    windows = Windows(96, 64, 32)
    result = torch.cat(
        list(blended(windows, lambda first, stop: torch.full((1, stop - first, 1, 1), float(first > 0)))), 1
    )
    result = result.flatten()
    assert result[: 32 + 8].eq(0).all() and result[64 - 8 :].eq(1).all()
    torch.testing.assert_close(result[40:56], (torch.arange(16) + 0.5) / 16)
    assert windows.borders == [48]


def test_memory_does_not_grow_with_the_length():
    alive, most = [], 0

    def compute(first: int, stop: int) -> torch.Tensor:
        nonlocal most
        alive.append(stop - first)
        most = max(most, stop - first)
        return torch.zeros(1, stop - first, 1, 1)

    for _ in blended(Windows(32 * 40, 64, 32), compute):
        pass
    assert most == 64 and len(alive) == 39


def test_invalid_windows_are_refused():
    for depth, overlap in ((48, 32), (64, 16), (64, 64)):
        with pytest.raises(InputError, match="want multiples of 32"):
            Windows(160, depth, overlap)


def test_a_seam_raises_the_seam_ratio():
    volume = np.random.default_rng(0).random((64, 8, 8))
    assert seam_ratio(volume, [32]) == pytest.approx(1, abs=0.2)
    volume[32:] += 2
    assert seam_ratio(volume, [32]) > 4 and seam_ratio(volume, []) is None
    assert seam_ratio(np.zeros((64, 8, 8)), [32]) is None


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7, 2.0, 6.0])
def test_intervals_are_those_of_scipy(beta):
    error = torch.linspace(-3, 3, 31, dtype=torch.float64)
    shape, scale = torch.full_like(error, beta), torch.full_like(error, 0.7)
    expected = 2 * np.abs(scipy.stats.gennorm(beta, scale=0.7).cdf(error) - 0.5)
    np.testing.assert_allclose(ggd_central(error, scale, shape), expected, atol=1e-9)
    for level in (0.5, 0.9, 0.95):
        half = scipy.stats.gennorm(beta).ppf((1 + level) / 2)
        np.testing.assert_allclose(ggd_half_width(shape, level), half, rtol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_store):
    """A run of an untrained cascade on simulated sources."""
    folder = tmp_path_factory.mktemp("translating")
    settings = {"degrade": DegradeConfig(kind="thick-slices"), "ema": 0.0}
    config = make_config("upgan", width=4, levels=1, norm="rms", critic_width=4, residual=True, **settings)
    torch.manual_seed(0)
    networks = make_translation_networks(config)
    states = {name: networks[name].state_dict() for name in networks.names()}
    save(Checkpoint(config, Store(small_store).description(), 7, states), path_of(folder, 7))
    return folder


def test_files_are_written_on_their_grid_in_target_units(run, tmp_path):
    rng = np.random.default_rng(3)
    array = (gaussian_filter(rng.random((40, 36, 30)), 3) * 9000 - 4700).astype(np.int16)
    affine = np.array([[0, -1.5, 0, 10], [1.2, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "in" / "scan.nii.gz")
    words = [str(run), "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.run(translate_command.main, words) == 0
    result = {path.name: nibabel.load(path) for path in (tmp_path / "out").glob("*.nii.gz")}
    assert sorted(result) == [f"scan{end}.nii.gz" for end in ("", "_lower", "_sigma", "_upper")]
    for image in result.values():
        assert image.shape == array.shape
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    mean, lower, upper, sigma = (result[f"scan{end}.nii.gz"].get_fdata() for end in ("", "_lower", "_upper", "_sigma"))
    assert (lower < mean).all() and (mean < upper).all() and (sigma > 0).all()
    model = load_translation(run)
    assert (
        -1024 <= array.min() - 60 < mean.min() < mean.max() < array.max() + 60
    )  # an untrained residual network gives back what it got, in HU
    assert np.corrcoef(mean.ravel(), array.ravel())[0, 1] > 0.99
    assert model.description.channels[0].units == "HU"
    assert cli.run(translate_command.main, words) == 2  # they are there


@pytest.mark.parametrize("channel", [0, 1])
def test_uncertainty_is_written_in_the_units_and_with_the_scale_of_its_channel(channel):
    beta, alpha, interval, scale = (
        (1.0, 3.0)[channel],
        0.1,
        ((-1000.0, 600.0), (0.0, 50.0))[channel],
        (2.0, 0.5)[channel],
    )
    maps = [torch.full((1, 2, 2, 2, 2), value) for value in (0.25, alpha, beta, 0.4, 0.3)]
    made = Translation(*maps)
    half, density = (interval[1] - interval[0]) / 2, scipy.stats.gennorm(beta, scale=alpha)
    found = maps_of(made, channel, interval, Uncertainty(level=0.8, scales=(2.0, 0.5)))
    mean, reach = 0.25 * half + sum(interval) / 2, density.ppf(0.9) * scale * half
    expected = {"": mean, "_lower": mean - reach, "_upper": mean + reach}
    expected |= {"_sigma": 0.4 * scale * half, "_epistemic": 0.3 * scale * half}
    assert found.keys() == expected.keys()
    for suffix, value in expected.items():
        np.testing.assert_allclose(found[suffix], np.full((2, 2, 2), value), rtol=1e-4, err_msg=suffix)
    assert maps_of(Translation(maps[0]), channel, interval, Uncertainty()).keys() == {""}


def test_a_store_is_translated_with_a_calibrated_scale(run, small_store, tmp_path):
    words = [str(run), "--input", str(small_store), "--device", "cpu", "--format", "nii", "--simulate"]
    (tmp_path / "metrics.json").write_text(json.dumps({"calibration": {"scale": 2.0}}))
    for name, more in (("plain", []), ("scaled", ["--calibration", str(tmp_path / "metrics.json")])):
        assert cli.run(translate_command.main, [*words, "--out", str(tmp_path / name), *more]) == 0
    store = Store(small_store)
    for i, name in enumerate(store.ids):
        image = nibabel.load(tmp_path / "plain" / f"{name}.nii")
        np.testing.assert_allclose(np.sort(np.abs(np.diag(image.affine)[:3])), [2, 2, 2], atol=1e-5)
        assert image.shape == store.size and nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        sigma, twice = (nibabel.load(tmp_path / run / f"{name}_sigma.nii").get_fdata() for run in ("plain", "scaled"))
        np.testing.assert_allclose(twice, 2 * sigma, rtol=1e-5)
        assert i < 8


def test_input_in_other_units_is_refused(run, tmp_path, capsys):
    suv = np.random.default_rng(0).random((34, 34, 34)).astype(np.float32) * 20
    nibabel.save(nibabel.Nifti1Image(suv, np.eye(4)), tmp_path / "pet.nii.gz")
    words = [str(run), "--input", str(tmp_path / "pet.nii.gz"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.run(translate_command.main, words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "its values run from 0.19952 to 19.8058, but the model was trained on -1024 to 600 HU" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_checkpoint_is_refused(small_store, tmp_path, run, capsys):
    assert (
        cli.run(translate_command.main, [str(tmp_path), "--input", str(small_store), "--out", str(tmp_path / "o")]) == 2
    )
    assert "no checkpoint" in capsys.readouterr().err
    assert target_intervals(load_translation(run).description, [(-5.0, 5.0)]) == [(-1024.0, 600.0)]  # a window's own


def test_a_volume_that_has_no_such_windows_is_translated_at_once(run):
    model = load_translation(run)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, method=Pix2PixConfig(levels=7)))
    assert model.description.size[0] % 128 and make_translator(model, None, 32).depth == 0  # all slices at once


def test_a_network_that_sees_whole_volumes_is_counted_on_whole_volumes(monkeypatch, run):
    model, asked = load_translation(run), []
    model.networks.needs_whole_volume = True

    def translation_depth(config, overlap, budget, device, only_whole, size, *_):
        asked.append(only_whole)
        return size[0]

    monkeypatch.setattr("hagan3d.inference.translate_files.translation_depth", translation_depth)
    make_translator(model, None, 32, 10**9)
    assert asked == [True]


def scan(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    array = gaussian_filter(np.random.default_rng(seed).random((36, 34, 32)), 3) * 9000 - 4700
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2, 2, 1])), path)
    return path


def test_volumes_of_others_are_never_replaced_by_translations(run, tmp_path, capsys):
    scan(tmp_path / "pet/p1.nii.gz", 1)
    (tmp_path / "pet/p2.nii.gz.part").write_bytes(b"")
    real = scan(tmp_path / "ct/p1.nii.gz", 2)
    before = real.read_bytes()
    words = [str(run), "--input", str(tmp_path / "pet"), "--out", str(tmp_path / "ct"), "--device", "cpu", "--force"]
    assert cli.run(translate_command.main, words) == 2
    assert "holds volumes that are no translations (p1.nii.gz)" in capsys.readouterr().err
    model = h3.Model.load(run, device="cpu")
    for folder, source in (("ct", "pet"), ("pet", "pet")):
        with pytest.raises(InputError, match="use another --out"):
            model.translate(tmp_path / source, tmp_path / folder)
    assert real.read_bytes() == before
    (tmp_path / "ct/.unfinished").write_text("")  # of the same command, killed
    assert cli.run(translate_command.main, words) == 0
    assert "1 file is not read: p2.nii.gz.part" in capsys.readouterr().err
    assert real.read_bytes() != before and not (tmp_path / "ct/.unfinished").exists()
    Image.new("L", (4, 4)).save(tmp_path / "ct/translations.png")
    assert cli.run(translate_command.main, words) == 2
    assert "translations.png: was not written here, and would be replaced" in capsys.readouterr().err


def test_two_volumes_of_one_name_are_refused(run, tmp_path, capsys):
    scan(tmp_path / "in/p1.nii.gz", 1)
    scan(tmp_path / "in/p1_sigma.nii.gz", 2)
    words = [str(run), "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.run(translate_command.main, words) == 2
    assert "p1_sigma.nii.gz: would be written for two volumes" in capsys.readouterr().err


@pytest.mark.slow
def test_counted_memory_grows_with_the_window_and_determines_it():
    config = make_config("upgan", size=(256, 64, 64), width=8, levels=2, critic_width=4, stages=2)
    thin, thick = (count_translation(config, depth) for depth in (64, 128))
    assert 1.6 < thick / thin < 2.1
    held = 10 * 4 * 256 * 64 * 64
    assert translation_depth(config, 32, held + thick) == 128
    assert translation_depth(config, 32, held + thick - 1) == 96
    assert translation_depth(config, 32, 10**12) == 256
    with pytest.raises(InputError, match="the minimum with an overlap of 32 slices is"):
        translation_depth(config, 32, held)


def test_pet_becomes_hounsfield_units_on_the_grid_of_the_pet(test_data, tmp_path):
    """From DICOM to NIfTI by an untrained network: units and geometry, nothing about likeness."""
    folder = test_data / "petctmr_sarcoma"
    (tmp_path / "p.csv").write_text(f"id,source,target\nsts,{folder}/STS_002_PET_dicom,{folder}/STS_002_CT_dicom")
    settings = PrepareConfig(size=(32, 32, 32), intensity="window", window=(-1000.0, 1000.0), validation=0.0, workers=1)
    suv = DomainConfig(intensity="window", window=(0.0, 22.0), units="SUV")
    result = prepare(find_pairs([tmp_path / "p.csv"]), tmp_path / "s.h5", settings, progress=False, sources_as=suv)
    config = make_config("pix2pix", width=4, levels=2, critic_width=4)
    networks = make_translation_networks(config)
    states = {name: networks[name].state_dict() for name in networks.names()}
    run = tmp_path / "run"
    save(Checkpoint(config, Store(result.path).description(), 1, states), path_of(run, 1))
    words = [str(run), "--device", "cpu", "--out", str(tmp_path / "out"), "--input"]
    assert cli.run(translate_command.main, [*words, str(folder / "STS_002_PET_dicom")]) == 0
    image = nibabel.load(tmp_path / "out" / "STS_002_PET_dicom.nii.gz")
    pet = nibabel.load(folder / "STS_002_PET_image.nii.gz")
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), [5.46875, 5.46875, 3.27], rtol=1e-4)
    assert image.shape == pet.shape
    assert -1000 <= image.get_fdata().min() < image.get_fdata().max() <= 1000
    assert image.get_fdata().mean() == pytest.approx(0, abs=500)  # the middle of the CT window, not of SUV
    assert cli.run(translate_command.main, [*words, str(folder / "STS_002_CT_dicom"), "--force"]) == 2


@pytest.mark.parametrize("direction", ["a2b", "b2a", "cycle", "reconstruct"])
def test_a_store_of_pairs_gives_the_units_of_where_a_direction_ends(direction, tmp_path):
    for name, low, high in (("mr", 10, 80), ("ct", 5000, 8000)):
        for number in range(4):
            x = np.random.default_rng(number).uniform(low + number, high, (32, 32, 32)).astype(np.float32)
            (tmp_path / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(x, np.eye(4)), tmp_path / name / f"p{number}.nii.gz")
    settings = PrepareConfig(size=(32, 32, 32), validation=0.0, workers=1)
    made = prepare(find_pairs([tmp_path / "mr", tmp_path / "ct"]), tmp_path / "s.h5", settings, progress=False)
    store = Store(made.path)
    config = make_config("unit", paired=False, width=4, critic_width=4)
    networks = make_translation_networks(config)
    model = Loaded(networks, config, store.description(), 1, tmp_path / "run/checkpoints/step-00000001.pt")
    _, sources = sources_of_store(made.path, directed(model, direction), "train", False)
    ends = store.intervals if direction == "a2b" else store.source_intervals
    own = store.intervals if direction == "b2a" else store.source_intervals
    assert [source.intervals for source in sources] == [[tuple(ends[i, 0])] for i in range(4)]
    assert (ends[:, 0, 1] > 1000).all() == (direction == "a2b") and len({*own[:, 0, 0]}) == 4


def test_outside_the_grid_of_the_model_sigma_is_not_small(tmp_path):
    made = Translation(torch.zeros(1, 1, 8, 8, 8) - 0.2, *(torch.rand(1, 1, 8, 8, 8) + 0.5 for _ in range(2)))
    made = dataclasses.replace(made, sigma=torch.rand(1, 1, 8, 8, 8) + 0.1)

    class Same:
        """A translator with one answer."""

        def whole(self, _):
            return made

        def windows(self, length):
            return Windows(length, 32, 0)

    channel = Channel("ct", "window", 0, 1000)
    description = DataDescription((8, 8, 8), "RAS", "axial", tuple(map(tuple, np.eye(4).tolist())), (channel,))
    home = np.eye(4)
    home[:3, 3] = -2  # the file goes on by two voxels on each side
    model = Loaded(None, None, description, 1, tmp_path)
    source = SourceVolume("p", torch.zeros(1, 8, 8, 8), np.eye(4), [(0.0, 1000.0)], ((12, 12, 12), home))
    write_translations(model, Same(), [source], tmp_path)
    maps = {name: nibabel.load(tmp_path / f"p{name}.nii.gz").get_fdata() for name in ("", "_sigma", "_lower")}
    inside = np.zeros((12, 12, 12), bool)
    inside[2:-2, 2:-2, 2:-2] = True
    np.testing.assert_allclose(maps[""][inside], 400, rtol=1e-5)
    assert (maps[""][~inside] == 0).all() and (maps["_lower"][~inside] == 0).all()
    np.testing.assert_allclose(maps["_sigma"][~inside], float(made.sigma.max()) * 500, rtol=1e-5)
