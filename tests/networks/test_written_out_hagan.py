"""The forward pass of every network of HA-GAN, written out in plain layers."""

import pytest
import torch
from torch.nn import functional as F

from hagan3d.methods.hagan.discriminator import HighDiscriminator, LowDiscriminator
from hagan3d.methods.hagan.encoder import GroundEncoder, HighEncoder
from hagan3d.methods.hagan.generator import CommonBlock, Generator, HighHead, LowHead
from hagan3d.networks.layers import VolumeOutput
from tests.networks.plain import conv, group, leaky, linear, normal, randomised, relu, rms, up_conv

assert_close = torch.testing.assert_close


def test_the_common_block_crops_sides_that_are_no_power_of_two():
    network, state = randomised(CommonBlock((8, 16, 20), 6, 3, 16, 8, "folded"))
    z, label = normal(2, 6), torch.tensor([2, 0])
    one_hot = torch.eye(3, dtype=torch.float64)[label]
    y = linear(torch.cat([z, one_hot], 1), state, "fc").view(2, 16, 1, 2, 3)
    for block, (d, h, w) in enumerate([(1, 2, 3), (2, 4, 5), (4, 8, 10), (8, 16, 20), (8, 16, 20)]):
        grow = up_conv if 1 <= block <= 3 else lambda *layer: conv(*layer, padding=1)
        y = relu(group(grow(y, state, f"blocks.{block}.conv"), state, f"blocks.{block}.norm"))[:, :, :d, :h, :w]
    assert_close(network(z, label), y)


def low_logits(a, state, name=""):
    for block in ("0", "1"):
        a = relu(group(conv(a, state, f"{name}{block}.conv", padding=1), state, f"{name}{block}.norm"))
    return conv(a, state, f"{name}2", padding=1)


def test_the_low_resolution_head():
    network, state = randomised(LowHead(16, VolumeOutput(1, 2)))
    a = normal(2, 16, 4, 6, 8)
    y = low_logits(a, state)
    assert_close(network(a), torch.cat([y[:, :1].tanh(), 2 * y[:, 1:].softmax(1) - 1], 1))


@pytest.mark.parametrize(("norm", "normalised"), [("rms", rms), ("group", group)])
@pytest.mark.parametrize(
    ("high_convs", "grows"),
    [(0, (True, True)), (1, (True, False, True, False)), (2, (True, False, False, True, False, False))],
)
def test_the_high_resolution_head(norm, normalised, high_convs, grows):
    network, state = randomised(HighHead(4, 32, norm, high_convs, "folded", VolumeOutput(1)))
    y = a = normal(1, 32, 3, 4, 5)
    names = [*(f"blocks.{block}" for block in range(len(grows) - 1)), "last"]
    for name, grow in zip(names, grows, strict=True):
        layer = name if name == "last" else f"{name}.conv"
        y = up_conv(y, state, layer) if grow else conv(y, state, layer, padding=1)
        y = y if name == "last" else relu(normalised(y, state, f"{name}.norm"))
    assert_close(network(a), y.tanh())


