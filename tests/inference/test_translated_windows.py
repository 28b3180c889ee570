"""Windows at inference: as in training, where norms and attention see all of a window."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hagan3d.checkpoint.files import Loaded
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.translate_files import make_translator
from hagan3d.methods.registry import make_translation_networks
from tests.helpers import make_config


def loaded(method, **settings):
    """A model for volumes of 96 slices, as loaded for inference."""
    shape = {"blocks": 1} if method == "unit" else {"levels": 2}
    config = make_config(method, size=(96, 32, 32), width=4, critic_width=4, critic_layers=1, **shape, **settings)
    networks = make_translation_networks(config).eval().requires_grad_(False)
    channel = Channel("ct", "window", -1000, 1000)
    affine = tuple(map(tuple, np.eye(4).tolist()))
    description = DataDescription((96, 32, 32), "RAS", "axial", affine, (channel,))
    return Loaded(networks, config, description, 1, Path("run/checkpoints/step-1.pt"))


def test_norms_over_space_translate_whole_volumes_only():
    model = loaded("pix2pix", norm="instance")
    x = torch.rand(1, 96, 32, 32) * 2 - 1
    translator = make_translator(model, None, 32)
    assert translator.windows(96).starts == [0]
    with torch.no_grad():
        torch.testing.assert_close(translator.whole(x).mean, model.networks.translate(x[None]).mean)
    assert make_translator(model, 96, 32).windows(96).starts == [0]
    with pytest.raises(InputError, match=r"--depth 64: .* norm instance or attention, whose statistics are others in"):
        make_translator(model, 64, 32)
    with pytest.raises(InputError, match="too little for this model; whole volumes need"):
        make_translator(model, None, 32, 10**6)


def test_other_norms_and_runs_on_windows_translate_by_windows():
    assert len(make_translator(loaded("pix2pix", norm="rms"), 64, 32).windows(96).starts) == 2
    unit = loaded("unit", norm="rms", paired=False)
    assert len(make_translator(unit, 64, 32).windows(96).starts) == 2


@pytest.mark.parametrize("depth", [8, 32])
def test_runs_on_windows_with_norms_over_space_translate_such_windows(depth: int):
    windowed = loaded("pix2pix", norm="instance", window="patch", subvolume_depth=depth)
    x = torch.rand(1, 96, 32, 32) * 2 - 1
    for chosen in (None, depth):
        translator = make_translator(windowed, chosen, 32)
        assert translator.windows(96).depth == depth and translator.windows(96).starts[:2] == [0, depth // 2]
    with torch.no_grad():
        first = windowed.networks.translate(x[None, :, :depth]).mean[0]
    torch.testing.assert_close(translator.whole(x).mean[0][:, : depth // 8], first[:, : depth // 8])
    for other in (64, 0):
        with pytest.raises(InputError, match=rf"trained on windows of {depth} slices .* use --depth {depth}"):
            make_translator(windowed, other, 32)
    with pytest.raises(InputError, match="too little for this model"):
        make_translator(windowed, None, 32, 10**5)
    assert make_translator(windowed, None, 32, 10**9).depth == depth


def test_attention_sees_all_of_a_window():
    model = loaded("unit", norm="rms", paired=False, attention="encoder")
    assert make_translator(model, None, 32).windows(96).starts == [0]
    with pytest.raises(InputError, match="norm instance or attention, whose statistics are others in windows of 64"):
        make_translator(model, 64, 32)
