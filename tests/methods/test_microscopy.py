"""Phase contrast to DIC: mask, noise, a pair by heart, settings that are refused."""

from dataclasses import replace

import pytest
import torch

from hagan3d.errors import InputError
from hagan3d.methods.registry import make_networks
from tests.helpers import make_config
from tests.methods.small import make_updates, pair_batch, run_steps, small_config


def test_the_mask_is_where_an_image_deviates_from_its_mean():
    nets = make_networks(small_config("microscopy"))
    x = torch.zeros(2, 1, 16, 16, 16)
    x[0, :, :2], x[1, ..., 5:6] = -0.5, 0.1  # cells may be darker or brighter than their surroundings
    image, mask = nets.split(x)
    assert torch.equal(image, x) and torch.equal(mask > 0, x != 0)
    given = make_networks(small_config("microscopy", source_channels=2, cell_mask="channel"))
    image, mask = given.split(torch.cat([x, -x], 1))
    assert torch.equal(image, x) and torch.equal(mask, -x)


def test_noise_is_a_function_of_the_seed_and_absent_without_one():
    torch.manual_seed(0)
    nets, x = make_networks(small_config("microscopy", noise_channels=2)), pair_batch(2, 16).source
    with torch.no_grad():
        first, same, other = (nets.generate(x, seeds) for seeds in ([1, 2], [1, 2], [1, 3]))
        assert torch.equal(first, same) and torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
        plain = nets.translate(x).mean
        nets.dropout_seed = 1
        assert torch.equal(nets.translate(x).mean[:1], first[:1]) and not torch.equal(plain, first)
    noise = nets._noise(torch.zeros(1, 1, 32, 32, 32), [5])
    assert noise.shape == (1, 2, 32, 32, 32) and abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert not make_networks(small_config("microscopy", noise_channels=0)).has_dropout


@pytest.mark.slow
def test_learns_a_pair_by_heart():
    """DIC shows about the derivative of the phase along one direction."""
    config = small_config("microscopy", width=8, lr_g=4e-3, l1_weight=30.0, adversarial_weight=0.1)
    updates, batch = make_updates(config), pair_batch(2, 16)
    derivative = 2 * (batch.target.roll((1, 1), (3, 4)) - batch.target)
    batch = replace(batch, source=batch.target, target=derivative.clamp(-1, 1))

    def error():
        with torch.no_grad():
            return float((updates.networks.translate(batch.source).mean - batch.target).abs().mean())

    before = error()
    run_steps(updates, batch, 80)
    assert error() < before / 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the last channel of a source is the mask"),
        ({"source_channels": 2, "context": 3, "slices": "axial", "size": (1, 32, 32)}, "--data.context 1"),
    ],
)
def test_a_mask_that_has_no_channel_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_config("microscopy", cell_mask="channel", **settings)


def test_windows_have_another_mask_unless_it_is_given():
    kinds = [{"cell_mask": "contrast"}, {"cell_mask": "channel", "source_channels": 2}]
    assert [make_config("microscopy", norm="rms", **kind).method.is_global for kind in kinds] == [True, False]
    assert make_config("microscopy", norm="instance", **kinds[1]).method.is_global
