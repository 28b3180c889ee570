"""What all tests share: devices, real volumes, and no skip that goes unseen in CI."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
import torch

NO_GPU = "no GPU"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

hypothesis.settings.register_profile("suite", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
torch.set_num_threads(len(os.sched_getaffinity(0)))


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that this machine has."""
    return torch.device(request.param)


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
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail") and NO_GPU not in report.longreprtext:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext}"
    return report
