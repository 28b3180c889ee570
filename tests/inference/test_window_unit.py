"""Windows of a translation consist of multiples of what its network halves."""

import pytest

from hagan3d.errors import InputError
from hagan3d.inference.windowed_translation import Windows, window_unit
from hagan3d.methods.pix2pix.config import Pix2PixConfig


def test_windows_are_halved_as_often_as_the_volume():
    assert [window_unit(Pix2PixConfig(levels=levels)) for levels in (None, 4, 6, 8)] == [32, 32, 64, 256]
    with pytest.raises(InputError, match="want multiples of 64, .* --depth 0 translates all slices at once"):
        Windows(192, 96, 64, 64)
    assert Windows(192, 128, 64, 64).starts == [0, 64]
