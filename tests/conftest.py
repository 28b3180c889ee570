"""What all tests share: devices, real volumes, and no skip that goes unseen in CI."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import hypothesis
import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import train
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.ops.device import set_tf32
from hagan3d.ops.extension import has_kernels

NO_GPU = "no GPU"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

hypothesis.settings.register_profile("suite", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
set_tf32(False)  # tolerances are those of float32
# Processes that test side by side share the cores.
torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that this machine has."""
    return torch.device(request.param)


@pytest.fixture
def kernels(device: torch.device) -> None:
    """Skip where the device of a test has no compiled operators."""
    if not has_kernels(torch.empty(0, device=device)):
        pytest.skip("the compiled operators were not built")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real volumes: $HAGAN3D_TEST_DATA, else ``shared/data`` beside the repository."""
    folder = Path(os.environ.get("HAGAN3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real volumes at {folder}; set HAGAN3D_TEST_DATA")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI, unless what is missing is a GPU."""
    return _without_unseen_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a module that skips itself."""
    return _without_unseen_skip((yield))


def _without_unseen_skip(report: Report) -> Report:
    if (
        os.environ.get("CI")
        and report.skipped
        and not hasattr(report, "wasxfail")
        and NO_GPU not in report.longreprtext
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext}"
    return report


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `make_small_store`."""
    return make_small_store(tmp_path_factory.mktemp("small_store"))


def make_small_store(folder: Path) -> Path:
    """Make a store of eight smooth random volumes of 32^3 voxels in two classes, 2 mm a voxel, in HU."""
    rows = ["id,class,age"]
    for number in range(8):
        random = np.random.default_rng(number)
        volume = gaussian_filter(random.standard_normal((32, 32, 32)), 3) * 4000 - 300 * (number % 2)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = (-31, -40, 100)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), affine), folder / f"scan{number}.nii.gz")
        rows.append(f"scan{number},{'ab'[number % 2]},{40 + number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = PrepareConfig(
        size=(32, 32, 32), intensity="window", labels=str(folder / "labels.csv"), validation=0.0, workers=1
    )
    prepare([folder], folder / "small.h5", settings, progress=False)
    return folder / "small.h5"


@pytest.fixture(scope="session")
def phantom_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 28 phantoms of 32^3 voxels with their attributes, some held out; their label maps are in labels/."""
    folder = write_phantoms(tmp_path_factory.mktemp("phantom_store"), 28, (32, 32, 32))
    settings = PrepareConfig(
        size=(32, 32, 32),
        intensity="window",
        window=(-1024, 600),
        labels=str(folder / "attributes.csv"),
        validation=0.25,
        workers=1,
    )
    prepare([folder / "volumes"], folder / "phantoms.h5", settings, progress=False)
    return folder / "phantoms.h5"


@pytest.fixture(scope="session")
def phantom_run(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of those phantoms, tiny and after two steps."""
    out = tmp_path_factory.mktemp("phantom_run")
    sizes = "--hagan.latent_dim 8 --hagan.channels 64 --hagan.d_channels 64 --data.subvolume_depth 8"
    length = "--hagan.minibatch_std 2 --train.batch_size 2 --train.steps 2 --train.device cpu --log.preview_every 0"
    where = f"--config hagan_32 --data.store {phantom_store} --out {out}"
    train.main(f"{where} {sizes} {length}".split())
    return out
