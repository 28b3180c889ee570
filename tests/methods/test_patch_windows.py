"""Windows along D of the methods without pairs, and of segmentation: what they read, train on and translate."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import cli, translate
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.preprocess.pairing import find_domains
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.inference.windowed_translation import Translator
from hagan3d.methods.registry import make_networks
from tests.helpers import assert_equal
from tests.methods.small import PATCHED, WINDOWED, assert_counts_agree, small_config, train_with_stops

UNPAIRED = ("cyclegan", "unit")


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """Two domains of four smooth random volumes each."""
    folder = tmp_path_factory.mktemp("domains")
    for number, name in enumerate(4 * ["a"] + 4 * ["b"]):
        (folder / name).mkdir(exist_ok=True)
        x = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 3).astype(np.float32)
        nib.save(nib.Nifti1Image(1000 * x, np.diag([2.0, 2.0, 2.0, 1.0])), folder / name / f"scan{number}.nii.gz")
    config = PrepareConfig(size=(32, 32, 32), validation=0.0, workers=1)
    return prepare(find_domains([folder / "a", folder / "b"]), folder / "d.h5", config, progress=False).path


def windowed(method, **settings):
    return small_config(method, window="patch", subvolume_depth=16, **settings)


def test_every_method_but_registration_has_windows():
    assert {*PATCHED} == {*WINDOWED, *UNPAIRED, "segan"}


@pytest.mark.parametrize("kind", ["none", "noise"])
def test_windows_of_both_domains_are_slices_of_their_volumes(kind, domains, small_store):
    path, settings = (domains if kind == "none" else small_store), {"degrade": DegradeConfig(kind=kind, fixed=True)}
    whole, window = (
        PairSource.from_config(Store(path), config.data, batch_size=3, seed=1)
        for config in (small_config("unit", **settings), windowed("unit", **settings))
    )
    for step in range(3):
        one, other = whole.batch(step), window.batch(step)
        assert other.source.shape == other.target.shape == (3, 1, 16, 32, 32)
        for row, start in enumerate(other.start.tolist()):
            assert torch.equal(other.source[row], one.source[row, :, start : start + 16])
            assert torch.equal(other.target[row], one.target[row, :, start : start + 16])
    assert {start for step in range(8) for start in window.batch(step).start.tolist()} == {0, 16}


@pytest.mark.parametrize("method", UNPAIRED)
@pytest.mark.slow
def test_a_run_on_windows_resumes_bit_for_bit_and_translates_whole_volumes(method, domains, tmp_path):
    config = windowed(method, steps=3, norm="rms", degrade=DegradeConfig())
    one, other = train_with_stops(domains, tmp_path, config, [1])
    assert_equal(one.networks, other.networks)
    out = tmp_path / "made"
    line = f"{tmp_path}/straight --input {domains} --out {out} --split train --direction b2a"
    assert cli.run(translate.main, line.split()) == 0
    assert len(list(out.glob("*.nii.gz"))) == 4


@pytest.mark.parametrize("method", [*UNPAIRED, "segan"])
@pytest.mark.slow
def test_memory_of_windows_is_counted(method):
    assert_counts_agree(windowed(method))


def test_label_maps_are_those_of_blended_probabilities():
    config = windowed("segan", norm="rms", levels=1, size=(96, 32, 32))
    torch.manual_seed(0)
    networks = make_networks(config).eval().requires_grad_(False)
    x = torch.rand(1, 96, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, cut = Translator(networks).whole(x).mean, Translator(networks, depth=64, overlap=32).whole(x).mean
    assert set(cut.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert (whole != cut).float().mean() < 1e-3
