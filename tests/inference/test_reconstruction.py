"""Errors of reconstructions by their closed forms."""

import numpy as np
import pytest

from hagan3d.inference.reconstruction import Errors


def test_errors_are_in_file_units_and_add_up_over_slabs():
    errors, real = Errors(), np.linspace(-1, 0.5, 6 * 4 * 4, dtype=np.float32).reshape(6, 4, 4)
    errors.add(real[:4], real[:4] + np.float32(0.1))
    errors.add(real[4:], real[4:] - np.float32(0.4))
    found = errors.result(-1000.0, 600.0)
    assert found["mae"] == pytest.approx((0.1 * 4 + 0.4 * 2) / 6 * 800, rel=1e-5)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(4 / ((0.01 * 4 + 0.16 * 2) / 6)), rel=1e-5)
