"""Where Winograd convolutions are used, and the switch that turns them off."""

import os
import subprocess
import sys

import pytest
import torch

from hagan3d.ops import conv3d, has_winograd, upsample_conv3d
from hagan3d.ops.winograd import dispatch
from hagan3d.ops.winograd.dispatch import CONV, UPSAMPLE, enabled_parts, use_winograd


@pytest.fixture
def built():
    if not has_winograd(torch.empty(0)):
        pytest.skip("the compiled operators were not built, or Winograd is switched off")


@pytest.mark.parametrize(("setting", "parts"), [("0", set()), ("1", {CONV, UPSAMPLE}), (CONV, {CONV})])
def test_a_setting_selects_parts(setting, parts):
    assert enabled_parts(setting) == parts


def test_the_environment_variable_is_read_at_import():
    code = "import torch; from hagan3d.ops.winograd import dispatch; print(*sorted(dispatch.ENABLED))"
    environment = {**os.environ, dispatch.SWITCH: CONV}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [CONV]


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match=r"HAGAN3D_WINOGRAD: must be one of 0, 1, conv, upsample, got 'off'"):
        enabled_parts("off")


def test_switched_off_no_winograd_operator_runs(built, monkeypatch):
    x, weight = torch.randn(1, 64, 8, 32, 32), torch.randn(32, 64, 3, 3, 3)

    def operators():
        with torch.profiler.profile() as profile:
            conv3d(x, weight, padding=(1, 1, 1))
            upsample_conv3d(x, weight, None)
        return {event.key for event in profile.key_averages() if "winograd" in event.key}

    assert operators() == {"hagan3d::winograd_conv", "hagan3d::winograd_upsample"}
    monkeypatch.setattr(dispatch, "ENABLED", frozenset())
    assert operators() == set()


def test_large_volumes_are_computed_alike_for_any_number_of_slices(built):
    weight = torch.empty(32, 64, 3, 3, 3)
    for depth in (3, 16, 64):
        assert use_winograd(torch.empty(1, 64, depth, 64, 64), weight)


def test_only_float32_and_float64_without_autocast_have_kernels(built):
    assert has_winograd(torch.empty(1)) and has_winograd(torch.empty(1, dtype=torch.float64))
    assert not has_winograd(torch.empty(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_winograd(torch.empty(1))
