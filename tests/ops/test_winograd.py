"""Where the Winograd up-convolution is used, and the switch that turns it off."""

import os
import subprocess
import sys

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.ops import conv3d, upsample_conv3d
from hagan3d.ops.winograd import dispatch
from hagan3d.ops.winograd.dispatch import has_winograd, is_on, use_winograd
from hagan3d.ops.winograd.taps import fold_taps, unfold_taps


@pytest.fixture
def built():
    if not has_winograd(torch.empty(0)):
        pytest.skip("the compiled operators were not built, or Winograd is switched off")


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "enabled"), [("0", "False"), ("1", "True")])
def test_the_environment_variable_is_read_at_import(setting, enabled):
    code = "import torch; from hagan3d.ops.winograd import dispatch; print(dispatch.ENABLED)"
    environment = {**os.environ, dispatch.SWITCH: setting}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == enabled


def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match=r"HAGAN3D_WINOGRAD: must be one of 0, 1, got 'off'"):
        is_on("off")


def test_switched_off_no_winograd_operator_runs(built, monkeypatch):
    x, weight = torch.randn(1, 64, 8, 32, 32), torch.randn(32, 64, 3, 3, 3)

    def operators():
        with torch.profiler.profile() as profile:
            conv3d(x, weight, padding=(1, 1, 1))
            upsample_conv3d(x, weight, None)
        return {event.key for event in profile.key_averages() if "winograd" in event.key}

    assert operators() == {"hagan3d::winograd_upsample"}
    monkeypatch.setattr(dispatch, "ENABLED", False)
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


@pytest.mark.parametrize("channels", [(1, 1), (5, 13), (32, 32)])
def test_taps_are_folded_and_unfolded(channels):
    torch.manual_seed(0)
    weight, taps = torch.randn(*channels, 3, 3, 3), torch.randn(9, 27)
    folded = fold_taps(weight, taps)
    expected = torch.einsum("oit,pt->poi", weight.flatten(2), taps).flatten(0, 1)
    torch.testing.assert_close(folded, expected)
    unfolded = torch.einsum("poi,pt->oit", expected.unflatten(0, (9, -1)), taps)
    torch.testing.assert_close(unfold_taps(expected, taps), unfolded.unflatten(2, (3, 3, 3)), rtol=1e-5, atol=1e-4)


def test_a_bias_may_have_any_stride_and_types_are_never_mixed():
    x, weight = torch.randn(1, 4, 4, 4, 4), torch.randn(3, 4, 3, 3, 3)
    bias = torch.randn(6)[::2]
    found, expected = (upsample_conv3d(x, weight, bias, method=method) for method in ("winograd", "plain"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for wrong in ((weight.double(), bias), (weight, bias.double())):
        with pytest.raises(RuntimeError):
            upsample_conv3d(x, *wrong, method="winograd")
