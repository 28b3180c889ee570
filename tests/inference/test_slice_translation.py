"""Whole volumes translated by networks of slices: every slice as if alone, however many at a time."""

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.inference.memory import count_translation, slices_at_once
from hagan3d.inference.slice_translation import SliceTranslator
from hagan3d.methods.registry import make_translation_networks
from tests.helpers import make_config
from tests.methods.small import small_config

SIZE = (6, 32, 64)


def networks_of(size, context=1, method="upgan"):
    torch.manual_seed(0)
    config = small_config(method, size=size, slices="axial", context=context)
    networks = make_translation_networks(config).eval().requires_grad_(False)
    for name, value in networks.named_parameters():
        if "heads" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.2)
    return networks


@pytest.mark.parametrize("depth", [0, 1, 4, 100])
@pytest.mark.parametrize("axis", range(3))
def test_every_slice_is_translated_alone(axis, depth):
    shape = [32, 32, 64]
    shape[axis] = 6
    source = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows, columns = (side for other, side in enumerate(shape) if other != axis)
    networks = networks_of((1, rows, columns))
    result = SliceTranslator(networks, axis, depth=depth).whole(source)
    for name in ("mean", "alpha", "beta", "sigma"):
        made = getattr(result, name)
        assert made.shape == (1, 1, *shape)
        for number in range(6):
            alone = source.select(1 + axis, number)[None, :, None]
            expected = getattr(networks.translate(alone), name)[0, :, 0]
            torch.testing.assert_close(made[0].select(1 + axis, number), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 4, 0])
def test_neighbours_across_batches_and_faces(depth):
    source = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    networks = networks_of((1, *SIZE[1:]), context=3)
    result = SliceTranslator(networks, 0, 3, depth).whole(source).mean
    for number in range(6):
        shown = [number, max(number - 1, 0), min(number + 1, 5)]
        expected = networks.translate(source[:, shown].movedim(1, 0)[None, :, 0, None]).mean[0, :, 0]
        torch.testing.assert_close(result[0, :, number], expected, rtol=1e-4, atol=1e-5)


def test_label_maps_are_final():
    networks = networks_of((1, *SIZE[1:]), method="segan")
    result = SliceTranslator(networks, 0).whole(torch.rand(1, *SIZE) * 2 - 1).mean
    assert result.shape == (1, 1, *SIZE) and set(result.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_slices_are_read_once_with_their_neighbours():
    read = []
    source = torch.zeros(1, *SIZE)
    translator = SliceTranslator(networks_of((1, *SIZE[1:]), context=3), 0, 3, depth=2)

    def slab(first, stop):
        read.append((first, stop))
        return source[:, first:stop]

    assert [made.mean.shape[2] for made in translator.slabs(slab, 6)] == [2, 2, 2]
    assert read == [(0, 3), (1, 5), (3, 6)] and translator.windows(6).borders == []


def test_memory_determines_the_slices_at_a_time():
    config = make_config("upgan", size=(1, 64, 64), slices="axial", width=8, levels=2, critic_width=4, stages=2)
    one, eight = (count_translation(config, slices) for slices in (1, 8))
    assert 1.5 < eight / one < 8
    held = 10 * 4 * 20 * 64 * 64
    assert slices_at_once(config, (20, 64, 64), 0, held + eight) == 8
    assert slices_at_once(config, (20, 64, 64), 0, held + eight - 1) == 7
    assert slices_at_once(config, (20, 64, 64), 0, 10**12) == 20
    with pytest.raises(InputError, match="too little for this model; the minimum is"):
        slices_at_once(config, (20, 64, 64), 0, held)