def test_an_output_skip_adds_the_logits_of_the_low_resolution_head():
    network, state = randomised(
        Generator((16, 16, 16), 8, latent_dim=4, channels=16, features=8, output_skip=True), seed=1
    )
    z, start = normal(1, 4), torch.tensor([4])
    a = network.common(z)
    low = low_logits(a, state, "low.")
    y = relu(rms(up_conv(a, state, "high.blocks.0.conv"), state, "high.blocks.0.norm"))
    added = low
    for _ in range(2):
        added = F.interpolate(added, scale_factor=2, mode="trilinear", align_corners=False)
    volume = (up_conv(y, state, "high.last") + added).tanh()
    assert_close(network.volume(z), volume)
    for found, expected in zip(network(z, start), (volume[:, :, 4:12], low.tanh()), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("spectral", [True, False])
def test_the_discriminator_of_sub_volumes_sees_their_position(spectral):
    network, state = randomised(
        HighDiscriminator((32, 32, 32), 8, volume_channels=2, outputs=3, channels=32, spectral=spectral)
    )
    y = x = normal(2, 2, 8, 32, 32)
    y = leaky(conv(y, state, "convs.0", 2, 1))  # 4 slices, which are halved without overlap
    for layer in (1, 2):
        y = leaky(conv(y, state, f"convs.{layer}", 2, (0, 1, 1)))
    y = leaky(conv(y, state, "convs.3")).flatten(1)
    assert y.shape == (2, 8)
    position = torch.tensor([[8 / 24], [24 / 24]], dtype=torch.float64)  # of 0 to 32 - 8
    hidden = leaky(linear(torch.cat([y, position], 1), state, "hidden"))
    logits, outputs = network(x, torch.tensor([8, 24]))
    assert_close(logits, linear(hidden, state, "logit")[:, 0])
    assert_close(outputs, linear(hidden, state, "classes"))


@pytest.mark.parametrize("spectral", [True, False])
def test_the_discriminator_of_low_resolution_sees_the_standard_deviation_of_its_group(spectral):
    network, state = randomised(LowDiscriminator((16, 16, 16), channels=32, outputs=2, spectral=spectral, group=2))
    y = x = normal(4, 1, 16, 16, 16)
    for layer in (0, 1):
        y = leaky(conv(y, state, f"convs.{layer}", 2, 1))
    deviations = [((rows - rows.mean(0)).square().mean(0) + 1e-8).sqrt().mean() for rows in (y[:2], y[2:])]
    channel = torch.stack(deviations).float().double().repeat_interleave(2).view(4, 1, 1, 1, 1).expand(4, 1, 4, 4, 4)
    expected = conv(torch.cat([y, channel], 1), state, "logits").flatten(1)
    logits, outputs = network(x)
    assert_close(logits, expected[:, 0], rtol=1e-6, atol=1e-6)  # the deviation is computed in float32
    assert_close(outputs, expected[:, 1:], rtol=1e-6, atol=1e-6)


def test_the_encoder_of_sub_volumes():
    network, state = randomised(HighEncoder(4, 16, volume_channels=2))
    y = x = normal(2, 2, 8, 12, 16)
    y = relu(group(conv(y, state, "0.0", 2, 1), state, "0.1"))
    y = relu(group(conv(y, state, "1.conv", padding=1), state, "1.norm"))
    assert_close(network(x), relu(group(conv(y, state, "2.0", 2, 1), state, "2.1")))


def test_the_encoder_of_sub_volumes_without_norm():
    network, state = randomised(HighEncoder(4, 16, volume_channels=2, norm="none"))
    y = x = normal(2, 2, 8, 12, 16)
    y = relu(conv(y, state, "0.0", 2, 1))
    y = relu(conv(y, state, "1.conv", padding=1))
    assert_close(network(x), relu(conv(y, state, "2.0", 2, 1)))


def test_the_encoder_of_the_feature_map_without_norm():
    network, state = randomised(GroundEncoder((8, 8, 8), 8, 5, norm="none"))
    a = normal(2, 8, 8, 8, 8)
    inputs = relu(conv(a, state, "blocks.0.0", 2, 1)).flatten(1)
    weight = state["last.weight"].flatten(1) / inputs.shape[1] ** 0.5
    assert_close(network(a), inputs @ weight.T + state["last.bias"])


def test_the_encoder_of_the_feature_map():
    network, state = randomised(GroundEncoder((16, 16, 8), 8, 5))
    y = a = normal(2, 8, 16, 16, 8)
    for block in (0, 1):
        y = relu(group(conv(y, state, f"blocks.{block}.0", 2, 1), state, f"blocks.{block}.1"))
    inputs = y.flatten(1)
    weight = state["last.weight"].flatten(1) / inputs.shape[1] ** 0.5  # equalized learning rate
    assert_close(network(a), inputs @ weight.T + state["last.bias"])
